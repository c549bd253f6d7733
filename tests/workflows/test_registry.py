import json
import subprocess
import sys
from pathlib import Path

import pytest

from orionflow.errors import InputError
from orionflow.workflows import registry
from orionflow.workflows.registry import get_recipe, make, recipe_names, recipes

PSEUDO = """<UPF version="2.0.1">
<PP_HEADER element="{element}" pseudo_type="NC" relativistic="no" has_so="false"
functional="SLA PZ NOGX NOGC" z_valence="{z}" wfc_cutoff="{wfc}" rho_cutoff="0"/>
</UPF>
"""


@pytest.fixture(autouse=True)
def pseudo_dir(tmp_path, monkeypatch):
    folder = tmp_path / "pseu do's"
    folder.mkdir()
    (folder / "Si.UPF").write_text(PSEUDO.format(element="Si", z="4.0", wfc="20.0"))
    (folder / "Al.UPF").write_text(PSEUDO.format(element="Al", z="3.0", wfc="0.0"))
    monkeypatch.setenv("ORIONFLOW_PSEUDO_DIR", str(folder))
    return folder


def test_importing_the_registry_is_light():
    heavy = ("atomate2", "emmet", "pymatgen", "jobflow", "ase", "pydantic", "scipy")
    code = ("import sys, orionflow.workflows.registry as r; r.recipe_names(); r.recipes(); "
            f"print([m for m in {heavy} if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_are_the_published_ones():
    assert {"qe.static", "qe.relax", "qe.vc_relax", "qe.eos", "lammps.static", "lammps.minimize",
            "lammps.nvt", "lammps.npt", "lammps.nve", "lammps.eos"} <= set(recipe_names())


@pytest.mark.parametrize("recipe", recipes(), ids=lambda r: r.name)
def test_recipe_loads_and_describes_each_parameter(recipe):
    assert recipe.summary
    for name, parameter in recipe.parameters().items():
        assert parameter.description, f"{recipe.name}: {name} has no description"
    properties = recipe.schema()["properties"]
    assert set(properties) == set(recipe.parameters())
    json.dumps(recipe.schema())


@pytest.mark.parametrize("name", [n for n in recipe_names() if n.startswith("qe.")])
def test_reference_page_shows_every_parameter_with_its_default(name):
    page = (Path(__file__).parents[2] / "docs" / "reference" / "recipes-qe.md").read_text()
    assert f"`{name}`" in page
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for parameter in get_recipe(name).parameters().values():
        row = next((r for r in rows if f"`{parameter.name}`" in r.split("|")[1]), None)
        assert row, f"{parameter.name} is not on the page"
        if isinstance(parameter.default, float) and parameter.name != "degauss":
            shown = row.split("|")[2].strip()
            assert float(shown) == parameter.default, parameter.name


def test_unknown_recipe_lists_the_known_and_the_nearest():
    with pytest.raises(InputError, match=r"no recipe 'qe\.sttic'") as caught:
        get_recipe("qe.sttic")
    assert "did you mean 'qe.static'?" in caught.value.hint
    for name in recipe_names():
        assert name in caught.value.hint


@pytest.mark.parametrize("name", ["qe.static", "qe.eos"])
def test_unknown_parameter_lists_the_known_and_the_nearest(name):
    with pytest.raises(InputError, match=f"recipe {name} has no parameter 'ecutwfcs'") as caught:
        make(name, "Si diamond 5.43", {"ecutwfcs": 30})
    assert "did you mean 'ecutwfc'?" in caught.value.hint
    assert "k_spacing" in caught.value.hint


def test_internal_fields_are_no_parameters():
    assert "pseudo_hashes" not in get_recipe("qe.static").parameters()
    assert "static_maker" not in get_recipe("qe.eos").parameters()


@pytest.mark.parametrize(("parameters", "problem"), [
    ({"ecutwfc": "30"}, 'ecutwfc = "30"'),
    ({"ecutwfc": True}, "ecutwfc = true"),
    ({"ecutwfc": float("nan")}, "finite"),
    ({"kpoints": [4, 4]}, "kpoints"),
    ({"kpoints": [4, 4, 4.5]}, "kpoints"),
    ({"kpoints": "4 4 4"}, "kpoints"),
    ({"occupations": "metal"}, "'smearing', 'fixed'"),
    ({"pseudos": ["Si.UPF"]}, "pseudos"),
    ({"overrides": {"system": 3}}, "overrides"),
    ({"keep_wavefunctions": 1}, "keep_wavefunctions"),
    ({"name": Path("x")}, "parameters of qe.static"),
])
def test_wrong_type_is_refused_with_the_right_one(parameters, problem):
    with pytest.raises(InputError, match=problem) as caught:
        get_recipe("qe.static").check(parameters)
    assert caught.value.hint


def test_json_lists_become_tuples_and_whole_numbers_floats():
    checked = get_recipe("qe.eos").check({"kpoints": [4, 4, 4], "ecutwfc": 30,
                                          "linear_strain": [-0.02, 0.02]})
    assert checked == {"kpoints": (4, 4, 4), "ecutwfc": 30.0, "linear_strain": (-0.02, 0.02)}
    assert isinstance(checked["ecutwfc"], float)


def test_job_carries_all_choices_made_at_submission(pseudo_dir):
    job = make("qe.static", "Si diamond 5.43", {"functional": "lda", "k_spacing": 0.4})
    maker = job.maker
    assert maker.pseudos == {"Si": "Si.UPF"}
    assert len(maker.pseudo_hashes["Si"]) == 64
    assert (maker.ecutwfc, maker.ecutrho) == (20, 80)
    # 2π sqrt(3)/5.43 = 2.004 1/Å
    assert maker.kpoints == (6, 6, 6)
    assert maker.cutoff_source == {"Si": "header of Si.UPF"}


def test_eos_freezes_grid_files_and_cutoffs_before_straining():
    flow = make("qe.eos", "Si diamond 5.43", {"functional": "pz", "k_spacing": 0.4,
                                              "number_of_frames": 7, "name": "mine"})
    makers = [job.maker for job, _ in flow.iterflow()
              if type(job.maker).__name__ == "StaticMaker"]
    assert len(makers) == 7
    assert {(m.kpoints, m.ecutwfc, m.pseudos["Si"]) for m in makers} == {
        ((6, 6, 6), 20.0, "Si.UPF")}
    assert flow.name == "mine"


@pytest.mark.parametrize(("structure", "parameters", "problem", "hint"), [
    ("Al fcc 4.0", {}, "no pbe pseudopotential for Al", "functional"),
    ("Ge diamond 5.6", {"functional": "pz"}, "no pz pseudopotential for Ge", "pseudo_dir"),
    ("Al fcc 4.0", {"functional": "pz"}, "no cutoff is known for Al.UPF", "ecutwfc"),
    ("Al fcc 4.0", {"functional": "pz", "ecutwfc": 20, "occupations": "fixed"}, "3 electrons",
     "smearing"),
    ("Si diamond 5.43", {"functional": "pz", "pseudos": {"Si": "nope.UPF"}}, "'nope.UPF'",
     "pseudo_dir"),
    ("Si diamond 5.43", {"functional": "pz", "ecutwfc": -20}, "ecutwfc = -20", "> 0"),
    ("Si diamond 5.43", {"functional": "pz", "degauss": 0}, "degauss = 0", "> 0"),
    ("Si diamond 5.43", {"functional": "pz", "kpoints": [0, 4, 4]}, "kpoints", "(4, 4, 4)"),
    ("Si diamond 5.43", {"functional": "pz", "k_shift": [2, 0, 0]}, "k_shift", "(0, 0, 0)"),
    ("Si diamond 5.43", {"functional": "pz", "magmoms": {"Fe": 2}}, "magmoms are for Fe",
     "magmoms"),
    ("Si diamond 5.43", {"functional": "pz", "magmoms": {"Si": 1}, "occupations": "fixed"},
     "tot_magnetization", "smearing"),
    ("Si diamond 1.1", {"functional": "pz"}, "apart", "0.5 Å"),
    ("nowhere.cif", {}, "nowhere.cif", "prototype"),
])
@pytest.mark.parametrize("name", ["qe.static", "qe.eos"])
def test_bad_request_is_refused_before_submission(name, structure, parameters, problem, hint):
    with pytest.raises(InputError, match=problem) as caught:
        make(name, structure, parameters)
    assert hint in caught.value.hint


def test_unreadable_cif_is_refused_by_name(tmp_path):
    (tmp_path / "broken.cif").write_text("data_x\nloop_\n")
    with pytest.raises(InputError, match=r"broken\.cif.*not readable as cif"):
        make("qe.static", tmp_path / "broken.cif", {"functional": "pz"})


def test_descriptions_come_from_the_bases_too():
    parameters = registry.get_recipe("qe.vc_relax").parameters()
    assert "eV/Å" in parameters["force_threshold"].description
    assert "Ry" in parameters["ecutwfc"].description
    assert "kbar" in parameters["pressure"].description
    assert parameters["ecutwfc"].type == "float | None"
    assert parameters["force_threshold"].default == 0.01
