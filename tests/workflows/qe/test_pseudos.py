import re
from pathlib import Path

import pytest

from orionflow.errors import InputError
from orionflow.workflows.qe.pseudos import choose_cutoffs, choose_pseudos, cutoff_table
from orionflow.workflows.qe.upf import functional_name, read_folder, read_pseudo

V2 = """<UPF version="2.0.1">
<PP_INFO>
The Pseudo was generated with a Scalar-Relativistic Calculation
</PP_INFO>
<PP_HEADER
generated="by hand" author="" comment="" element="{element}" pseudo_type="{kind}"
relativistic="{relativistic}" is_ultrasoft="{us}" is_paw="{paw}" is_coulomb="F" has_so="{so}"
functional="{functional}" z_valence="{z}" wfc_cutoff="{wfc}" rho_cutoff="{rho}" l_max="1"/>
<PP_MESH></PP_MESH>
</UPF>
"""
# The layout of version 1, as in the files of the QE distribution.
V1 = """<PP_INFO>
The Pseudo was generated with a {how} Calculation
</PP_INFO>
<PP_HEADER>
   0                   Version Number
  {element}                   Element
   {kind}                  {kind} pseudopotential
    F                  Nonlinear Core Correction
 {functional}      Exchange-Correlation functional
    {z}      Z valence
    -5.34834000000      Total energy
    {wfc}  {rho}     Suggested cutoff for wfc and rho
    1                  Max angular momentum component
  461                  Number of points in mesh
    3    2             Number of Wavefunctions, Number of Projectors
</PP_HEADER>
"""


def v2(folder, name, **fields):
    defaults = {"element": "Si", "kind": "NC", "relativistic": "scalar", "us": "F", "paw": "F",
                "so": "F", "functional": "PBE", "z": "4.0", "wfc": "0.0", "rho": "0.0"}
    (folder / name).write_text(V2.format(**defaults | fields))
    return folder / name


def v1(folder, name, **fields):
    defaults = {"element": "C", "kind": "NC", "functional": "SLA  PZ   NOGX NOGC   PZ  ",
                "z": "4.00000000000", "wfc": "0.0000000", "rho": "0.0000000",
                "how": "Scalar-Relativistic"}
    (folder / name).write_text(V1.format(**defaults | fields))
    return folder / name


def test_header_of_version_2_is_read(tmp_path):
    pseudo = read_pseudo(v2(tmp_path, "a.UPF", element=" B", kind="PAW", us="T", paw="T",
                            functional=" SLA  PW   PBX  PBC", z="3.00E0", wfc="4.26E1",
                            rho="3.245e2"))
    assert (pseudo.element, pseudo.functional, pseudo.kind) == ("B", "pbe", "PAW")
    assert (pseudo.z_valence, pseudo.ecutwfc, pseudo.ecutrho) == (3.0, 42.6, 324.5)
    assert not pseudo.spin_orbit


def test_header_of_version_1_is_read_with_both_cutoffs(tmp_path):
    pseudo = read_pseudo(v1(tmp_path, "a.UPF", kind="US", wfc="27.4760000", rho="227.9280000",
                            functional="SLA  PW   PBX  PBC    PBE"))
    assert (pseudo.element, pseudo.functional, pseudo.kind) == ("C", "pbe", "US")
    assert (pseudo.ecutwfc, pseudo.ecutrho) == (27.476, 227.928)


@pytest.mark.parametrize("write", [
    lambda folder: v1(folder, "a.UPF", how="Fully-Relativistic"),
    lambda folder: v2(folder, "a.UPF", relativistic="full", so="T"),
])
def test_spin_orbit_file_is_recognised(tmp_path, write):
    assert read_pseudo(write(tmp_path)).spin_orbit


def test_header_zero_means_unknown(tmp_path):
    pseudo = read_pseudo(v2(tmp_path, "a.UPF"))
    assert pseudo.ecutwfc is None
    assert pseudo.ecutrho is None


