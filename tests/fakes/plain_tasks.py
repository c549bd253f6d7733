"""Firetasks that take time or fail; FireWorks' own ones import its whole test suite."""

from __future__ import annotations

import time
from pathlib import Path

from fireworks import FiretaskBase, explicit_serialize

from orionflow.launchers.custodian.jobs import CodeJob


@explicit_serialize
class Plain(FiretaskBase):
    """Sleep, then end well or not."""

    required_params = ("seconds",)
    optional_params = ("fail",)

    def run_task(self, fw_spec):  # noqa: ARG002  FireWorks passes it
        time.sleep(self["seconds"])
        if self.get("fail"):
            raise ValueError("this input can't be right")


@explicit_serialize
class Nap(FiretaskBase):
    """Run `sleep` as codes are run, for as long as a file says; note start and end outside."""

    required_params = ("folder",)

    def run_task(self, fw_spec):  # noqa: ARG002  FireWorks passes it
        marks = Path(self["folder"])
        command = ["sh", "-c", 'echo $$ > "$1.part"; mv "$1.part" "$1"; exec sleep "$2"', "nap",
                   str(marks / "sleep_pid"), (marks / "seconds").read_text()]
        process = CodeJob(command, stdout="out", stderr="err").run(".")
        if process.returncode == 0:
            with (marks / "ended").open("a") as file:
                file.write("x")


@explicit_serialize
class Wait(FiretaskBase):
    """Note the start outside, with the own folder; wait for a file there, note the end."""

    required_params = ("folder",)

    def run_task(self, fw_spec):  # noqa: ARG002  FireWorks passes it
        marks = Path(self["folder"])
        (marks / "started.part").write_text(str(Path.cwd()))
        (marks / "started.part").rename(marks / "started")
        while not (marks / "go").exists():
            time.sleep(0.05)
        with (marks / "ended").open("a") as file:
            file.write("x")
