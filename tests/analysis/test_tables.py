"""Tables of a campaign that really ran; numbers are checked against published ones."""

import json
from pathlib import Path

import numpy as np
import pytest

from orionflow.analysis import tables
from orionflow.analysis.figures import plot_deviation, plot_eos
from orionflow.analysis.physics.eos import birch_murnaghan
from orionflow.errors import ConfigError

pytestmark = [pytest.mark.needs_mongod, pytest.mark.needs_code("pw.x", "lmp")]


def test_every_finished_run_is_a_row_with_its_place_and_time(finished_campaign: Path) -> None:
    found = tables.results(campaign="small", project=finished_campaign)
    # Relaxed start and five strained cells by LAMMPS, one by pw.x; the failed one has no result.
    assert found["code"].value_counts().to_dict() == {"lmp": 6, "pw.x": 1}
    assert (found["formula"] == "Si").all()
    assert (found["core_seconds"] > 0).all()
    assert found["converged"].all()
    assert found["fw_id"].is_unique
    assert set(found["model"]) == {"Si.sw", "pz"}
    for name in found["dir_name"]:
        assert Path(name.split(":", 1)[1]).is_dir()


def test_units_are_those_of_the_column_names(finished_campaign: Path) -> None:
    found = tables.results(project=finished_campaign, code="lmp")
    # Stillinger-Weber silicon is bound by 4.3366 eV an atom (Phys. Rev. B 31, 5262, fitted to it).
    assert found["energy_per_atom_ev"].min() == pytest.approx(-4.3366, abs=1e-3)
    assert found["energy_ev"].to_numpy() == pytest.approx(
        found["energy_per_atom_ev"].to_numpy() * found["atoms"].to_numpy())
    # -dP/dlnV = B: the two outer cells differ by 6 % in volume; 1 kbar is 0.1 GPa.
    outer = found.sort_values("volume_a3").iloc[[0, -1]]
    pressure, volume = outer["pressure_kbar"].to_numpy(), outer["volume_a3"].to_numpy()
    assert 0.1 * (pressure[0] - pressure[1]) / np.log(volume[1] / volume[0]) == pytest.approx(
        101.4, rel=0.03)


def test_corrections_are_counted(finished_campaign: Path) -> None:
    found = tables.results(campaign="small", project=finished_campaign)
    assert found.set_index("code")["corrections"].groupby("code").sum().to_dict() == {
        "lmp": 0, "pw.x": 1}


def test_query_and_limit_narrow_the_rows(finished_campaign: Path) -> None:
    where = {"project": finished_campaign}
    assert len(tables.results({"output.nsites": {"$gt": 100}}, **where)) == 0
    assert len(tables.results(formula="Cu", **where)) == 0
    assert len(tables.results(campaign="other", **where)) == 0
    assert len(tables.results(limit=2, **where)) == 2


def test_no_result_is_an_empty_table_with_all_columns(project: Path) -> None:
    for table, columns in ((tables.results(), tables.RESULT_COLUMNS),
                           (tables.campaign_table("none"), tables.TABLE_COLUMNS),
                           (tables.jobs(), tables.JOB_COLUMNS),
                           (tables.campaigns(), tables.CAMPAIGN_COLUMNS)):
        assert table.empty
        assert list(table.columns) == list(columns)


def test_campaign_table_puts_the_published_value_beside_ours(finished_campaign: Path) -> None:
    found = tables.campaign_table("small", project=finished_campaign)
    eos = found[found["code"] == "lmp"].iloc[0]
    assert eos["a0_angstrom"] == pytest.approx(5.431, abs=1e-3)
    assert eos["b0_gpa"] == pytest.approx(101.4, rel=0.01)
    assert (eos["a0_reference"], eos["b0_reference"]) == (5.431, 101.4)
    assert "10.1103/PhysRevLett.60.2379" in eos["b0_source"]
    static = found[found["code"] == "pw.x"].iloc[0]
    assert np.isnan(static["a0_angstrom"])
    assert static["points"] == 1


def test_points_of_an_eos_have_no_row_of_their_own(finished_campaign: Path) -> None:
    runs = tables.results(campaign="small", project=finished_campaign)
    found = tables.campaign_table("small", project=finished_campaign)
    assert len(found) == 2
    assert list(found["points"]) == [5, 1]  # seven runs: the relaxation is no point
    assert found["core_seconds"].sum() == pytest.approx(runs["core_seconds"].sum())


def test_jobs_have_states_places_and_errors(finished_campaign: Path) -> None:
    found = tables.jobs(campaign="small", project=finished_campaign)
    assert list(found["fw_id"]) == sorted(found["fw_id"])
    (failed,) = found[found["state"] == "FIZZLED"].to_dict("records")
    assert "LAMMPS" in failed["error"]
    assert Path(failed["folder"]).is_dir()
    completed = tables.jobs(state="COMPLETED", project=finished_campaign)
    assert len(completed) == len(found) - 1
    assert completed["error"].isna().all()
    assert (completed["seconds"] > 0).all()


def test_campaigns_are_counted_by_state(finished_campaign: Path) -> None:
    found = tables.campaigns(project=finished_campaign)
    assert found.loc[0, ["campaign", "fizzled", "ready", "waiting"]].to_list() == ["small", 1, 0, 0]
    assert found.loc[0, "jobs"] == found.loc[0, "completed"] + 1


def test_stored_fit_is_the_fit_of_the_stored_points(finished_campaign: Path) -> None:
    (curve,) = tables.eos_curves("small", project=finished_campaign)
    again = birch_murnaghan(curve.volume, curve.energy)
    assert curve.fit.b0 == pytest.approx(again.b0, rel=1e-9)
    assert curve.reference_volume == pytest.approx(5.431**3 / 8, rel=1e-6)


def test_figures_can_be_drawn_from_the_tables(finished_campaign: Path, tmp_path: Path) -> None:
    plot_eos(tables.eos_curves("small", project=finished_campaign), tmp_path / "e.png")
    plot_deviation(tables.campaign_table("small", project=finished_campaign), tmp_path / "d.png")
    assert (tmp_path / "e.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "d.png").read_bytes()[:4] == b"\x89PNG"


def test_tables_survive_csv_and_json(finished_campaign: Path) -> None:
    found = tables.results(campaign="small", project=finished_campaign)
    assert len(json.loads(found.to_json(orient="records"))) == len(found)
    assert found.to_csv(index=False).count("\n") == len(found) + 1


def test_without_a_project_the_way_out_is_named(tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no orionflow project"):
        tables.results()
