"""What all rules for Quantum ESPRESSO share: the run they look at and its files."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orionflow.errors import InputError
from orionflow.launchers.qe_input import QeInput, edit_input, read_input
from orionflow.launchers.qe_output import is_finished, read_xml

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET
    from collections.abc import Mapping

    from orionflow.launchers.custodian.jobs import CodeJob

STARTED = "Program "  # "     Program PWSCF v.6.7MaX starts on ..."
FINISHED = "JOB DONE."
# Told to stop before this line, pw.x writes an XML that no run can go on from, in place of a good
# one (6.7: not all symmetries, or no cell).
_LISTENS = r"(?m)^ {5}(?:Self-consistent|Band Structure) Calculation$"


@dataclass
class QeRun:
    """One pw.x or ph.x run: where its files are.

    Attributes
    ----------
    notes
        What rules remember from one attempt to the next.
    """

    folder: Path
    input_file: str
    job: CodeJob
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def input_path(self) -> Path:
        """The input file."""
        return self.folder / self.input_file

    @property
    def input(self) -> QeInput:
        """The input as it is now."""
        return read_input(self.input_path)

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """Variables of the code."""
        return {**os.environ, **self.job.environment}

    @property
    def program(self) -> str:
        """Name of the executable, as far as command and input tell."""
        name = next((Path(word).name for word in self.job.command if word.endswith(".x")), None)
        if name is not None:
            return name
        try:
            return "ph.x" if "inputph" in self.input.namelists else "pw.x"
        except InputError:
            return "the code"

    @property
    def outdir(self) -> Path:
        """Folder of QE's files."""
        return self.input.outdir(self.folder, self.environment)

    @property
    def save(self) -> Path:
        """``prefix.save`` in outdir."""
        return self.input.save_dir(self.folder, self.environment)

    @property
    def xml_path(self) -> Path:
        """The XML with the results."""
        return self.save / "data-file-schema.xml"

    def xml(self) -> ET.Element | None:
        """Return the XML of this attempt; None when it is missing, damaged or a parent's."""
        return read_xml(self.xml_path) if self.job.is_fresh(self.xml_path) else None

    def edit(self, **groups: Mapping[str, Any]) -> list[str]:
        """Change values in the input; see `edit_input`."""
        return edit_input(self.input_path, groups)


def patterns(run_input: QeInput, folder: Path, environment: Mapping[str, str]
             ) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return files to move away before an attempt and files it must write anew (patterns)."""
    import glob

    prefix = glob.escape(run_input.prefix)
    outdir = glob.escape(str(run_input.outdir(folder, environment)))
    stale = ("CRASH", f"{prefix}.EXIT", f"{outdir}/{prefix}.EXIT", f"{outdir}/CRASH")
    return stale, (f"{outdir}/{prefix}.save/data-file-schema.xml",)


def stop_options(run_input: QeInput) -> dict[str, str]:
    """Return how pw.x or ph.x is asked to stop, as options of `CodeJob`.

    Both look for the file in their working folder after each k-point; in outdir ph.x does not.
    """
    return {"stop_file": f"{run_input.prefix}.EXIT",
            "listens_after": "" if "inputph" in run_input.namelists else _LISTENS}


def stopped_itself(text: str) -> bool:
    """Whether an output shows that pw.x came to its own end and wrote all its files."""
    return is_finished(text) and re.search(_LISTENS, text) is not None
