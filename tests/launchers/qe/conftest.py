"""Captured runs of pw.x and ph.x, put back into folders as if they had just ended."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orionflow.launchers.custodian.handlers_qe import ph_rules, pw_rules
from orionflow.launchers.custodian.jobs import CodeJob
from orionflow.launchers.custodian.qe_base import QeRun
from orionflow.launchers.custodian.rules import Attempt, read_text
from orionflow.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orionflow.launchers.custodian.rules import Rule

DATA = Path(__file__).parents[2] / "data" / "qe_failures"


@dataclass
class Captured:
    """A run of the collection in a folder of its own."""

    folder: Path
    run: QeRun
    rules: Sequence[Rule]
    attempt: Attempt
    details: dict[str, Any]


@pytest.fixture
def captured(tmp_path: Path) -> Callable[[str], Captured]:
    """Return a function that puts a captured run into a folder."""

    def put(name: str) -> Captured:
        source = DATA / name
        folder = tmp_path / name.replace("/", "_")
        shutil.copytree(source, folder)
        details = json.loads((folder / "run.json").read_text())
        stem = "ph" if (folder / "ph.in").exists() else "pw"
        job = CodeJob(list(details["command"]), stdout=f"{stem}.out", stderr=f"{stem}.err",
                      inputs=[f"{stem}.in"])
        run = QeRun(folder=folder, input_file=f"{stem}.in", job=job)
        finished = "JOB DONE" in (folder / f"{stem}.out").read_text()
        if stem == "pw" and finished:
            try:
                save = run.save
            except ValueError:
                save = None
            if save is not None:
                save.mkdir(parents=True, exist_ok=True)
                xml = folder / "data-file-schema.xml"
                text = xml.read_text() if xml.exists() else "<espresso><output/></espresso>"
                (save / "data-file-schema.xml").write_text(text)
                (save / "charge-density.dat").write_bytes(b"density")
        if stem == "ph" and finished:
            (folder / "si.dyn").write_text("dynamical matrix")
        attempt = Attempt(folder=folder, number=1, stdout=read_text(folder / f"{stem}.out"),
                          stderr=read_text(folder / f"{stem}.err"),
                          returncode=details["returncode"], seconds=1.0)
        rules = ph_rules(run) if stem == "ph" else pw_rules(run)
        return Captured(folder, run, rules, attempt, details)

    return put


PSEUDO = load_settings().pseudo_dir
_SILICON = """&CONTROL
  calculation = '{calculation}', prefix = 'si'
  pseudo_dir = '{pseudo}', outdir = './out'   ! comments stay
  {control}
/
&SYSTEM
  ibrav = 2, celldm(1) = {a}, nat = 2, ntyp = 1, ecutwfc = {ecut}
  {system}
/
&ELECTRONS
  conv_thr = {conv}
  {electrons}
/
{more}ATOMIC_SPECIES
  Si  28.086  Si.pz-vbc.UPF
ATOMIC_POSITIONS alat
{positions}
K_POINTS {kpoints}
"""
_ALUMINIUM = """&control
  calculation = 'scf', prefix = 'al', pseudo_dir = '{pseudo}', outdir = './out'
/
&system
  ibrav = {ibrav}, celldm(1) = 7.5, nat = {nat}, ntyp = 1, ecutwfc = 12.0
  {system}
/
&electrons
  conv_thr = 1d-8
/
ATOMIC_SPECIES
 Al 26.98 Al.pz-vbc.UPF
ATOMIC_POSITIONS crystal
{positions}
K_POINTS automatic
 {kpoints}
"""


@dataclass
class Inputs:
    """Writes small pw.x and ph.x inputs."""

    folder: Path

    def silicon(self, name: str = "pw.in", **values: str) -> Path:
        """Write two atoms of silicon."""
        path = self.folder / name
        path.write_text(self.silicon_text(**values))
        return path

    @staticmethod
    def silicon_text(**values: str) -> str:
        """Return the input for two atoms of silicon."""
        filled = {
            "calculation": "scf", "a": "10.2", "ecut": "12.0", "conv": "1.0d-8", "control": "",
            "system": "", "electrons": "", "more": "", "kpoints": "automatic\n  2 2 2 1 1 1",
            "positions": "  Si 0.00 0.00 0.00\n  Si 0.25 0.25 0.25", "pseudo": PSEUDO, **values}
        return _SILICON.format(**filled)

    def aluminium(self, *, atoms: int = 1, system: str = "") -> Path:
        """Write one or four atoms of aluminium."""
        path = self.folder / "pw.in"
        path.write_text(self.aluminium_text(atoms=atoms, system=system))
        return path

    @staticmethod
    def aluminium_text(*, atoms: int = 1, system: str = "") -> str:
        """Return the input for one or four atoms of aluminium."""
        places = ["0 0 0", "0.5 0.5 0", "0.5 0 0.5", "0 0.5 0.5"][:atoms]
        return _ALUMINIUM.format(
            pseudo=PSEUDO, ibrav=2 if atoms == 1 else 1, nat=atoms, system=system,
            positions="\n".join(f" Al {place}" for place in places),
            kpoints="4 4 4 1 1 1" if atoms == 1 else "2 2 2 1 1 1")

    def phonon(self, more: str = "") -> Path:
        """Write a phonon at Gamma."""
        path = self.folder / "ph.in"
        path.write_text("phonons\n&inputph\n  prefix = 'si', outdir = './out', fildyn = 'si.dyn'\n"
                        f"  tr2_ph = 1d-12\n  {more}\n/\n0 0 0\n")
        return path


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    """Return a writer of inputs for a folder with an awkward name."""
    folder = tmp_path / "user's [folder]; x"
    folder.mkdir()
    return Inputs(folder)


@pytest.fixture(scope="session")
def texts() -> type[Inputs]:
    """Return what makes the texts of inputs without a folder."""
    return Inputs


@pytest.fixture(scope="session")
def unfailed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that runs an input bare and returns its output, each input once.

    What a healed run must agree with is computed by the pw.x of this machine, not written down.
    """
    known: dict[str, Path] = {}

    def run(text: str) -> Path:
        if text not in known:
            folder = tmp_path_factory.mktemp("unfailed")
            (folder / "pw.in").write_text(text)
            with (folder / "pw.out").open("w") as out:
                subprocess.run(["pw.x", "-in", "pw.in"], cwd=folder, check=True, stdout=out,
                               stderr=subprocess.DEVNULL, timeout=300)
            known[text] = folder / "pw.out"
        return known[text]

    return run
