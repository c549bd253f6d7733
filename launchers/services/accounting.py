"""The history of a private Slurm for `sacct`: slurmdbd on a MariaDB of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from orionflow.errors import LaunchError
from orionflow.launchers.services.processes import (
    end_processes,
    port_taken,
    private_folder,
    processes_with,
    wait_for,
    write_private,
)
from orionflow.launchers.services.programs import find_program, start_daemon
from orionflow.launchers.services.slurm_config import slurmdbd_conf

if TYPE_CHECKING:
    from orionflow.launchers.services.slurm_config import SlurmLayout

APT_LINE = "sudo apt-get install slurmdbd mariadb-server"
PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db", "mariadb-admin")


def start_history(layout: SlurmLayout) -> None:
    """Start MariaDB and slurmdbd unless they run.

    MariaDB has no network port: only a socket in the folder of mode 0700, and it lets in the
    account that owns the process and nobody else.

    Raises
    ------
    ConfigError
        One of them is not installed.
    LaunchError
        One of them fails; the hint names its log.
    """
    for name in PROGRAMS:
        find_program(name, APT_LINE)
    running = processes_with(f"SLURM_CONF={layout.conf}")
    environment = {**os.environ, "SLURM_CONF": layout.conf, "MYSQL_UNIX_PORT":
                   layout.mariadb_socket}
    if not running.get("mariadbd"):
        _start_mariadb(layout, environment)
    if not running.get("slurmdbd"):
        write_private(Path(layout.state) / "slurmdbd.conf", slurmdbd_conf(layout))
        log = Path(layout.state) / "slurmdbd.log"
        start_daemon([find_program("slurmdbd", APT_LINE)], environment, log)
        port = layout.ports[-1]
        if not wait_for(lambda: port_taken(port), 60):
            raise LaunchError("slurmdbd does not answer within 60 s", hint=f"its log: {log}")


def _start_mariadb(layout: SlurmLayout, environment: dict[str, str]) -> None:
    data = Path(layout.state) / "mariadb"
    ready = data / "orionflow-ready"
    log = Path(layout.state) / "mariadb.log"
    if not ready.exists():  # new, or the first attempt was killed half-way
        shutil.rmtree(data, ignore_errors=True)
        private_folder(data)
        _run([find_program("mariadb-install-db", APT_LINE), "--no-defaults", f"--datadir={data}",
              f"--user={layout.user}", "--skip-test-db", "--skip-name-resolve",
              "--auth-root-authentication-method=socket",
              f"--auth-root-socket-user={layout.user}"], environment)
        ready.touch()
    command = [
        find_program("mariadbd", APT_LINE), "--no-defaults", f"--datadir={data}",
        f"--user={layout.user}", f"--socket={layout.mariadb_socket}", "--skip-networking",
        f"--pid-file={layout.state}/mariadb.pid", f"--log-error={log}",
        "--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900",
    ]
    with log.open("ab") as output:
        # It does not make itself a daemon; `setsid --fork` does it without leaving us a child.
        _run(["setsid", "--fork", *command], environment, output=output.fileno())
    ping = [find_program("mariadb-admin", APT_LINE), "--no-defaults",
            f"--socket={layout.mariadb_socket}", f"--user={layout.user}", "ping"]

    def answers() -> bool:
        return subprocess.run(ping, env=environment, capture_output=True,
                              check=False).returncode == 0

    if not wait_for(answers, 60):
        end_processes(processes_with(f"SLURM_CONF={layout.conf}").get("mariadbd", []))
        raise LaunchError("MariaDB does not answer within 60 s", command=command,
                          hint=f"its log: {log}")


def _run(command: list[str], environment: dict[str, str], output: int | None = None) -> None:
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False,
                          stdout=subprocess.PIPE if output is None else output,
                          stderr=subprocess.STDOUT)
    if done.returncode != 0:
        said = done.stdout.decode(errors="replace")[-2000:] if done.stdout else ""
        raise LaunchError(f"{Path(command[0]).name} failed with exit code {done.returncode}",
                          command=command, code=done.returncode, stderr=said,
                          hint=said.strip().splitlines()[-1] if said.strip() else "")
