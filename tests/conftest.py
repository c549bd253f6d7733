"""Services for the tests: a MongoDB, a Slurm, projects on them; all real, all thrown away."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orionflow.errors import ConfigError
from orionflow.launchers.project import (
    JOBFLOW_FILE,
    LAUNCHPAD_FILE,
    DatabaseAccess,
    init_project,
    project_environment,
)
from orionflow.launchers.services.mongod import Mongod, find_mongod
from orionflow.launchers.services.programs import find_program
from orionflow.launchers.services.slurm import PrivateSlurm, slurm_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fireworks import LaunchPad
    from jobflow import JobStore

    from orionflow.launchers.pad import OrionLaunchPad

# The caller's own project and settings are none of the tests' business, session fixtures included.
_REQUIRED = os.environ.get("ORIONFLOW_REQUIRE_ALL") or os.environ.get("TESTS_REQUIRE_ALL")
for _name in [n for n in os.environ if n.startswith("ORIONFLOW_")]:
    del os.environ[_name]
for _name in ("JOBFLOW_CONFIG_FILE", "FW_CONFIG_FILE", "SLURM_CONF"):
    os.environ.pop(_name, None)
if _REQUIRED:
    os.environ["TESTS_REQUIRE_ALL"] = "1"  # workers of pytest-xdist inherit it
REQUIRE_ALL = bool(_REQUIRED)
FAKES = Path(__file__).parent / "fakes"  # importable for the tests: `pythonpath` of pytest
AWKWARD = "pro ject's"
# A runner in the background ignores Ctrl-C, and so would every process the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# For tests that call mpirun themselves: as root in containers, on cores other tests use too.
os.environ.update({"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                   "OMPI_MCA_mpi_yield_when_idle": "1"})


def _missing(what: str) -> None:
    """Skip on a laptop; with ORIONFLOW_REQUIRE_ALL (set by `make test`) a missing need fails."""
    if REQUIRE_ALL:
        pytest.fail(f"{what}; scripts/install-system.sh installs what the tests need")
    pytest.skip(what)


def _installed(program: str) -> bool:
    try:
        find_program(program)
    except ConfigError:
        return False
    return True


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Check the needs of a test before its fixtures start anything."""
    for marker in item.iter_markers("needs_code"):
        for executable in marker.args:
            if not _installed(executable):
                _missing(f"{executable} is not installed")
    try:
        if item.get_closest_marker("needs_mongod"):
            find_mongod()
        if item.get_closest_marker("needs_slurm"):
            for program in ("munged", "slurmctld", "slurmd", "sbatch"):
                find_program(program)
    except ConfigError as error:
        _missing(str(error))


