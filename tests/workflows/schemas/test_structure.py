import json
import subprocess
import sys

import pytest
from emmet.core.structure import StructureMetadata as EmmetMetadata
from monty.json import MontyDecoder, MontyEncoder
from pymatgen.core import Lattice, Structure

from orionflow.workflows.schemas.base import computed_entry
from orionflow.workflows.schemas.structure import (
    MOST_SITES,
    StructureMetadata,
    structure_metadata,
)
from orionflow.workflows.structures import read_structure


@pytest.mark.parametrize("name", ["Si diamond 5.43", "NaCl rocksalt 5.64", "Mg hcp 3.2 5.2",
                                  "CaF2 fluorite 5.46 cubic", "Fe bcc 2.87"])
def test_fields_and_json_are_those_of_emmet(name):
    structure = read_structure(name)
    ours = json.loads(StructureMetadata(**structure_metadata(structure)).model_dump_json())
    theirs = json.loads(EmmetMetadata.from_structure(structure).model_dump_json())
    assert ours == theirs


def test_metadata_read_back_is_the_same():
    one = StructureMetadata(**structure_metadata(read_structure("NaCl rocksalt 5.64")))
    assert StructureMetadata.model_validate_json(one.model_dump_json()) == one


def test_large_cell_has_no_symmetry():
    cell = Structure(Lattice.cubic(3), ["Cs"], [[0, 0, 0]])
    cell.make_supercell([MOST_SITES + 1, 1, 1])
    assert structure_metadata(cell)["symmetry"] is None


def test_entry_comes_back_as_an_entry():
    entry = computed_entry(read_structure("NaCl rocksalt 5.64"), -7.5, "u", {"functional": "pbe"})
    again = MontyDecoder().process_decoded(json.loads(json.dumps(entry, cls=MontyEncoder)))
    assert type(again) is type(entry)
    assert again.energy_per_atom == -3.75


@pytest.mark.parametrize("module", ["orionflow.workflows.schemas.qe",
                                    "orionflow.workflows.schemas.lammps"])
def test_documents_import_without_emmet(module):
    code = (f"import sys, {module}; "
            "print([m for m in ('emmet', 'atomate2', 'ase') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True,
                          text=True, check=True)
    assert done.stdout.strip() == "[]"
