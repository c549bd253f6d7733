"""One pw.x run and its summary: what all QE recipes share."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orionflow.errors import InputError, OutputError
from orionflow.workflows.qe import inputs, outputs
from orionflow.workflows.structures import structure_hash

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pymatgen.core import Structure

    from orionflow.launchers.record import RunRecord
    from orionflow.workflows.qe.outputs import PwStdout, PwXml
    from orionflow.workflows.qe.pseudos import Cutoffs
    from orionflow.workflows.qe.upf import Pseudo
    from orionflow.workflows.schemas.qe import QeTaskDocument

INPUT = "pw.in"
OUTPUT = "pw.out"
XML = Path(inputs.OUTDIR) / f"{inputs.PREFIX}.save" / "data-file-schema.xml"
# Clocks of a file server and of a node differ a little.
CLOCK_SKEW = 5.0


def write_run(directory: Path, text: str, pseudos: Mapping[str, Pseudo]) -> None:
    """Write the input and link the pseudopotentials beside it.

    The same input is written again when a run is continued in its folder.
    """
    folder = directory / inputs.PSEUDO_DIR
    folder.mkdir(exist_ok=True)
    for pseudo in pseudos.values():
        link = folder / pseudo.name
        link.unlink(missing_ok=True)
        link.symlink_to(pseudo.path.resolve())
    (directory / INPUT).write_text(text)


def check_hashes(pseudos: Mapping[str, Pseudo], expected: Mapping[str, str] | None) -> None:
    """Refuse files that differ from those chosen when the job was submitted.

    Raises
    ------
    InputError
        Names the file.
    """
    from orionflow.workflows.schemas.base import FileHash

    for element, wanted in (expected or {}).items():
        pseudo = pseudos.get(element)
        if pseudo is not None and FileHash.of(pseudo.path).sha256 != wanted:
            raise InputError(
                f"pseudopotential {pseudo.path} is not the file chosen at submission "
                f"(its SHA-256 is not {wanted[:12]}...)",
                hint="restore the file, or submit again to use the new one")


def read_results(directory: Path, *, calculation: str,
                 record: RunRecord) -> tuple[PwXml, PwStdout]:
    """Read XML and stdout of the run in a folder.

    Raises
    ------
    OutputError
        A file is missing, or the XML is older than this run.
    """
    path = directory / XML
    try:
        written = path.stat().st_mtime
        data = path.read_bytes()
        text = (directory / OUTPUT).read_text(errors="replace")
    except OSError as error:
        raise OutputError(f"{error.filename} can't be read: {error.strerror}",
                          path=str(error.filename), expected="a file pw.x writes") from error
    # After a failed restart pw.x leaves the XML of the run before.
    if not record.continued and written < record.started_at.timestamp() - CLOCK_SKEW:
        raise OutputError(f"{path} is older than this run", path=path,
                          hint="pw.x wrote no new results: read its stdout")
    return outputs.parse_xml(data, calculation=calculation, path=str(path)), \
        outputs.parse_stdout(text)


def drop_wavefunctions(directory: Path) -> None:
    """Remove the large files only a restart would need; density, XML and input stay."""
    out = directory / inputs.OUTDIR
    for pattern in (f"{inputs.PREFIX}.save/wfc*", f"{inputs.PREFIX}.wfc*", f"{inputs.PREFIX}.mix*",
                    f"{inputs.PREFIX}.igk*", f"{inputs.PREFIX}.restart*"):
        for file in out.glob(pattern):
            file.unlink(missing_ok=True)


def summarise(xml: PwXml, stdout: PwStdout, *, directory: Path, record: RunRecord,
              input_text: str, start: Structure, pseudos: Mapping[str, Pseudo],
              cutoffs: Cutoffs, parameters: dict[str, Any], task_label: str,
              tags: list[str], uuid: str | None, pressure_threshold: float | None = None,
              ) -> QeTaskDocument:
    """Return the document of a finished run.

    Parameters
    ----------
    start
        The structure that was handed in; its site order and properties are kept.
    pressure_threshold
        kbar; a vc-relax whose final pressure is higher gets a warning.
    """
    from orionflow.workflows.schemas import base, qe
    from orionflow.workflows.schemas.structure import structure_metadata

    structure = _final_structure(xml, start)
    results = qe.QeResults(
        calculation=xml.calculation, functional=parameters["functional"],
        fermi_energy=xml.fermi_energy, homo=xml.homo, lumo=xml.lumo,
        smearing_energy=xml.smearing_energy, total_magnetization=xml.total_magnetization,
        absolute_magnetization=xml.absolute_magnetization, n_electrons=xml.n_electrons,
        n_bands=xml.n_bands,
        kpoints=qe.QeKPoints(grid=xml.grid, shift=xml.shift, irreducible=len(xml.bands.weights)),
        occupations=xml.occupations, smearing=xml.smearing, degauss=xml.degauss,
        ecutwfc=xml.ecutwfc, ecutrho=xml.ecutrho, cutoff_source=cutoffs.source,
        pseudopotentials={element: p.name for element, p in pseudos.items()},
        scf_iterations=xml.scf_iterations, scf_accuracy=xml.scf_accuracy,
        ionic_steps=len(xml.steps),
        ionic_converged=None if xml.calculation == "scf" else True,
        code_seconds=stdout.wall_seconds, memory_mb=stdout.memory_mb,
    )
    warnings = [*xml.warnings, *stdout.warnings]
    if xml.calculation == "vc-relax" and xml.stress is not None:
        results.pulay_pressure = float(np.trace(xml.stress) / 3)
        if pressure_threshold is not None and abs(results.pulay_pressure) > pressure_threshold:
            warnings.append(
                f"pressure {results.pulay_pressure:.2f} kbar on the basis of the final cell, "
                f"threshold {pressure_threshold:g}: raise ecutwfc, or relax again from here")
    output = base.Output(
        structure=structure, energy=xml.energy, energy_per_atom=xml.energy / len(structure),
        forces=None if xml.forces is None else xml.forces.tolist(),
        stress=None if xml.stress is None else xml.stress.tolist(),
    )
    files = [pseudos[element].path for element in sorted(pseudos)]
    provenance = base.Provenance.collect(
        input_text=input_text, run=record, files=files, structure_sha256=structure_hash(start))
    comparable = {"functional": parameters["functional"], "ecutwfc": xml.ecutwfc,
                  "pseudopotentials": results.pseudopotentials}
    return qe.QeTaskDocument(
        **structure_metadata(structure), structure=structure, output=output, qe=results,
        code_version=stdout.version or xml.version, task_label=task_label,
        dir_name=f"{socket.gethostname()}:{directory.resolve()}", uuid=uuid, tags=tags,
        input=parameters, warnings=warnings, provenance=provenance,
        entry=base.computed_entry(structure, xml.energy, uuid, comparable),
        bands=_bands(xml) if xml.calculation == "scf" else None,
        trajectory=[_step(step) for step in xml.steps] or None,
    )


def _final_structure(xml: PwXml, start: Structure) -> Structure:
    from pymatgen.core import Lattice, Structure

    symbols = [site.specie.symbol for site in start]
    if symbols != xml.symbols:
        raise OutputError(f"the XML holds the atoms {xml.symbols}, the input {symbols}",
                          path=os.fspath(XML), hint="another run wrote into the same folder")
    if xml.calculation == "scf":
        return start.copy()
    # A relaxation keeps the lattice to the last digit unless it was free.
    lattice = start.lattice if xml.calculation == "relax" else Lattice(xml.lattice)
    return Structure(lattice, start.species, xml.positions, coords_are_cartesian=True,
                     site_properties=start.site_properties)


def _bands(xml: PwXml) -> Any:
    from orionflow.workflows.schemas import qe

    bands = xml.bands
    return qe.QeBands(
        kpoints=bands.kpoints.round(12).tolist(), weights=bands.weights.tolist(),
        eigenvalues=bands.eigenvalues.tolist(), occupations=bands.occupations.tolist())


def _step(step: outputs.IonicStep) -> Any:
    from orionflow.workflows.schemas import qe

    return qe.QeIonicStep(
        energy=step.energy, lattice=step.lattice.tolist(), positions=step.positions.tolist(),
        forces=None if step.forces is None else step.forces.tolist())
