"""Real jobflow jobs that take no physics: for submitting, launching, killing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from jobflow import Flow, Response, job
from plain_tasks import Wait

from orionflow.errors import CodeError
from orionflow.launchers.custodian.jobs import CodeJob


@job
def add(a, b):
    """Leave one mark for each time it really runs."""
    with Path("ran").open("a") as file:
        file.write("x")
    return a + b


@job
def nap(seconds, folder):
    """Run `sleep` as our codes are run, and note start and end in a folder outside."""
    marks = Path(folder)
    with (marks / "started").open("a") as file:
        file.write(f"{os.getpid()} {Path.cwd()}\n")
    script = 'echo $$ > "$1.part"; mv "$1.part" "$1"; exec sleep "$2"'
    CodeJob(["sh", "-c", script, "nap", str(marks / "sleep_pid"), str(seconds)],
            stdout="out", stderr="err").run(".")
    with (marks / "ended").open("a") as file:
        file.write("x")
    return seconds


@job
def wait(folder):
    """As the task in plain_tasks, but the result goes to the JobStore."""
    Wait(folder=folder).run_task({})


@job
def out_of_time(times, failure_id="QE_WALLTIME"):
    """Fail for an outside reason so often, counted in its own folder, then end well."""
    done = Path("attempts")
    count = len(done.read_text()) if done.exists() else 0
    if count < times:
        done.write_text("x" * (count + 1))
        raise CodeError(f"{failure_id}: not its fault", failure_id=failure_id,
                        folder=Path.cwd(), transient=True)
    return count


@job
def fails():
    raise ValueError("this input can't be right")


@job
def resources_seen():
    """Return what the job's surroundings tell it."""
    from orionflow.launchers.context import job_context

    context = job_context()
    return {"ranks": context.resources.ranks, "deadline": context.deadline}


@job
def replaces():
    first = add(1, 1)
    second = add(first.output, 1)
    return Response(replace=Flow([first, second], output=second.output, name="inner"))


@job
def detours():
    return Response(output=0, detour=add(2, 2))


@job
def adds():
    return Response(output=0, addition=Flow([add(3, 3)]))


def command(*words, **options):
    """Start a command of this virtual environment, as a user would."""
    program = Path(sys.executable).with_name(words[0])
    return subprocess.Popen([str(program), *map(str, words[1:])], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def run(*words, timeout=120, **options):
    """Run a command of this virtual environment to its end; return code, stdout, stderr."""
    process = command(*words, **options)
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err
