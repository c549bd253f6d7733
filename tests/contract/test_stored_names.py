"""Names in users' databases: each one ever stored must lead to what it led to.

`stored_names.txt` is the list. A name may be added to it, never removed: what moves leaves a
re-export behind.
"""

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
from jobflow import Maker
from monty.json import MSONable
from pydantic import BaseModel

from orionflow.launchers.failures import CATALOGUE

LIST = Path(__file__).with_name("stored_names.txt")
PACKAGES = ("orionflow.workflows", "orionflow.launchers.record")


def listed(kind):
    rows = (line.split() for line in LIST.read_text().splitlines() if line[:1] not in {"", "#"})
    return [name for row_kind, name in rows if row_kind == kind]


def modules():
    for package in PACKAGES:
        module = importlib.import_module(package)
        yield module
        for found in pkgutil.walk_packages(getattr(module, "__path__", []), package + "."):
            yield importlib.import_module(found.name)


def is_stored_class(thing):
    return inspect.isclass(thing) and issubclass(thing, (Maker, BaseModel, MSONable))


def found(kind):
    """Names that code of today would store."""
    names = set()
    for module in modules():
        for name, thing in vars(module).items():
            if getattr(thing, "__module__", None) != module.__name__:
                continue
            if (kind == "class" and is_stored_class(thing)) or (
                    kind == "job" and inspect.isfunction(thing) and hasattr(thing, "original")):
                names.add(f"{module.__name__}.{name}")
    return names


def load(address):
    module, name = address.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("address", listed("class"))
def test_stored_class_is_still_there(address):
    assert is_stored_class(load(address))


@pytest.mark.parametrize("address", listed("job"))
def test_stored_job_function_is_still_there(address):
    assert hasattr(load(address), "original")


@pytest.mark.parametrize("kind", ["class", "job"])
def test_everything_stored_is_listed(kind):
    unlisted = found(kind) - set(listed(kind))
    assert not unlisted, f"add to {LIST.name}, for good: {sorted(unlisted)}"


def test_no_failure_id_was_removed():
    assert set(listed("failure")) == set(CATALOGUE)