@pytest.fixture(scope="session")
def quick_folder() -> Iterator[Path]:
    """Return a folder for databases nobody kills, in memory where there is room.

    Each test makes some thirty indexes, and for each of them MongoDB waits for the disk.
    """
    memory = Path("/dev/shm")  # noqa: S108  a private folder is made in it
    roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 * 2**30
    with tempfile.TemporaryDirectory(prefix="orionflow-tests-",
                                     dir=memory if roomy else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def mongod(quick_folder: Path) -> Iterator[Mongod]:
    """One authenticated MongoDB for the whole session."""
    server = Mongod(quick_folder / AWKWARD, cache_gb=0.25)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def database(mongod: Mongod) -> Iterator[DatabaseAccess]:
    """Return a database of the test's own, dropped afterwards."""
    access = mongod.access(name=f"orionflow_{uuid.uuid4().hex[:12]}")
    yield access
    with mongod.client() as client:
        client.drop_database(access.name)


@pytest.fixture
def project(tmp_path: Path, database: DatabaseAccess,
            monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a fresh project folder (the current one) with its own database; machine `local`."""
    folder = tmp_path / AWKWARD
    init_project(folder, machine="local", database=database)
    _enter(folder, monkeypatch)
    return folder


@pytest.fixture
def launchpad(project: Path) -> Iterator[LaunchPad]:
    """Return the project's stock LaunchPad, reset."""
    from fireworks import LaunchPad

    launchpad = LaunchPad.from_file(str(project / LAUNCHPAD_FILE))
    launchpad.reset("", require_password=False)
    yield launchpad
    launchpad.connection.close()


@pytest.fixture
def pad(project: Path) -> Iterator[OrionLaunchPad]:
    """Return our own LaunchPad of the project."""
    from orionflow.launchers.launchpad import open_launchpad

    with closing(open_launchpad(project)) as pad:
        yield pad


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes that the test starts import tests/fakes, as the test itself can."""
    monkeypatch.setenv("PYTHONPATH", str(FAKES))


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """Return a folder in which jobs note what they do."""
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


@pytest.fixture
def job_store(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobStore]:
    """Return the project's JobStore, connected, and make it jobflow's own in this process."""
    import yaml
    from jobflow import SETTINGS, JobStore

    spec = yaml.safe_load((project / JOBFLOW_FILE).read_text())["JOB_STORE"]
    store = JobStore.from_dict_spec(spec)
    store.connect()
    monkeypatch.setattr(SETTINGS, "JOB_STORE", store)
    yield store
    store.close()


def _enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in project_environment(folder).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSlurm]:
    """One private Slurm of four virtual nodes for the whole session, with `sacct` if possible."""
    server = PrivateSlurm(tmp_path_factory.mktemp("slurm") / AWKWARD)
    server.start(nodes=4, cpus=2, accounting=REQUIRE_ALL or _installed("slurmdbd"))
    yield server
    server.stop()


@pytest.fixture
def slurm_project(slurm: PrivateSlurm, project: Path,
                  monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a project whose machine is the session's Slurm; its queue is empty at both ends."""
    slurm.start()  # repairs what an earlier test may have killed
    (project / ".orionflow" / "slurm").symlink_to(slurm.folder)
    init_project(project, machine="private-slurm")
    for name, value in slurm_environment(project).items():
        monkeypatch.setenv(name, value)
    yield project
    slurm.start()
    slurm.cancel_jobs()


SMALL_CAMPAIGN = (
    ("lammps.eos", {"force_field": "Si.sw", "number_of_frames": 5,
                    "linear_strain": [-0.01, 0.01]}),
    # Too few SCF steps: corrected once. Far below a converged cutoff and grid: half a second.
    ("qe.static", {"functional": "pz", "ecutwfc": 12, "k_spacing": 0.6,
                   "overrides": {"electrons": {"electron_maxstep": 3}}}),
    # Nothing a correction could do about.
    ("lammps.static", {"force_field": {"pair_style": "lj/cut 8.0", "elements": ["Si"],
                                       "pair_coeff": ["1 1 nonsense 1.0"]}}),
)


@pytest.fixture(scope="session")
def finished_campaign(mongod: Mongod, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with a campaign `small` that has run: an EOS, a healed and a failed job.

    Shared by the whole session: look at it, don't change it.
    """
    folder = tmp_path_factory.mktemp("finished") / AWKWARD
    init_project(folder, machine="local", database=mongod.access(name="orionflow_finished"))
    environment = {**os.environ, **project_environment(folder)}
    orionflow = Path(sys.executable).with_name("orionflow")
    for recipe, parameters in SMALL_CAMPAIGN:
        given = [w for k, v in parameters.items() for w in ("-p", f"{k}={json.dumps(v)}")]
        subprocess.run([orionflow, "submit", recipe, "Si diamond 5.43", "--campaign", "small",
                        *given], cwd=folder, env=environment, check=True, capture_output=True)
    subprocess.run([orionflow, "launch"], cwd=folder, env=environment, check=True, timeout=300,
                   capture_output=True)
    return folder


@pytest.fixture
def wait_until() -> Callable[..., object]:
    """Return ``wait_until(condition, timeout=30, pause=0.1)``.

    It returns the condition's first true value. A condition may also return ``(ok, seen)``;
    then ``seen`` is returned, and named when the test fails after ``timeout`` seconds.
    """
    def wait(condition: Callable[[], object], timeout: float = 30, pause: float = 0.1) -> object:
        end = time.monotonic() + timeout
        while True:
            value = condition()
            ok, seen = value if isinstance(value, tuple) else (value, value)
            if ok:
                return seen
            if time.monotonic() > end:
                return pytest.fail(f"not within {timeout} s; last seen: {seen!r}")
            time.sleep(pause)

    return wait
