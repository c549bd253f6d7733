import re
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from orionflow.analysis.literature import EXPERIMENT, REFERENCES, reference

GPA = 160.2176634


def test_every_value_has_a_source_and_a_doi() -> None:
    for r in REFERENCES:
        assert re.search(r"\((19|20)\d\d\)$", r.source), r
        assert re.fullmatch(r"10\.\d{4}/\S+", r.doi), r
        assert r.note, r


def test_no_value_is_listed_twice() -> None:
    keys = [(r.formula, r.space_group, r.quantity, r.model) for r in REFERENCES]
    assert len(keys) == len(set(keys))


def test_stillinger_weber_values_follow_from_the_potential_itself() -> None:
    # In the diamond lattice the three-body term vanishes (cos theta = -1/3), so that the energy
    # of an atom is two bonds; parameters as printed by Stillinger and Weber (1985), epsilon as
    # in the LAMMPS file.
    eps, sigma, a, big_a, b = 2.1683, 2.0951, 1.80, 7.049556277, 0.6022245584

    def energy(d: float) -> float:
        r = d / sigma
        return 2 * eps * big_a * (b * r**-4 - 1) * np.exp(1 / (r - a))

    d0 = minimize_scalar(energy, bounds=(2.2, 2.5), method="bounded", options={"xatol": 1e-10}).x
    a0 = 4 * d0 / np.sqrt(3)
    h = 1e-3
    curvature = (energy(d0 + h) - 2 * energy(d0) + energy(d0 - h)) / h**2
    b0 = d0**2 * curvature / (9 * a0**3 / 8) * GPA
    assert reference("Si", "a0", model="Si.sw").value == pytest.approx(a0, abs=2e-4)
    assert reference("Si", "b0", model="Si.sw").value == pytest.approx(b0, rel=2e-3)


@pytest.mark.parametrize("r", [r for r in REFERENCES if "c11 = " in r.note],
                         ids=lambda r: f"{r.formula}-{r.model}")
def test_bulk_modulus_follows_from_the_elastic_constants_in_its_note(r: object) -> None:
    c11, c12 = (float(re.search(rf"{n} = ([\d.]+)", r.note)[1]) for n in ("c11", "c12"))
    assert r.value == pytest.approx((c11 + 2 * c12) / 3, abs=0.05)


def test_potential_without_a_published_value_is_compared_with_experiment() -> None:
    assert reference("Cu", "b0", model="Cu_u3.eam").model == EXPERIMENT


def test_other_phase_or_unknown_material_has_no_reference() -> None:
    assert reference("Si", "a0", space_group="Fd-3m") is not None
    assert reference("Si", "a0", space_group="Fm-3m") is None
    assert reference("NaCl", "a0") is None


@pytest.mark.needs_code("lmp")
def test_models_are_names_of_files_lammps_ships() -> None:
    folder = Path("/usr/share/lammps/potentials")
    for model in {r.model for r in REFERENCES} - {EXPERIMENT}:
        assert (folder / model).is_file()


def test_documentation_lists_every_value_with_its_source() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "analysis.md").read_text()
    for r in REFERENCES:
        assert f"{r.value:g}: [{r.source}](https://doi.org/{r.doi}), {r.note}" in page
