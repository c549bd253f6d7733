import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from pymatgen.core import Lattice, Structure

from orionflow.errors import InputError
from orionflow.workflows.structures import check_structure, read_structure, structure_hash

CIF = """data_Si
_cell_length_a   5.43
_cell_length_b   5.43
_cell_length_c   5.43
_cell_angle_alpha   90
_cell_angle_beta   90
_cell_angle_gamma   90
_symmetry_space_group_name_H-M   'F d -3 m'
_symmetry_Int_Tables_number   227
loop_
 _atom_site_label
 _atom_site_type_symbol
 _atom_site_fract_x
 _atom_site_fract_y
 _atom_site_fract_z
 _atom_site_occupancy
 Si1 Si 0.0 0.0 0.0 {occupancy}
"""
POSCAR = """NaCl
1.0
0 2.82 2.82
2.82 0 2.82
2.82 2.82 0
Na Cl
1 1
Direct
0 0 0
0.5 0.5 0.5
"""
XYZ = """2
Lattice="3.2 0 0 0 3.2 0 0 0 3.2" Properties=species:S:1:pos:R:3 pbc="T T T"
Cs 0 0 0
Cl 1.6 1.6 1.6
"""


def bond(structure):
    return structure.get_neighbor_list(4.0)[3].min()


@pytest.mark.parametrize(("name", "formula", "volume", "shortest"), [
    # Volumes and bond lengths of the prototypes from their geometry.
    ("Si diamond 5.43", "Si2", 5.43**3 / 4, 5.43 * math.sqrt(3) / 4),
    ("Cu fcc 3.6 cubic", "Cu4", 3.6**3, 3.6 / math.sqrt(2)),
    ("Fe bcc 2.87", "Fe1", 2.87**3 / 2, 2.87 * math.sqrt(3) / 2),
    ("NaCl rocksalt 5.64", "Na1 Cl1", 5.64**3 / 4, 2.82),
    ("GaAs zincblende 5.65", "Ga1 As1", 5.65**3 / 4, 5.65 * math.sqrt(3) / 4),
    ("Mg hcp 3.2 5.2", "Mg2", 3.2**2 * 5.2 * math.sqrt(3) / 2,
     math.sqrt(3.2**2 / 3 + 2.6**2)),
])
def test_prototype_has_its_geometry(name, formula, volume, shortest):
    structure = read_structure(name)
    assert structure.formula == formula
    assert structure.volume == pytest.approx(volume)
    assert bond(structure) == pytest.approx(shortest)


@pytest.mark.parametrize(("file", "text", "formula", "volume"), [
    ("si.cif", CIF.format(occupancy=1.0), "Si8", 5.43**3),
    ("POSCAR", POSCAR, "Na1 Cl1", 2 * 2.82**3),
    ("CONTCAR.relaxed", POSCAR, "Na1 Cl1", 2 * 2.82**3),
    ("a b's.vasp", POSCAR, "Na1 Cl1", 2 * 2.82**3),
    ("cscl.xyz", XYZ, "Cs1 Cl1", 3.2**3),
])
def test_file_is_read(tmp_path, file, text, formula, volume):
    (tmp_path / file).write_text(text)
    for source in (tmp_path / file, str(tmp_path / file)):
        structure = read_structure(source)
        assert structure.formula == formula
        assert structure.volume == pytest.approx(volume)


def test_objects_and_json_are_taken(tmp_path):
    silicon = read_structure("Si diamond 5.43")
    silicon.to_file(str(tmp_path / "si.json"))
    hashes = {structure_hash(read_structure(s)) for s in (
        silicon, bulk("Si", "diamond", a=5.43), tmp_path / "si.json")}
    assert len(hashes) == 1