@pytest.mark.parametrize("text", ["", "#!/bin/sh\necho PP_HEADER\n", "<UPF version='2.0.1'>"])
def test_other_file_is_refused_by_name_and_passed_over_in_a_folder(tmp_path, text):
    (tmp_path / "other").write_text(text)
    v2(tmp_path, "Si.UPF")
    with pytest.raises(InputError, match="other"):
        read_pseudo(tmp_path / "other")
    assert [p.name for p in read_folder(tmp_path)] == ["Si.UPF"]


def test_missing_folder_names_the_setting(tmp_path):
    with pytest.raises(InputError, match="nowhere") as caught:
        choose_pseudos(tmp_path / "nowhere", ["Si"], "pbe")
    assert "pseudo_dir" in caught.value.hint


@pytest.mark.parametrize(("header", "name"), [
    (" SLA  PZ   NOGX NOGC", "pz"), ("LDA                 ", "pz"), ("lda", "pz"),
    (" SLA  PW   PBE  PBE", "pbe"), ("sla+pw+pbx+pbc", "pbe"), (" SLA  PW   PSX  PSC", "pbesol"),
    (" SLA  PW   TPSS TPSS", "tpss"), ("PBEsol", "pbesol"), ("Something-New", "something new"),
])
def test_functional_has_one_name(header, name):
    assert functional_name(header) == name


def test_choice_follows_the_documented_order(tmp_path):
    v2(tmp_path, "Si.pbe-nc.UPF")
    v2(tmp_path, "Si.pbe-us.UPF", us="T", kind="USPP", wfc="30", rho="240")
    best = v2(tmp_path, "Si.pbe-paw.1.0.0.UPF", paw="T", us="T", wfc="40", rho="320")
    v2(tmp_path, "Si.pbe-paw.0.9.UPF", paw="T", us="T", wfc="40", rho="320")
    v2(tmp_path, "Si.rel-pbe-paw.UPF", paw="T", us="T", wfc="40", rho="320", so="T",
       relativistic="full")
    v2(tmp_path, "Si_3.98.UPF", paw="T", wfc="40", rho="320", z="3.98")
    v2(tmp_path, "Si.pz.UPF", functional="PZ", paw="T", wfc="10", rho="80")
    assert choose_pseudos(tmp_path, ["Si"], "PBE")["Si"].path == best
    # More valence electrons before the version in the name.
    semicore = v2(tmp_path, "Si.pbe-a.UPF", paw="T", us="T", wfc="60", rho="500", z="12")
    assert choose_pseudos(tmp_path, ["Si"], "PBE")["Si"].path == semicore


def test_versions_in_names_are_numbers(tmp_path):
    for version in ("0.9", "0.10", "0.2"):
        v2(tmp_path, f"Si.pbe-{version}.UPF", wfc="30")
    assert choose_pseudos(tmp_path, ["Si"], "pbe")["Si"].name == "Si.pbe-0.10.UPF"


def test_missing_pseudopotential_names_element_folder_and_what_there_is(tmp_path):
    v2(tmp_path, "Al.pz.UPF", element="Al", functional="PZ")
    message = re.escape(f"no pbe pseudopotential for Al in {tmp_path}")
    with pytest.raises(InputError, match=message) as caught:
        choose_pseudos(tmp_path, ["Al"], "pbe")
    assert "Al.pz.UPF (pz)" in caught.value.hint
    with pytest.raises(InputError, match="for Xe") as caught:
        choose_pseudos(tmp_path, ["Xe"], "pbe")
    assert "pseudo_dir" in caught.value.hint


@pytest.mark.parametrize(("explicit", "problem", "hint"), [
    ({"Si": "Si.pbe.upf"}, "is not in", "Si.pbe.UPF"),
    ({"Si": "Al.pbe.UPF"}, "is for Al, not Si", "Si"),
    ({"Si": "Si.pz.UPF"}, "made with pz", "functional='pz'"),
    ({"Si": "Si.rel.UPF"}, "spin-orbit", "scalar"),
    ({"silicon": "Si.pbe.UPF"}, "'silicon' is not an element", "Si.pz-vbc.UPF"),
])
def test_wrong_explicit_file_is_refused(tmp_path, explicit, problem, hint):
    v2(tmp_path, "Si.pbe.UPF")
    v2(tmp_path, "Al.pbe.UPF", element="Al")
    v2(tmp_path, "Si.pz.UPF", functional="PZ")
    v2(tmp_path, "Si.rel.UPF", so="T", relativistic="full")
    with pytest.raises(InputError, match=problem) as caught:
        choose_pseudos(tmp_path, ["Si"], "pbe", explicit)
    assert hint in caught.value.hint


