"""Going on where time was over or something killed LAMMPS."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orionflow.launchers.custodian import lammps_model as model
from orionflow.launchers.custodian.common import Killed
from orionflow.launchers.custodian.lammps_base import DANGER_FILE, first_step
from orionflow.launchers.custodian.lammps_dump import cut_dumps
from orionflow.launchers.custodian.lammps_job import ASK_FILE, clock, margin, timer_seconds
from orionflow.launchers.custodian.lammps_log import merge_logs
from orionflow.launchers.custodian.lammps_output import ASKED, parse_output
from orionflow.launchers.custodian.lammps_restart import continuation, newest_restart
from orionflow.launchers.custodian.rules import read_text
from orionflow.launchers.custodian.watch import Frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orionflow.launchers.custodian.lammps_base import LammpsRun
    from orionflow.launchers.custodian.lammps_script import Script
    from orionflow.launchers.custodian.rules import Attempt, Rule

SHORTEST = 5.0
LONG = 20_000
_MOST = 10
# Looks for the file by which it is asked to stop, in the longest run of a script: each rank opens
# it. Where the length of the runs is not known, steps between them.
_LOOKS, _LOOK_UNKNOWN = 10_000, 100
LAST_RESTART = "orionflow.last.restart"
RESTARTS = ("orionflow.a.restart", "orionflow.b.restart")
# write_restart moves atoms between ranks without their forces: what looks at forces comes first.
_LOOKS_ONLY = frozenset({"", "write_dump", "write_data", "print", "variable", "info", "log",
                         "undump", "unfix", "uncompute"})


def needs_restarts(script: Script) -> bool:
    """Whether a run is long, or stops itself by a timer of its own."""
    if any("timeout" in c.words for c in script.all("timer")):
        return True
    steps = [model.value(script, c.args[0]) for c in script.all("run") if c.args]
    return sum(s for s in steps if s is not None) >= LONG


def instrument(script: Script, *, restarts: bool) -> None:
    """Have LAMMPS write what a watcher and a later launch need.

    Parameters
    ----------
    script
        Edited in place.
    restarts
        Also write restart files, in turns during a run and after each.
    """
    own = any(c.args[:1] != ["0"] for c in script.all("restart"))
    steps = [int(c.args[0]) for c in script.all("run") if c.args and c.args[0].isdigit()]
    restarts = restarts and script.linear and not any("pre" in c.words for c in script.all("run"))
    every = _restart_interval(script) or max(1000, max(steps, default=0) // 20)
    for i in reversed(script.runs()):
        if restarts:
            script.insert(_after_looks(script, i), [f"write_restart {LAST_RESTART}"])
        script.insert(i, ["thermo_modify flush yes"])
    if restarts and not own and script.runs():
        script.insert(script.runs()[0], [f"restart {every} {' '.join(RESTARTS)}"])
    if (restarts or own) and script.linear and script.find("run"):
        # The statistics at the end of a run are lost with a run that is killed.
        script.insert(script.find("run")[0], [
            "variable orionflow_step equal step", "variable orionflow_danger equal ndanger",
            (f'fix orionflow_danger all print {every} "${{orionflow_step}} ${{orionflow_danger}}" '
             f'file {DANGER_FILE} screen no title "# step, dangerous builds"')])
    if (restarts or own) and script.linear and script.runs():
        looks = max(10, max(steps) // _LOOKS) if steps else _LOOK_UNKNOWN
        script.insert(script.runs()[0], _asking(looks))


def _asking(every: int) -> list[str]:
    """Return commands by which LAMMPS ends its run, as a timer ends it, when a file appears.

    Each rank looks for itself, and `fix halt` of 2021 does not make them agree: the one that saw
    the file would leave the others waiting. The reduction does. Nothing of this touches forces or
    neighbour lists.
    """
    return [f"variable orionflow_ask equal is_file({ASK_FILE})",
            "variable orionflow_asks atom v_orionflow_ask",
            "compute orionflow_asked all reduce max v_orionflow_asks",
            "variable orionflow_asked equal c_orionflow_asked",
            f"fix {ASKED} all halt {every} v_orionflow_asked > 0.5 error soft"]


def _restart_interval(script: Script) -> int | None:
    """Return the steps between the user's own restart files, where that is a plain number."""
    found = [model.value(script, c.args[0]) for c in script.all("restart") if c.args]
    return next((int(f) for f in found if f and f >= 1), None)


def _after_looks(script: Script, run: int) -> int:
    """Return the place behind a run and the commands that only look at its end."""
    at = run + 1
    while at < len(script.commands) and script.commands[at].name in _LOOKS_ONLY:
        at += 1
    return at