def test_oxidation_states_are_dropped():
    salt = Structure(Lattice.cubic(3), ["Na+", "Cl-"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert [str(s.specie) for s in read_structure(salt)] == ["Na", "Cl"]
    assert [str(s.specie) for s in salt] == ["Na+", "Cl-"]


@pytest.mark.parametrize(("file", "text", "problem"), [
    ("bad.cif", "this is no CIF", "not readable as cif"),
    ("cut.cif", CIF[:200], "not readable as cif"),
    ("alloy.cif", CIF.format(occupancy=0.5), "partially occupied"),
    ("POSCAR", POSCAR[:40], "not readable as poscar"),
    ("POSCAR", POSCAR.replace("Na Cl\n", ""), "cannot be determined"),
    ("POSCAR", POSCAR.replace("Cl", "Qq"), "Qq"),
    ("plain.xyz", "1\nno lattice\nSi 0 0 0\n", "no lattice"),
    ("two.xyz", XYZ + XYZ, "holds 2 frames"),
    ("unknown.xyz", XYZ.replace("Cs", "Qq"), "not readable as xyz"),
    ("list.json", "[1]", "does not hold"),
    ("bad.json", "{", "not readable as json"),
    ("foo.dat", "x", "kind of file"),
])
def test_bad_file_is_refused_by_name(tmp_path, file, text, problem):
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=problem) as caught:
        read_structure(tmp_path / file)
    assert file in caught.value.message
    assert caught.value.hint


def test_binary_file_is_refused(tmp_path):
    (tmp_path / "x.cif").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match="can't be read"):
        read_structure(tmp_path / "x.cif")


@pytest.mark.parametrize(("source", "problem", "hint"), [
    ("missing.cif", "no structure file", "prototype"),
    ("Si", "no structure file", "Si diamond 5.43"),
    ("Si diamnd 5.43", "unknown prototype 'diamnd'", "diamond"),
    ("Si diamond", "lattice constant", "a in Å"),
    ("Si diamond x", "could not convert", "a in Å"),
    ("Si diamond -5", "wrong lattice", "a in Å"),
    ("Si diamond 5 5", "wrong lattice", "a in Å"),
    ("Xx diamond 5", "'Xx' is not an element", "periodic table"),
    ("silicon diamond 5", "not an element", "periodic table"),
    ("Si rocksalt 5", "rocksalt", "a in Å"),
])
def test_bad_name_is_refused_with_the_fix(source, problem, hint):
    with pytest.raises(InputError, match=problem) as caught:
        read_structure(source)
    assert hint in caught.value.hint


@pytest.mark.parametrize("position", [[0.99, 0, 0], [0.01, 0, 0], [0, 0, 1.0]])
def test_overlapping_atoms_are_refused_across_the_boundary(position):
    cell = Structure(Lattice.cubic(4), ["Si", "Ge"], [[0, 0, 0], position])
    with pytest.raises(InputError, match=r"atoms 1 \(Si\) and 2 \(Ge\)") as caught:
        check_structure(cell, "mine.cif")
    assert "mine.cif" in caught.value.message
    assert "0.5 Å" in caught.value.hint


def test_atom_on_its_own_image_is_refused():
    cell = Structure(Lattice.orthorhombic(0.45, 8, 8), ["H"], [[0, 0, 0]])
    with pytest.raises(InputError, match="volume"):
        check_structure(cell)
    skewed = Structure(Lattice([[5, 0, 0], [5, 0.4, 0], [0, 0, 5]]), ["H"], [[0, 0, 0]])
    with pytest.raises(InputError, match=r"atoms 1 \(H\) and 1 \(H\)"):
        check_structure(skewed)


def test_shortest_real_bond_passes():
    h2 = molecule("H2", vacuum=4.0)
    h2.pbc = True
    assert len(read_structure(h2)) == 2


@pytest.mark.parametrize(("structure", "problem"), [
    (Structure(Lattice.cubic(3), [], []), "no atoms"),
    (Structure(Lattice.cubic(3), ["X"], [[0, 0, 0]]), "not a valid Element"),
    (Structure(Lattice.cubic(3), ["Si"], [[0, 0, math.nan]]), "finite"),
    (Structure(Lattice([[3, 0, 0], [0, 3, 0], [3, 3, 0]]), ["Si"], [[0, 0, 0]]), "volume"),
    (Structure(Lattice.cubic(3), [{"Si": 0.5, "Ge": 0.5}], [[0, 0, 0]]), "partially"),
    (Atoms("Si"), "no lattice"),
    (42, "not a structure"),
])
def test_impossible_object_is_refused(structure, problem):
    with pytest.raises(InputError, match=problem):
        read_structure(structure)