def test_explicit_file_wins(tmp_path):
    v2(tmp_path, "Si.pbe.UPF", paw="T", wfc="30")
    nc = v2(tmp_path, "Si.pbe-nc.UPF")
    chosen = choose_pseudos(tmp_path, ["Si", "Si"], "pbe", {"Si": nc.name})
    assert chosen["Si"].path == nc


def test_cutoffs_are_the_highest_of_the_headers_in_whole_rydbergs(tmp_path):
    v2(tmp_path, "Si.UPF", wfc="43.74", rho="174.97")
    v2(tmp_path, "O.UPF", element="O", paw="T", wfc="37.8", rho="323.2", z="6")
    cutoffs = choose_cutoffs(choose_pseudos(tmp_path, ["Si", "O"], "pbe"))
    assert (cutoffs.ecutwfc, cutoffs.ecutrho) == (44, 324)
    assert cutoffs.source == {"O": "header of O.UPF", "Si": "header of Si.UPF"}


def test_silent_header_takes_the_table_else_refuses(tmp_path):
    v2(tmp_path, "Si.pz-vbc.UPF", functional="PZ")
    cutoffs = choose_cutoffs(choose_pseudos(tmp_path, ["Si"], "lda"))
    assert cutoffs.ecutwfc == cutoff_table()["Si.pz-vbc.UPF"]["ecutwfc"]
    assert cutoffs.ecutrho == 4 * cutoffs.ecutwfc
    assert "convergence" in cutoffs.source["Si"]
    v2(tmp_path, "Al.pz.UPF", element="Al", functional="PZ")
    with pytest.raises(InputError, match=r"Al\.pz\.UPF") as caught:
        choose_cutoffs(choose_pseudos(tmp_path, ["Al"], "pz"))
    assert "ecutwfc" in caught.value.hint


def test_cutoffs_of_the_user_win(tmp_path):
    v2(tmp_path, "Si.UPF", wfc="43.74", rho="174.97")
    pseudos = choose_pseudos(tmp_path, ["Si"], "pbe")
    assert choose_cutoffs(pseudos, 60.0).ecutrho == pytest.approx(240)
    assert choose_cutoffs(pseudos, 60.0, 500.0).ecutrho == 500
    assert choose_cutoffs(pseudos, 60.0).source == {"Si": "given"}
    with pytest.raises(InputError, match="don't go together"):
        choose_cutoffs(pseudos, 60.0, 100.0)


def test_every_row_of_the_table_has_a_source():
    for name, row in cutoff_table().items():
        assert row["ecutwfc"] > 0, name
        assert row["source"], name


@pytest.mark.needs_code("pw.x")
def test_debian_folder_is_read_whole():
    folder = Path("/usr/share/espresso/pseudo")
    if not folder.is_dir():
        pytest.skip("the pseudopotentials of Debian's quantum-espresso-data are not here")
    upf = [f for f in folder.iterdir() if b"<PP_HEADER" in f.read_bytes()[:400_000]]
    found = {p.name: p for p in read_folder(folder)}
    assert set(found) == {f.name for f in upf}
    # What the names of these files say of them.
    assert found["Pt.rel-pz-n-rrkjus.UPF"].spin_orbit
    assert found["Ni.rel-pbe-nd-rrkjus.UPF"].spin_orbit
    for name, pseudo in found.items():
        match = re.match(r"([A-Z][a-z]?)\.(?:rel-)?(pz|pbesol|pbe|blyp|tpss)-", name)
        if match:
            assert (pseudo.element, pseudo.functional) == match.groups(), name
