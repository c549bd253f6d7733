"""Errors only a person can put right: the run stops at once and says what to change."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orionflow.launchers.qe_output import error_box

if TYPE_CHECKING:
    from orionflow.launchers.custodian.qe_base import QeRun
    from orionflow.launchers.custodian.rules import Attempt

# Pattern in "routine (code): message", then failure id. The first that fits counts.
USER_ERRORS: tuple[tuple[str, str], ...] = (
    # These first: they quote a line of the input, whatever it says.
    (r"read_namelists .*(?:could not find namelist)|input file not opened or empty",
     "QE_INPUT_EMPTY"),
    (r"read_namelists .*bad line|reading namelist|read_namelists", "QE_INPUT_NAMELIST"),
    (r"readpp .*(?:not found|unrecogni[sz]ed)|read_pseudo|upf|pseudopotential file", "QE_PSEUDO"),
    (r"check_atoms .*overlap|overlap!", "QE_ATOMS_OVERLAP"),
    (r"too many k-points", "QE_TOO_MANY_KPOINTS"),
    (r"ecutrho\s*<=?\s*ecutwfc|set_cutoff|invalid ecut|ecutwfc", "QE_CUTOFFS"),
    (r"smearing requires a va.?lue|degauss", "QE_NO_DEGAUSS"),
    (r"starting_magnetization MUST be set|tot_magnetization|nspin|noncolin|magnetization",
     "QE_SPIN_SETUP"),
    (r"cell_dofree", "QE_CELL_DOFREE"),
    (r"check_tempdir|temporary directory|cannot open .*outdir|open_xml.*cannot", "QE_OUTDIR"),
    ((r"reading xml|xml data file|needed files are missing|read_conf_from_file|"
      r"bands or non-scf calculation not possible"), "QE_PARENT_MISSING"),
    (r"tetrahedra need automatic", "QE_TETRAHEDRA"),
    (r"set_dft_from_name .*conflicting values", "QE_INPUT_REFUSED"),
    (r"read_cards|card_|ATOMIC_POSITIONS|ATOMIC_SPECIES|K_POINTS|CELL_PARAMETERS",
     "QE_INPUT_CARDS"),
    ((r"iosys|input|not implemented|not allowed|wrong|unknown|invalid|latgen|cell_base_init|"
      r"generate_k|set_occupations|set_hubbard|phq_readin"), "QE_INPUT_REFUSED"),
)

# What to do, where the message itself says little.
ADVICE: tuple[tuple[str, str], ...] = (
    (r'bad line in namelist &(?:ions|cell): ""',
     "this calculation needs the namelist that is named, though it may be empty: add it"),
    (r"set_hubbard_l .*not yet inserted",
     "pw.x knows no Hubbard manifold of one of these elements: leave Hubbard_U of it out"),
    (r"set_dft_from_name .*conflicting values",
     "the pseudopotentials were made with different functionals: take all from one functional"),
)


@dataclass
class UserError:
    """A box that names a mistake in the input or its files."""

    run: QeRun
    failure_id: str = "QE_INPUT_REFUSED"
    title: str | None = None
    advice: str | None = None

    def find(self, attempt: Attempt) -> str | None:
        """Take the box that is there and say which mistake it is."""
        box = error_box(attempt.stdout)
        if box is None:
            return None
        self.title = None
        code = self.run.program
        text = str(box).removeprefix("Error in routine ")
        self.advice = next((words for pattern, words in ADVICE if re.search(pattern, text)), None)
        for pattern, failure_id in USER_ERRORS:
            if re.search(pattern, text, re.IGNORECASE):
                self.failure_id = failure_id
                if failure_id == "QE_INPUT_REFUSED":
                    self.title = f"the input asks for what {code} can't do"
                return str(box)
        self.failure_id = "QE_ERROR"
        self.title = f"{code} stopped with an error that has no known remedy"
        return str(box)

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:  # noqa: ARG002
        """Never guess what the user meant."""
        return None
