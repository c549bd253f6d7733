"""What a job needs: nodes, MPI ranks, threads, memory, GPUs, walltime."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from orionflow.errors import InputError

_SECONDS = re.compile(r"(?:(?P<d>\d+)-)?(?P<h>\d+):(?P<m>\d{1,2})(?::(?P<s>\d{1,2}))?")
_MEMORY = re.compile(r"(?P<n>\d+(?:\.\d+)?)\s*(?P<u>[KMGT]?)i?B?", re.IGNORECASE)
_MIB = {"K": 1 / 1024, "": 1.0, "M": 1.0, "G": 1024.0, "T": 1024.0**2}


def parse_walltime(value: object) -> object:
    """Return seconds from ``"D-HH:MM:SS"``, ``"HH:MM:SS"`` or ``"HH:MM"``; numbers pass."""
    if isinstance(value, str) and (m := _SECONDS.fullmatch(value.strip())):
        d, h, mi, s = (int(m[k] or 0) for k in "dhms")
        return ((d * 24 + h) * 60 + mi) * 60 + s
    return value


def parse_memory(value: object) -> object:
    """Return MiB from ``"4GB"``, ``"500 MiB"``; numbers pass and are MiB already."""
    if isinstance(value, str) and (m := _MEMORY.fullmatch(value.strip())):
        return round(float(m["n"]) * _MIB[m["u"].upper()])
    return value


class Resources(BaseModel):
    """What one job asks for; the whole job, not a node or a rank.

    Attributes
    ----------
    nodes
        Compute nodes.
    ranks
        MPI processes over all nodes.
    threads
        OpenMP threads of each rank.
    memory
        MiB on each node, or None for a share in proportion to the cores.
    gpus
        GPUs on each node.
    walltime
        Seconds the job may take; also accepts ``"HH:MM:SS"`` and ``"D-HH:MM:SS"``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: int = Field(default=1, ge=1)
    ranks: int = Field(default=1, ge=1)
    threads: int = Field(default=1, ge=1)
    memory: Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(parse_memory)] = None
    gpus: int = Field(default=0, ge=0)
    walltime: Annotated[int, BeforeValidator(parse_walltime), Field(ge=1)] = 3600

    @property
    def cores(self) -> int:
        """Cores kept busy: ranks times threads."""
        return self.ranks * self.threads

    def to_spec(self) -> dict[str, Any]:
        """Return plain values as they stand in a firework's spec."""
        values = self.model_dump(exclude_none=True)
        return {k: v for k, v in values.items() if k != "gpus" or v}

    @classmethod
    def parse(cls, value: Resources | dict[str, Any] | None) -> Resources:
        """Return checked resources.

        Raises
        ------
        InputError
            A name is unknown or a value impossible (negative walltime, no ranks ...).
        """
        if isinstance(value, cls):
            return value
        try:
            return cls.model_validate(value or {})
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            raise InputError(
                f"resources: {name} = {first.get('input')!r}: {first['msg']}",
                hint="valid: nodes, ranks, threads, memory (MiB or '4GB'), gpus, "
                "walltime (seconds or 'HH:MM:SS')",
            ) from error
