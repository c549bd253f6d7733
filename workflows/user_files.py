"""A user's own input files: taken along into a job, and run in its folder.

What is text and small is stored in the job; pseudopotentials and potential files are referred to
by path and SHA-256. The submitter's folder is not needed any more.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from orionflow.errors import CodeError, InputError
from orionflow.launchers.context import job_context
from orionflow.launchers.mpi import mpi_command
from orionflow.launchers.run_input import Exit, Step, run_input
from orionflow.launchers.run_state import RECORD_FILE, hash_inputs, read_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orionflow.launchers.record import RunRecord
    from orionflow.launchers.run_state import RunState
    from orionflow.workflows.schemas.user_input import UserInputDocument, UserStep

MAX_BYTES = 4 * 2**20
"""Of all text in one job; a MongoDB document holds 16 MiB, and the text is in more than one."""


@dataclass
class Bundle:
    """The files of a run.

    Attributes
    ----------
    folder
        Where they are now.
    files
        ``name`` in the folder, ``text``, and ``sha256`` of the file as it is now.
    references
        ``name`` in the folder of the run (empty: not linked there), ``path`` and ``sha256``.
    """

    folder: Path
    files: list[dict[str, str]] = field(default_factory=list)
    references: list[dict[str, str]] = field(default_factory=list)

    def names(self) -> set[str]:
        """Return the names of all files."""
        return {f["name"] for f in (*self.files, *self.references)}

    def add_text(self, name: str, text: str | None = None) -> None:
        """Take a text file along.

        Parameters
        ----------
        name
            In the folder.
        text
            What to write instead of its own text.

        Raises
        ------
        InputError
            It is missing, outside the folder, not text, or too large.
        """
        if name in self.names():
            return
        check_inside(name)
        path = self.folder / name
        own = read_text(path)
        self.files.append({"name": name, "text": own if text is None else text,
                           "sha256": file_sha256(path)})
        total = sum(len(f["text"].encode()) for f in self.files)
        if total > MAX_BYTES:
            raise InputError(
                f"with {path} ({path.stat().st_size / 2**20:.1f} MiB) the input files are "
                f"{total / 2**20:.1f} MiB together; {MAX_BYTES / 2**20:g} MiB can be stored in a "
                "job", hint="run it in its own folder with `orionflow run-input`")

    def add_reference(self, name: str, path: Path) -> None:
        """Take a file along by its path and hash.

        Raises
        ------
        InputError
            Another file has that name, or the file can't be read.
        """
        if name:
            check_inside(name)
        target = str(path.resolve())
        for other in self.references:
            if name and other["name"] == name and other["path"] != target:
                raise InputError(f"two files are both called {Path(name).name}: {other['path']} "
                                 f"and {target}", hint="rename one of them")
            if (other["name"], other["path"]) == (name, target):
                return
        self.references.append({"name": name, "path": target, "sha256": file_sha256(path)})


@dataclass(frozen=True)
class BundleRun:
    """How the steps ran.

    Attributes
    ----------
    steps
        The last run of each step.
    every
        All runs in order; a step that had to be changed for a later one has more than one.
    repairs
        Such changes, in words.
    """

    steps: list[RunRecord]
    every: list[RunRecord]
    repairs: list[str]


def read_text(path: Path) -> str:
    """Return the text of a small file.

    Raises
    ------
    InputError
        It is missing, not UTF-8 text, or larger than a job may hold.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise InputError(
                f"{path} is {size / 2**20:.1f} MiB; {MAX_BYTES / 2**20:g} MiB can be stored in a "
                "job", hint="run it in its own folder with `orionflow run-input`")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}",
                         hint="check the name; files are looked for beside the input") from error
    if not is_text(data):
        raise InputError(f"{path} is not text in UTF-8",
                         hint="only text can be stored in a job; convert the file")
    return data.decode()


def is_text(data: bytes) -> bool:
    """Whether these bytes are UTF-8 text."""
    try:
        return "\0" not in data.decode()
    except UnicodeDecodeError:
        return False


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    from orionflow.workflows.schemas.base import FileHash

    try:
        return FileHash.of(path).sha256
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}",
                         hint="check the name and its permissions") from error


