from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from monty.json import MontyDecoder, MontyEncoder

from orionflow.errors import InputError
from orionflow.settings import Settings
from orionflow.workflows.lammps.potentials import (
    ForceField,
    as_force_field,
    entry_triplets,
    file_sha256,
    resolve,
    setfl_elements,
)
from orionflow.workflows.lammps.presets import PRESETS

SW = """# DATE: 2007-06-11 UNITS: metal CONTRIBUTOR: nobody
# a comment with Ge Ge Ge
Si Si Si 2.1683  2.0951  1.80  21.0  1.20  -0.333333333333
         7.049556277  0.6022245584  4.0  0.0 0.0
Ge Ge Ge 1 2 3 4 5 6 7 8 9 10 11  # one line
Si Ge Ge 1 2 3 4 5 6 7 8 9 10 11
"""
SETFL = "one UNITS: metal\ntwo\nthree\n    2  Ni  Cu\n10 0.1 10 0.1 5.0\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "SiGe.sw").write_text(SW)
    (tmp_path / "CuNi.eam.alloy").write_text(SETFL)
    (tmp_path / "real.sw").write_text(SW.replace("metal", "real"))
    return tmp_path


def sw(**changes) -> ForceField:
    fields = {"pair_style": "sw", "pair_coeff": "* * SiGe.sw {elements}", "files": "SiGe.sw",
              "name": "SiGe"}
    return ForceField(**{**fields, **changes})


def alloy() -> ForceField:
    return ForceField("eam/alloy", ("* * CuNi.eam.alloy {elements}",), files=("CuNi.eam.alloy",))


def test_types_follow_the_structure_not_the_file(folder):
    found = resolve(alloy(), ["Cu", "Ni", "Cu"], folder)

    assert found.types == ("Cu", "Ni")
    assert found.pair_coeff == ("* * CuNi.eam.alloy Cu Ni",)
    assert found.files == (folder / "CuNi.eam.alloy",)


def test_element_without_parameters_is_refused_and_named(folder):
    with pytest.raises(InputError, match=r"no parameters for Al; it holds Cu, Ni") as error:
        resolve(alloy(), ["Cu", "Al"], folder)

    assert "AlCu" in error.value.hint


def test_missing_triplet_is_refused_and_named(folder):
    assert resolve(sw(), ["Ge"], folder).types == ("Ge",)
    with pytest.raises(InputError, match="no parameters for Si Si Ge together"):
        resolve(sw(), ["Si", "Ge"], folder)


def test_accelerated_style_is_checked_as_its_plain_one(folder):
    with pytest.raises(InputError, match="no parameters for C;"):
        resolve(sw(pair_style="sw/omp"), ["C"], folder)


def test_explicit_types_keep_the_order_of_the_force_field(folder):
    argon = ForceField("lj/cut 8.5", ("1 1 0.0104 3.40", "2 2 0.014 3.65", "1 2 0.012 3.5"),
                       elements=("Ar", "Kr"))

    assert resolve(argon, ["Kr"], folder).types == ("Ar", "Kr")
    with pytest.raises(InputError, match="no parameters for Xe"):
        resolve(argon, ["Xe"], folder)


def test_style_whose_elements_nobody_names_is_refused(folder):
    with pytest.raises(InputError, match=r"can't be read for pair style 'lj/cut'"):
        resolve(ForceField("lj/cut 8.5", ("1 1 0.0104 3.40",)), ["Ar"], folder)


def test_charge_that_is_missing_is_refused(folder):
    salt = ForceField("coul/cut 8", ("* *",), elements=("Na", "Cl"), charges={"Na": 1.0})

    with pytest.raises(InputError, match="no charge for Cl"):
        resolve(salt, ["Na", "Cl"], folder)


def test_missing_file_names_similar_ones(folder):
    with pytest.raises(InputError, match=r"SiGe\.sv does not exist") as error:
        resolve(sw(files="SiGe.sv"), ["Si"], folder)

    assert "SiGe.sw" in error.value.hint


def test_file_given_by_path_is_named_without_it(folder, tmp_path_factory):
    path = str(folder / "SiGe.sw")
    field = sw(files=path, pair_coeff=f"* * {path} {{elements}}")

    assert resolve(field, ["Si"], Path("/nowhere")).pair_coeff == ("* * SiGe.sw Si",)


def test_file_in_other_units_is_refused(folder):
    with pytest.raises(InputError, match="'real' units"):
        resolve(sw(files="real.sw"), ["Si"], folder)


@pytest.mark.parametrize("text", ["", "a\nb\nc\n", "a\nb\nc\n3 Cu Ni\n", "a\nb\nc\nCu Ni\n"])
def test_file_that_is_no_setfl_is_refused(text, folder):
    with pytest.raises(InputError, match="not a setfl file"):
        setfl_elements(text, folder / "x")


def test_entries_cut_short_are_refused(folder):
    with pytest.raises(InputError, match="entries of 14 words"):
        entry_triplets(SW.replace("0.0 0.0\n", "\n", 1), 14, folder / "x")


def test_misspelt_preset_is_answered_with_the_right_one():
    with pytest.raises(InputError, match="no force field preset 'Cu_mishn'") as error:
        as_force_field("Cu_mishn")

    assert "did you mean 'Cu_mishin'?" in error.value.hint


def test_preset_is_found_by_its_file_name():
    assert as_force_field("Cu_mishin1.eam.alloy") == as_force_field("Cu_mishin")


@pytest.mark.parametrize(("value", "message"), [
    (None, "no force field given"), ("", "no force field given"),
    ({"pair_style": "sw"}, "has no pair_coeff"),
    ({"pair_style": "sw", "pair_coeff": "x", "file": "y"}, "unknown force field entry 'file'"),
    ({"pair_style": "sw", "pair_coeff": "* * a\nshell rm -r x"}, "more than one command"),
    ({"pair_style": "", "pair_coeff": "x"}, "needs pair_style"),
])
def test_wrong_force_field_is_refused(value, message):
    with pytest.raises(InputError, match=message):
        as_force_field(value)


def test_force_field_survives_the_database():
    field = sw(charges={"Si": 0.5})

    again = MontyDecoder().decode(MontyEncoder().encode(field))

    assert again == field
    assert isinstance(again, ForceField)
    assert as_force_field(field.as_dict()) == field


def test_hash_follows_the_content(folder):
    path = folder / "SiGe.sw"
    assert file_sha256(path) == hashlib.sha256(SW.encode()).hexdigest()

    path.write_text(SW + "# longer\n")

    assert file_sha256(path) == hashlib.sha256((SW + "# longer\n").encode()).hexdigest()


@pytest.mark.needs_code("lmp")
@pytest.mark.parametrize("name", PRESETS)
def test_preset_file_holds_the_elements_of_its_name(name):
    import re

    folder = Settings().potentials_dir
    elements = re.findall(r"[A-Z][a-z]?", re.split(r"[_.]", name)[0])

    assert resolve(as_force_field(name), elements, folder).types == tuple(elements)
    assert PRESETS[name].doi.startswith("10.")
