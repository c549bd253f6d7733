"""Silicon and aluminium by LDA against published numbers; the settings are those of the docs."""

from dataclasses import dataclass

import pytest
from atomate2.common.flows.elastic import BaseElasticMaker
from jobflow import run_locally

from orionflow.workflows import registry
from orionflow.workflows.qe.core import RelaxMaker
from orionflow.workflows.structures import read_structure

pytestmark = [pytest.mark.validation, pytest.mark.needs_code("pw.x", "mpirun")]
# All-electron-like LDA lattice constants, Å: J. Harl, L. Schimka, G. Kresse, Phys. Rev. B 81,
# 115126 (2010), doi:10.1103/PhysRevB.81.115126, table I.
LDA = {"Si": 5.404, "Al": 3.983}


def equation_of_state(structure, parameters):
    flow = registry.make("qe.eos", structure, {"functional": "lda"} | parameters)
    responses = run_locally(flow, create_folders=True, ensure_success=True, log=False)
    return responses[flow.output.uuid][1].output


def test_silicon_lattice_constant_and_bulk_modulus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = equation_of_state("Si diamond 5.43", {"k_spacing": 0.34, "number_of_frames": 7})
    # Converged to 0.003 Å and 0.5 GPa; 0.2 % is what pseudopotentials of one functional share.
    assert found.a0 == pytest.approx(LDA["Si"], rel=0.002)
    # Experiment: CODATA 2018; LDA is short by 0.5 %.
    assert found.a0 == pytest.approx(5.43102, rel=0.01)
    # Experiment: H. J. McSkimin, P. Andreatch, J. Appl. Phys. 35, 2161 (1964), 97.9 GPa.
    assert found.b0 == pytest.approx(97.9, rel=0.05)
    assert found.rms < 5e-4
    assert found.warnings == []


def test_aluminium_with_smearing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = equation_of_state(
        "Al fcc 4.0", {"k_spacing": 0.23, "degauss": 0.02, "number_of_frames": 7})
    # The potential of 1984 has no core correction and binds 0.6 % more than others do.
    assert found.a0 == pytest.approx(LDA["Al"], rel=0.01)
    # Experiment, 0 K: 4.032 Å, V. N. Staroverov et al., Phys. Rev. B 69, 075102 (2004), and
    # 79.4 GPa, G. N. Kamm, G. A. Alers, J. Appl. Phys. 35, 327 (1964); LDA overbinds.
    assert found.a0 == pytest.approx(4.032, rel=0.025)
    assert found.b0 == pytest.approx(79.4, rel=0.08)
    assert found.warnings == []


def test_static_run_of_a_strained_cell_agrees_with_the_pressure_of_the_fit(tmp_path, monkeypatch):
    # Energies and stress come from different sums in pw.x: two ways to one pressure.
    monkeypatch.chdir(tmp_path)
    same = {"kpoints": [4, 4, 4], "ecutwfc": 36}
    found = equation_of_state("Si diamond 5.43", same | {"number_of_frames": 7})
    job = registry.make("qe.static", f"Si diamond {0.98 * found.a0:.6f}",
                        {"functional": "lda"} | same)
    document = run_locally(job, create_folders=True, ensure_success=True,
                           log=False)[job.uuid][1].output
    pressure = sum(document.output.stress[i][i] for i in range(3)) / 3 / 10
    # Birch-Murnaghan at the same volume, GPa.
    x = 1 / 0.98
    expected = 1.5 * found.b0 * (x**7 - x**5) * (1 + 0.75 * (found.b0_prime - 4) * (x**2 - 1))
    assert pressure == pytest.approx(expected, rel=0.05)


@dataclass
class ElasticMaker(BaseElasticMaker):
    """atomate2 asks for the name of one argument."""

    @property
    def prev_calc_dir_argname(self):
        return "prev_dir"


def test_makers_stand_in_flows_of_atomate2(tmp_path, monkeypatch):
    # The flow reads output.stress: a wrong sign or unit of it would show in every constant.
    monkeypatch.chdir(tmp_path)
    silicon = read_structure("Si diamond 5.4055").get_primitive_structure()
    steps = RelaxMaker(functional="lda", kpoints=(5, 5, 5)).for_structure(silicon)
    flow = ElasticMaker(bulk_relax_maker=None, elastic_relax_maker=steps).make(silicon)
    responses = run_locally(flow, create_folders=True, ensure_success=True, log=False)
    found = responses[flow.jobs[-1].uuid][1].output
    constants = found.elastic_tensor.ieee_format
    # Experiment, room temperature: H. J. McSkimin, P. Andreatch, J. Appl. Phys. 35, 2161 (1964):
    # 165.8, 63.9, 79.6 GPa. LDA and a 5x5x5 grid leave up to 15 %.
    assert constants[0][0] == pytest.approx(165.8, rel=0.1)
    assert constants[0][1] == pytest.approx(63.9, rel=0.1)
    assert constants[3][3] == pytest.approx(79.6, rel=0.16)
    assert found.derived_properties.k_vrh == pytest.approx(97.9, rel=0.05)