def check_inside(name: str) -> None:
    """Refuse a name that leads out of the folder.

    Raises
    ------
    InputError
        It does.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or name.startswith("~") or not path.parts:
        raise InputError(f"file {name!r} is not in the folder of the input",
                         hint="put it there and give its name relative to the folder")


def run_bundle(folder: Path, steps: Sequence[dict[str, str]], files: Sequence[dict[str, str]],
               references: Sequence[dict[str, str]], options: Sequence[str],
               ) -> BundleRun:
    """Write the files into a folder and run the steps there, as ``orionflow run-input`` does.

    In a folder where an earlier launch of the same job was stopped, steps that are done are not
    run again, and the one that was stopped goes on.

    Parameters
    ----------
    folder
        Where to run.
    steps
        ``code`` and ``input_file`` of each.
    files, references
        See `Bundle`.
    options
        Words for the code before ``-in``.

    Returns
    -------
    BundleRun
        What happened.

    Raises
    ------
    InputError
        A referenced file is missing or has changed.
    CodeError
        A step failed and corrections did not help.
    """
    context = job_context(folder)
    _link(folder, references)
    done = _done(folder, steps, files)
    finished = {name for state in done for name in state.inputs}
    for file in files:
        if file["name"] not in finished:
            path = folder / file["name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file["text"].encode())
    commands = []
    for step in steps[len(done):]:
        executable = context.machine.executable(step["code"])
        command = mpi_command(context.machine, context.resources,
                              [executable, *options, "-in", step["input_file"]])
        commands.append(Step(tuple(command), step["code"], step["input_file"]))
    states, repairs = done, []
    if commands:
        outcome = run_input(folder, commands, context.settings, context.machine,
                            deadline=time.time() + context.seconds_left(),
                            resources=context.resources)
        if outcome.exit_code is Exit.INTERRUPTED:
            raise KeyboardInterrupt
        if outcome.exit_code is not Exit.DONE:
            failure_id = outcome.failure_id or "CODE_UNKNOWN"
            raise CodeError(f"{failure_id}: {outcome.message} (folder {folder})",
                            failure_id=failure_id, folder=folder, hint=outcome.hint,
                            transient=outcome.exit_code is Exit.TRANSIENT)
        states, repairs = [*done, *outcome.steps], outcome.repairs
    last = {name: state.record for state in states for name in state.inputs if state.record}
    return BundleRun(steps=[last[step["input_file"]] for step in steps],
                     every=[state.record for state in states if state.record], repairs=repairs)


def document(run: BundleRun, steps: list[UserStep], *, folder: Path, name: str,
             parameters: dict[str, Any], references: Sequence[dict[str, str]],
             ) -> UserInputDocument:
    """Return the document of finished steps, without what only their code can tell."""
    from jobflow import CURRENT_JOB

    from orionflow.workflows.schemas import base
    from orionflow.workflows.schemas.user_input import UserInputDocument

    current = CURRENT_JOB.job
    records = run.every
    whole = records[-1].model_copy(update={
        "started_at": records[0].started_at,
        "wall_seconds": sum(r.wall_seconds for r in records),
        "core_seconds": sum(r.core_seconds for r in records),
        "attempts": max(r.attempts for r in records),
        "corrections": [c for r in records for c in r.corrections],
        "continued": sum(r.continued for r in records),
    })
    provenance = base.Provenance.collect(
        input_text="", run=whole, files=[Path(r["path"]) for r in references])
    provenance.input_sha256 = steps[0].input_sha256 if len(steps) == 1 else base.sha256_text(
        "\n".join(step.input_sha256 for step in steps))
    return UserInputDocument(
        code=steps[0].code, code_version=steps[0].code_version,
        task_label=current.name if current else name,
        dir_name=f"{socket.gethostname()}:{folder}", uuid=current.uuid if current else None,
        tags=list(current.metadata.get("tags", [])) if current else [], input=parameters,
        steps=steps, repairs=run.repairs,
        files=sorted(p.name for p in folder.iterdir()), provenance=provenance)


def _link(folder: Path, references: Sequence[dict[str, str]]) -> None:
    for reference in references:
        path = Path(reference["path"])
        if not path.is_file():
            raise InputError(f"file {path} is not there",
                             hint=f"make it readable on {socket.gethostname()}, or submit again")
        if file_sha256(path) != reference["sha256"]:
            raise InputError(f"file {path} is not the one there was at submission (its SHA-256 "
                             f"is not {reference['sha256'][:12]}...)",
                             hint="restore the file, or submit again to use the new one")
        if not reference["name"]:
            continue
        link = folder / reference["name"]
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_symlink():  # of an earlier launch in this folder
            link.unlink()
        link.symlink_to(os.fspath(path))


def _done(folder: Path, steps: Sequence[dict[str, str]],
          files: Sequence[dict[str, str]]) -> list[RunState]:
    """Return the states of the first steps that an earlier launch in this folder finished."""
    from orionflow.workflows.schemas.base import sha256_text

    texts = {file["name"]: file["text"] for file in files}
    done: list[RunState] = []
    for step in steps if len(steps) > 1 else ():
        name = step["input_file"]
        state = read_state(folder, f"{Step((), step['code'], name).stem}.{RECORD_FILE}")
        # An input changed by hand or by a repair is run again.
        if state is None or state.state != "done" or state.record is None or (
                state.inputs != {name: sha256_text(texts[name])}) or (
                state.inputs_now != hash_inputs(folder, [name])):
            break
        done.append(state)
    return done
