"""What a check says, and how checks are run so that one can't hide the others."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from orionflow.errors import OrionflowError
from orionflow.launchers.machine import MachineProfile, load_machine
from orionflow.log import get_logger
from orionflow.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

logger = get_logger(__name__)
State = Literal["ok", "warn", "broken"]


@dataclass(frozen=True)
class Finding:
    """Outcome of one check.

    Attributes
    ----------
    name
        What was checked.
    state
        ``ok``; ``warn``: works, but not for long or not for all; ``broken``: jobs will fail, wait
        for ever or lose results.
    seen
        What was found.
    advice
        What to do; empty when all is well.
    """

    name: str
    state: State
    seen: str
    advice: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Site:
    """What the checks look at: a project, its settings and its machine profile."""

    project: Path
    settings: Settings
    machine: MachineProfile

    @classmethod
    def of(cls, project: Path) -> Site:
        """Read the site of a project.

        Raises
        ------
        ConfigError
            Settings or machine profile are wrong.
        """
        return cls(project, load_settings(project), load_machine(project=project))


def run_checks(site: Site, checks: Iterable[Callable[[Site], Iterable[Finding]]]) -> list[Finding]:
    """Run checks in order; one that fails is a finding itself."""
    findings: list[Finding] = []
    for check in checks:
        name = check.__name__.replace("_", " ")
        try:
            findings += check(site)
        except OrionflowError as error:
            findings.append(Finding(name, "broken", error.message, error.hint))
        except Exception as error:  # a doctor looks at broken things: go on
            logger.debug("check %s failed", name, exc_info=True)
            findings.append(Finding(name, "broken", f"{type(error).__name__}: {error}",
                                    "the check itself failed; `orionflow -v doctor` says where"))
    return findings
