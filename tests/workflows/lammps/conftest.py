from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pymatgen.core import Lattice, Structure

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def run(tmp_path, monkeypatch) -> Callable[..., Any]:
    """Return ``run(maker, structure, prev_dir=None)``: the real job function, each in a folder."""
    count = 0

    def run(maker, structure, prev_dir=None):
        nonlocal count
        folder = tmp_path / f"run {count}'s"
        count += 1
        folder.mkdir()
        monkeypatch.chdir(folder)
        job = maker.make(structure, prev_dir)
        return type(maker).calculate.original(job.maker, *job.function_args)

    return run


@pytest.fixture
def silicon() -> Structure:
    """Primitive cell at the lattice constant of the Stillinger-Weber potential."""
    return Structure(Lattice([[0, 2.7155, 2.7155], [2.7155, 0, 2.7155], [2.7155, 2.7155, 0]]),
                     ["Si", "Si"], [[0, 0, 0], [0.25, 0.25, 0.25]])


@pytest.fixture
def copper() -> Structure:
    """Conventional cell."""
    return Structure(Lattice.cubic(3.615), ["Cu"] * 4,
                     [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
