"""The distribution is the tree: nothing missing from the wheel, nothing importable twice."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAPPED = ("agents", "analysis", "fw_config", "launchers", "workflows")


def modules_in_tree():
    """Every module file, as the path it has inside a wheel."""
    found = set()
    for top in ("orionflow", *MAPPED):
        for folder, subfolders, files in os.walk(ROOT / top, followlinks=False):
            subfolders[:] = [s for s in subfolders if s != "__pycache__"]
            where = Path(folder).relative_to(ROOT)
            inside = where if top == "orionflow" else Path("orionflow") / where
            found |= {str(inside / f) for f in files if f.endswith(".py")}
    return found


def packages_in_tree():
    return {str(Path(m).parent).replace("/", ".") for m in modules_in_tree()}


def test_packages_list_equals_the_tree():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert set(config["packages"]) == packages_in_tree()
    assert set(config["package-dir"]) == {"orionflow", *(f"orionflow.{m}" for m in MAPPED)}


@pytest.mark.parametrize("name", MAPPED)
def test_import_under_the_folder_name_is_refused(name):
    run = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=ROOT, text=True,
                         capture_output=True, check=False)
    assert run.returncode != 0
    assert f"the name is 'orionflow.{name}'" in run.stderr


@pytest.mark.parametrize("name", MAPPED)
def test_symlink_leads_to_the_real_folder(name):
    link = ROOT / "orionflow" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """A wheel built from the sdist, as an index would serve it."""
    out = tmp_path_factory.mktemp("dist")
    run = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT],
        capture_output=True, text=True, check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = out.glob("*.whl")
    return path


def test_wheel_from_sdist_holds_every_module(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert modules_in_tree() <= names


def test_wheel_from_sdist_holds_the_data_files(wheel):
    data = {str(Path("orionflow") / f.relative_to(ROOT)) for f in (ROOT / "fw_config").rglob("*")
            if f.is_file() and f.suffix not in {".pyc", ".py"}}
    data.add("orionflow/py.typed")
    with zipfile.ZipFile(wheel) as archive:
        missing = data - set(archive.namelist())
    assert data
    assert not missing


def test_every_tracked_file_is_free_of_secrets():
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if tracked.returncode != 0:
        pytest.fail("not a git checkout: the list of published files can't be read")
    names = [n for n in tracked.stdout.decode().split("\0") if n]
    assert "my_launchpad.yaml" in names
    launchpad = (ROOT / "my_launchpad.yaml").read_text()
    assert "password: null" in launchpad
    assert not [n for n in names if n.startswith(".orionflow/") or n.endswith(".key")]
