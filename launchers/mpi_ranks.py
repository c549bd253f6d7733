"""What a launch command given by a user says about ranks and pools."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_RANKS = ("-np", "-n", "--np", "-c", "--ntasks")
_POOLS = ("-nk", "-npool", "-npools", "--nk", "-nkpool")


def rank_count(command: Sequence[str]) -> int:
    """Return the number of MPI ranks a command asks for; 1 when it does not say."""
    for word, value in pairwise(command):
        if word in _RANKS and value.isdigit():
            return max(1, int(value))
    for word in command:
        name, _, value = word.partition("=")
        if name in {"--ntasks", "-n"} and value.isdigit():
            return max(1, int(value))
    return 1


def pool_option(command: Sequence[str]) -> tuple[int, int] | None:
    """Return where the value of ``-nk`` stands in a command, and the value."""
    for index, word in enumerate(command[:-1]):
        if word in _POOLS and command[index + 1].isdigit():
            return index + 1, int(command[index + 1])
    return None