def test_hash_ignores_order_lattice_translations_and_rounding():
    one = Structure(Lattice.cubic(4), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    two = Structure(Lattice.cubic(4), ["Cl", "Cs"], [[0.5, 1.5, -0.5], [1.0, 0, -1e-9]])
    assert structure_hash(one) == structure_hash(two)
    assert structure_hash(one) == structure_hash(Structure.from_dict(one.as_dict()))


@pytest.mark.parametrize("change", [
    lambda s: s.replace(0, "K"),
    lambda s: s.translate_sites([0], [0.001, 0, 0]),
    lambda s: s.apply_strain(1e-4),
    lambda s: s.add_site_property("magmom", [1.0, 0.0]),
    lambda s: s.make_supercell([2, 1, 1]),
])
def test_hash_sees_every_change(change):
    one = Structure(Lattice.cubic(4), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    other = one.copy()
    change(other)
    assert structure_hash(one) != structure_hash(other)


def test_hash_is_stable_between_releases():
    # Stored in documents. Computed by hand from the definition in the docstring.
    import hashlib

    cell = Structure(Lattice.cubic(4), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    text = ('{"lattice":[[4.0,0.0,0.0],[0.0,4.0,0.0],[0.0,0.0,4.0]],'
            '"sites":[["Cl",0.5,0.5,0.5],["Cs",0.0,0.0,0.0]]}')
    assert structure_hash(cell) == hashlib.sha256(text.encode()).hexdigest()


def test_reading_does_not_change_the_object():
    cell = Structure(Lattice.cubic(4), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    before = cell.as_dict()
    read_structure(cell)
    assert cell.as_dict() == before
    assert np.isfinite(cell.frac_coords).all()


def test_random_alloy_has_its_atoms_on_lattice_sites_and_differs_little_between_neighbours():
    alloy = read_structure("Cu24Ni8 fcc 3.57 random 7")
    assert alloy.composition.get_el_amt_dict() == {"Cu": 24, "Ni": 8}
    assert alloy.lattice.abc == pytest.approx((7.14, 7.14, 7.14))
    assert min(alloy.get_neighbor_list(3.0)[3]) == pytest.approx(3.57 / math.sqrt(2))
    again, other = (read_structure(f"Cu24Ni8 fcc 3.57 random {seed}") for seed in (7, 8))
    symbols = [[s.specie.symbol for s in x] for x in (alloy, again, other)]
    assert symbols[0] == symbols[1] != symbols[2]
    next_one = [s.specie.symbol for s in read_structure("Cu23Ni9 fcc 3.57 random 7")]
    assert sum(a != b for a, b in zip(symbols[0], next_one, strict=True)) == 1
    assert len(read_structure("Ni2 bcc 2.8 random")) == 2
    assert read_structure("Si7Ge diamond 5.5 random").composition.get_el_amt_dict() == {
        "Si": 7, "Ge": 1}


@pytest.mark.parametrize(("text", "message"), [
    ("Cu24Ni7 fcc 3.57 random", "31 atoms fill no whole number"),
    ("Cu2Ni2 hcp 2.5 random", "'hcp' is not known"),
    ("Cu2Ni2 fcc random 3.57", "could not convert"),
    ("Cu2Ni2 fcc 3.57 random x", "invalid literal"),
    ("Cu2Ni2 fcc 3.57 random -1", "no random alloy"),
    ("Cu2Xx2 fcc 3.57 random", "is not an element"),
    ("Cu900000000000 fcc 3.57 random", "more than 1000000 atoms"),
    ("Cu900000000000 fcc 3.57", "more than 1000000 atoms"),
    ("Cu hcp 2.5 1000000000", "Å long"),
])
def test_impossible_random_alloy_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        read_structure(text)
