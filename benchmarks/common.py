"""What the benchmarks share: a throw-away MongoDB, counted round trips, tables."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from fireworks import FWorker, LaunchPad
from pymongo.monitoring import CommandListener
from rich.console import Console
from rich.table import Table

from orionflow.launchers.pad import OrionLaunchPad
from orionflow.launchers.services.mongod import Mongod

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKER = FWorker("bench")


class Trips(CommandListener):
    """Counts commands sent to MongoDB."""

    def __init__(self) -> None:
        self.count = 0

    def started(self, event: Any) -> None:
        """Count one."""
        self.count += event is not None

    def succeeded(self, event: Any) -> None:
        """Ignore."""

    def failed(self, event: Any) -> None:
        """Ignore."""


@contextmanager
def server() -> Iterator[Mongod]:
    """Start a MongoDB in a temporary folder; stopped and removed at the end."""
    with tempfile.TemporaryDirectory(prefix="orion-bench-") as folder:
        mongod = Mongod(Path(folder) / "mongo", cache_gb=2)
        mongod.start()
        try:
            yield mongod
        finally:
            mongod.stop()


def open_pad(mongod: Mongod, kind: str) -> Any:
    """Return an empty LaunchPad; ``kind`` is stock, stock+j (journaled) or orion.

    Its ``trips`` counts round trips.
    """
    access = mongod.access("bench_" + kind.replace("+", "_"))
    trips = Trips()
    options: dict[str, Any] = {"event_listeners": [trips]}
    if kind == "stock+j":
        options["journal"] = True
    cls = OrionLaunchPad if kind == "orion" else LaunchPad
    pad = cls(host=access.host, port=access.port, name=access.name, username=access.username,
              password=access.password, authsource=access.auth_source, strm_lvl="CRITICAL",
              mongoclient_kwargs=options)
    for collection in ("fireworks", "launches", "workflows"):
        pad.db.drop_collection(collection)
    pad.reset("", require_password=False)
    pad.trips = trips
    state = json.loads((mongod.folder / "server.json").read_text())
    pad.mongod_pid = state["process"]["pid"]
    return pad


def cpu(pad: Any) -> float:
    """Return the CPU time of this process and of mongod so far, s."""
    fields = Path(f"/proc/{pad.mongod_pid}/stat").read_text().rsplit(")", 1)[1].split()
    return time.process_time() + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def quiet_folder() -> Iterator[Path]:
    """Work in a temporary folder with standard output thrown away (Rockets are talkative)."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="orion-bench-") as folder, \
            Path(os.devnull).open("w") as null:
        out, err = sys.stdout, sys.stderr
        os.chdir(folder)
        sys.stdout = sys.stderr = null
        try:
            yield Path(folder)
        finally:
            sys.stdout, sys.stderr = out, err
            os.chdir(before)


def middle(values: list[float]) -> float:
    """Return the median."""
    return float(median(values))


def show(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Print a table."""
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    for row in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else "-" if v is None else str(v)
                        for v in row))
    # A pipe has no width; a table must not be cut to 80 columns there.
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def machine() -> dict[str, Any]:
    """Return what to know of the machine beside the numbers."""
    return {"python": platform.python_version(), "cores": os.cpu_count(),
            "load": [round(x, 1) for x in os.getloadavg()]}


def print_json(name: str, results: dict[str, Any]) -> None:
    """Print one line of JSON, for machines."""
    sys.stdout.write(json.dumps({"benchmark": name, **machine(), **results}) + "\n")
