"""Notebooks run from top to bottom on a real campaign and are stored without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def test_there_is_a_notebook() -> None:
    assert "first_campaign.ipynb" in {n.name for n in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_stored_notebook_is_valid_and_holds_no_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def executed(name: str, folder: Path) -> str:
    """Run a notebook in a folder; it must draw two figures. Return what it prints."""
    (path,) = [n for n in NOTEBOOKS if n.name == name]
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3",
                   resources={"metadata": {"path": str(folder)}}).execute()  # raises on an error
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 2
    return "".join(o.get("text", "") for o in outputs)


@pytest.mark.needs_mongod
@pytest.mark.needs_code("pw.x", "lmp")
def test_first_campaign_runs_and_draws_its_figures(finished_campaign: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORIONFLOW_PROJECT", str(finished_campaign))
    text = executed("first_campaign.ipynb", finished_campaign)
    assert "electron_maxstep: 3 ->" in text
    assert "doi:10.1103/PhysRevB.31.5262" in text


@pytest.mark.needs_mongod
@pytest.mark.needs_code("lmp")
def test_alloy_campaign_runs_to_its_target(project: Path) -> None:
    assert "COMPLETED - target_reached" in executed("alloy_campaign.ipynb", project)
