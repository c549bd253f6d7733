"""How long jobs take, learned from those that have finished.

A job is known by its recipe with all parameters that may change its length, by the number of its
atoms where the stored job holds a structure, and by its cores. Samples are kept in a collection of
ours, so that a launcher asks for a few small documents and never searches finished jobs.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pymongo import DESCENDING, UpdateOne
from pymongo.errors import OperationFailure

from orionflow.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fireworks.core.launchpad import LaunchPad

log = get_logger(__name__)
COLLECTION = "orionflow_runtimes"
_WATERMARK = "watermark"
_SAMPLES = 30
# Fewer say too little about the scatter.
_ENOUGH = 3
# On the longest of those seen: the machine may be busier, the structure harder.
_MARGIN = 1.5
# Launches looked at in one go; most of them the first time.
_BATCH, _FIRST_BATCH = 500, 3000
_EVERY = 60.0
# What differs between jobs of one kind without making them longer.
_IDLE_FIELDS = frozenset({"name", "seed", "@version"})
# The steepest growth with the number of atoms that is usual (diagonalisation).
_GROWTH = 3


@dataclass(frozen=True)
class JobKind:
    """What run times are kept by.

    Attributes
    ----------
    recipe
        For people: the function and its Maker.
    fingerprint
        Sum of the function with its parameters.
    atoms
        Atoms of the structure it is given; 0 when not known before it starts.
    cores
        Ranks times threads.
    """

    recipe: str
    fingerprint: str
    atoms: int
    cores: int

    @property
    def key(self) -> str:
        """Its id in the collection."""
        return f"{self.fingerprint}:{self.atoms}:{self.cores}"

    @classmethod
    def of(cls, fw: dict[str, Any]) -> JobKind:
        """Return the kind of a firework, given as stored."""
        spec = _dict(fw.get("spec"))
        tasks = _list(spec.get("_tasks"))
        asked = _dict(spec.get("resources"))
        cores = max(1, _int(asked.get("ranks", 1)) * _int(asked.get("threads", 1)))
        job = _dict(tasks[0] if tasks else None).get("job")
        if not isinstance(job, dict):  # not from jobflow: the tasks themselves
            return cls(str(fw.get("name", "")), _sum([fw.get("name"), tasks]), 0, cores)
        function = _dict(job.get("function"))
        bound = _dict(function.get("@bound"))
        parts = (function.get("@module"), bound.get("@class"), function.get("@callable"))
        name = ".".join(str(p) for p in parts if p)
        arguments = [*_list(job.get("function_args")),
                     *_dict(job.get("function_kwargs")).values()]
        return cls(name, _sum([name, _without(bound)]),
                   max((_atoms(a) for a in arguments), default=0), cores)


class RunTimes:
    """Run times of the jobs of one database.

    Parameters
    ----------
    pad
        Its LaunchPad, of any class.
    every
        Look for newly finished jobs, and forget what was looked up, after so many seconds.
    """

    def __init__(self, pad: LaunchPad, *, every: float = _EVERY) -> None:
        self.pad = pad
        self.every = every
        self._known: dict[str, list[dict[str, Any]]] = {}
        self._looked = float("-inf")

    @property
    def _stored(self) -> Any:
        return self.pad.db[COLLECTION]

    def seconds(self, fw_doc: dict[str, Any]) -> float | None:
        """Return the longest time a job is expected to take, s; None when nothing is known.

        Where only other sizes are known, the time grows with the third power of the number of
        atoms, and never shrinks with more cores.

        Parameters
        ----------
        fw_doc
            The firework as stored, with its spec.
        """
        if (fw_doc.get("spec") or {}).get("_continued"):
            return None  # how far it got is not known here
        now = time.monotonic()
        if now - self._looked > self.every:
            self._looked = now
            self._known.clear()
            try:
                self.learn()
            except OperationFailure as error:  # what is known already must do
                log.warning("run times can't be learned: %s", str(error)[:200])
        kind = JobKind.of(fw_doc)
        if kind.fingerprint not in self._known:
            self._known[kind.fingerprint] = list(
                self._stored.find({"fingerprint": kind.fingerprint}))
        found = [d for d in self._known[kind.fingerprint] if len(d["samples"]) >= _ENOUGH]
        exact = [d for d in found if (d["atoms"], d["cores"]) == (kind.atoms, kind.cores)]
        if not exact and not kind.atoms:
            exact = [d for d in found if d["cores"] == kind.cores]
        return max((_upper(d["samples"]) * _scale(d, kind) for d in exact or found
                    if bool(d["atoms"]) == bool(kind.atoms)), default=None)

    def learn(self) -> int:
        """Take in what has finished since anybody did so last; return how many jobs.

        Cheap, and harmless from many processes at once: one of them does it.
        """
        old = self._stored.find_one({"_id": _WATERMARK}) or {}
        since = old.get("until", "")
        launches = list(self.pad.launches.find(
            {"time_end": {"$gt": since}, "state": "COMPLETED"},
            {"_id": 0, "fw_id": 1, "runtime_secs": 1, "time_end": 1},
            sort=[("time_end", DESCENDING)], limit=_BATCH if since else _FIRST_BATCH))
        if not launches:
            return 0
        until = {"$set": {"until": launches[0]["time_end"]}}
        if not since:
            self._stored.create_index("fingerprint")
            mine = self._stored.update_one(
                {"_id": _WATERMARK}, {"$setOnInsert": until["$set"]}, upsert=True).upserted_id
        else:
            mine = self._stored.update_one({"_id": _WATERMARK, "until": since},
                                           until).modified_count
        if not mine:
            return 0  # another was faster
        return self._take_in({i["fw_id"]: i["runtime_secs"] for i in launches
                              if isinstance(i.get("runtime_secs"), (int, float))})

    def _take_in(self, seconds: dict[int, float]) -> int:
        kinds: dict[JobKind, list[float]] = {}
        ids = sorted(seconds)
        for begin in range(0, len(ids), _BATCH):
            for fw in self.pad.fireworks.aggregate(_history(ids[begin:begin + _BATCH])):
                kinds.setdefault(JobKind.of(fw), []).append(seconds[fw["fw_id"]])
        if kinds:
            self._stored.bulk_write([UpdateOne(
                {"_id": kind.key},
                {"$set": {"recipe": kind.recipe, "fingerprint": kind.fingerprint,
                          "atoms": kind.atoms, "cores": kind.cores},
                 "$push": {"samples": {"$each": found[-_SAMPLES:], "$slice": -_SAMPLES}}},
                upsert=True) for kind, found in kinds.items()], ordered=False)
        return sum(map(len, kinds.values()))


def _history(fw_ids: list[int]) -> list[dict[str, Any]]:
    """Return the pipeline that gives finished fireworks, with sizes in place of structures."""
    # Others may have written anything: an operator that is given what it can't take fails for all.
    args, kwargs = "$task.job.function_args", "$task.job.function_kwargs"
    named = {"$cond": [{"$eq": [{"$type": kwargs}, "object"]}, kwargs, {}]}
    arguments = {"$concatArrays": [
        {"$cond": [{"$isArray": args}, args, []]},
        {"$map": {"input": {"$objectToArray": named}, "in": "$$this.v"}}]}
    sites = {"$cond": [{"$eq": [{"$type": "$$this"}, "object"]}, "$$this.sites", None]}
    sizes = {"$map": {"input": arguments, "in": {"sites": {
        "$cond": [{"$isArray": sites}, {"$size": {"$ifNull": [sites, []]}}, 0]}}}}
    task = {"$cond": [{"$eq": [{"$type": "$task.job"}, "object"]},
                      [{"job": {"function": "$task.job.function", "function_args": sizes}}],
                      "$spec._tasks"]}
    return [
        # One that went on in several launches has no time of its own.
        {"$match": {"fw_id": {"$in": fw_ids}, "state": "COMPLETED", "archived_launches": []}},
        {"$set": {"task": {"$cond": [{"$isArray": "$spec._tasks"}, {"$first": "$spec._tasks"},
                                     None]}}},
        {"$project": {"_id": 0, "fw_id": 1, "name": 1,
                      "spec": {"resources": "$spec.resources", "_tasks": task}}},
    ]


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without(v) for k, v in value.items() if k not in _IDLE_FIELDS}
    return [_without(v) for v in value] if isinstance(value, list) else value


def _atoms(value: Any) -> int:
    sites = value.get("sites") if isinstance(value, dict) else None
    return len(sites) if isinstance(sites, list) else sites if isinstance(sites, int) else 0


def _sum(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _upper(samples: Iterable[float]) -> float:
    return _MARGIN * max(samples)


def _scale(known: dict[str, Any], kind: JobKind) -> float:
    factor = max(1.0, known["cores"] / kind.cores)
    if known["atoms"] and kind.atoms:
        factor *= max(1.0, kind.atoms / known["atoms"]) ** _GROWTH
    return float(factor)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _int(value: Any) -> int:
    return value if isinstance(value, int) else 1