def go_on(run: LammpsRun, script: Script, text: str, not_before: float = 0.0) -> list[str] | str:
    """Make the next attempt continue from the newest restart file.

    Parameters
    ----------
    run
        The job.
    script
        The script that was stopped.
    text
        What it printed.
    not_before
        Restart files older than this are of something else, unix time.

    Returns
    -------
    list of str or str
        The changes, or why it can't go on.
    """
    output = parse_output(text)
    if not output.runs:
        return "nothing was done yet"
    restart = newest_restart(run.folder, not_before)
    if restart is None:
        return "there is no complete restart file"
    if run.earlier_step is not None and restart.step <= run.earlier_step:
        return f"no progress: still at step {restart.step}"
    made = continuation(script, output, restart)
    if isinstance(made, str):
        return made
    new, changes = made
    if run.fresh is None:
        run.fresh, run.fresh_step = run.script.copy(), first_step(run.earlier or text)
    cut_dumps(run.folder, script, restart.step)
    run.remember(merge_logs(run.earlier, run.earlier_step, text), restart.step)
    run.script.restore_to(new)
    return changes


def lengthen_timer(script: Script, factor: int = 10) -> list[str]:
    """Give a script more time where it limits itself; the deadline still holds."""
    changes = []
    for at in script.find("timer"):
        words = list(script.commands[at].words)
        if "timeout" in words[:-1]:
            place = words.index("timeout") + 1
            seconds = timer_seconds(words[place])
            if seconds is not None:
                old, words[place] = words[place], clock(seconds * factor)
                changes.append(f"timer timeout: {old} -> {words[place]}")
                script.replace(at, " ".join(words))
    return changes


@dataclass
class Walltime:
    """LAMMPS stopped by `timer timeout` before all steps were done."""

    run: LammpsRun
    failure_id: str = "LAMMPS_WALLTIME"
    advice: str | None = None
    transient: bool = True

    def find(self, attempt: Attempt) -> str | None:
        """Look for the timer's message."""
        runs = self.run.output(attempt).runs
        return next((r.timed_out for r in runs if r.timed_out), None)

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Go on from the restart file, if there is time for it."""
        left = attempt.seconds_left()
        if left - margin(left) < SHORTEST or times >= _MOST:
            return None
        started = time.time() - attempt.seconds - 1.0
        done = go_on(self.run, self.run.script, attempt.stdout, started)
        longer = lengthen_timer(self.run.script)
        if self.run.fresh is not None:
            lengthen_timer(self.run.fresh)
        if isinstance(done, str) and longer and left == float("inf"):
            return longer  # the input's own limit, and nothing else limits the time here
        if isinstance(done, str):
            self.advice = f"it could not go on: {done}"
            self.transient = False
            return None
        return [*done, *longer]


@dataclass
class InPart:
    """A silent failure in the part of a simulation that something stopped.

    Looked for before the part is continued: nothing is built on a faulty one.

    Attributes
    ----------
    rule
        The failure.
    stops
        Rules that tell whether the attempt was stopped from outside.
    """

    rule: Rule
    stops: Sequence[Rule]
    failure_id: str = field(init=False)

    def __post_init__(self) -> None:
        """Go by the name of the failure."""
        self.failure_id = self.rule.failure_id

    @property
    def advice(self) -> str | None:
        """That of the failure."""
        return getattr(self.rule, "advice", None)

    def find(self, attempt: Attempt) -> str | None:
        """Look where the attempt was stopped; with no time left the next launch looks."""
        left = attempt.seconds_left()
        if left - margin(left) < SHORTEST or not any(s.find(attempt) for s in self.stops):
            return None
        return self.rule.find(attempt)

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Mend it, from the start of the simulation."""
        return self.rule.fix(attempt, times)


@dataclass
class KilledLammps(Killed):
    """Something killed LAMMPS: it goes on from a restart file, or begins again unchanged."""

    finished: str = "Total wall time"
    failure_id: str = "LAMMPS_KILLED"
    run: LammpsRun | None = None

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Continue from the newest restart file of this attempt, else begin again."""
        if times >= self.most or attempt.seconds_left() <= SHORTEST or self.run is None:
            return None
        started = time.time() - attempt.seconds - 1.0
        done = go_on(self.run, self.run.script, attempt.stdout, started)
        return [] if isinstance(done, str) else done


@dataclass
class FrozenLammps(Frozen):
    """A frozen LAMMPS: it goes on from a restart file, or begins again unchanged, once."""

    run: LammpsRun | None = None
    faults: Sequence[Rule] = ()

    def fix(self, attempt: Attempt, times: int) -> list[str] | None:
        """Continue from the newest restart file of this attempt, else begin again."""
        if times or self.run is None:
            return None
        fault = next((rule for rule in self.faults if rule.find(attempt)), None)
        if fault is not None:
            return fault.fix(attempt, 0)
        started = time.time() - attempt.seconds - 1.0
        done = go_on(self.run, self.run.script, attempt.stdout, started)
        return [] if isinstance(done, str) else done


def write_joined_log(run: LammpsRun) -> None:
    """Leave one log of the whole simulation in the folder."""
    if run.earlier:
        log = run.folder / run.job.log
        with suppress(OSError):  # a full disk is reported as such, not from here
            log.write_text(merge_logs(run.earlier, run.earlier_step, read_text(log)))
