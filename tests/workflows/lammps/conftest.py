from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from pymatgen.core import Lattice, Structure

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def run(tmp_path, monkeypatch) -> Callable[..., Any]:
    """Return ``run(maker, structure, prev_dir=None, resources=None, again=False)``.

    It runs the real job function in a folder of its own; with ``again`` in the last one.
    """
    count = 0

    def run(maker, structure, prev_dir=None, *, resources=None, again=False):
        nonlocal count
        count += not again
        folder = tmp_path / f"run {count}'s"
        folder.mkdir(exist_ok=again)
        if resources:  # as FireWorks leaves them for a job
            (folder / "FW.json").write_text(json.dumps({"spec": {"resources": resources}}))
        monkeypatch.chdir(folder)
        job = maker.make(structure, prev_dir)
        return type(maker).calculate.original(job.maker, *job.function_args)

    return run


@pytest.fixture
def silicon() -> Structure:
    """Primitive cell at the lattice constant of the Stillinger-Weber potential."""
    return Structure(Lattice([[0, 2.7155, 2.7155], [2.7155, 0, 2.7155], [2.7155, 2.7155, 0]]),
                     ["Si", "Si"], [[0, 0, 0], [0.25, 0.25, 0.25]])


@pytest.fixture
def copper() -> Structure:
    """Conventional cell."""
    return Structure(Lattice.cubic(3.615), ["Cu"] * 4,
                     [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
