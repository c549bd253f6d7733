"""Jobs that do nothing, or nothing but take time; imports jobflow alone, for jobflow-remote too."""

from __future__ import annotations

import time

from jobflow import Flow, Job, Response, job


@job
def nothing() -> int:
    """Return a number."""
    return 1


@job
def pause(seconds: float) -> float:
    """Sleep."""
    time.sleep(seconds)
    return seconds


@job
def after(before: int) -> int:
    """Take what came before."""
    return before


@job
def many(size: int) -> Response:
    """Append so many jobs."""
    return Response(output=size, addition=Flow([nothing() for _ in range(size)]))


def chain(length: int) -> Flow:
    """Return jobs one after the other."""
    jobs: list[Job] = [nothing()]
    for _ in range(length - 1):
        jobs.append(after(jobs[-1].output))
    return Flow(jobs)


def flows(shape: str, size: int) -> list[Flow]:
    """Return work of so many jobs: ``single`` (each a flow of its own), ``flat``, ``chain``."""
    if shape == "single":
        return [Flow([nothing()]) for _ in range(size)]
    return [chain(size) if shape == "chain" else Flow([nothing() for _ in range(size)])]
