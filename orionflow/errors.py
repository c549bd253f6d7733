"""The exceptions of orionflow: what went wrong, where, and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class OrionflowError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    message
        What is wrong, naming the thing.
    hint
        What to do next.
    transient
        Whether the same attempt may succeed later, unchanged.
    """

    def __init__(self, message: str, *, hint: str = "", transient: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.transient = transient

    def __str__(self) -> str:
        """Message, then the hint on its own line."""
        return f"{self.message}\n  -> {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """Keyword-only arguments do not survive Exception's own pickling."""
        return _rebuild, (type(self), dict(self.__dict__))

    def to_dict(self) -> dict[str, Any]:
        """Fields as FireWorks stores them beside a stack trace (``_exception._details``)."""
        fields = {k: v if v is None or isinstance(v, (bool, int, float, str)) else str(v)
                  for k, v in self.__dict__.items()}
        return {"error": type(self).__name__, **fields}


def database_reason(error: Exception) -> str:
    """Return what a driver's message says, without the description of its topology after it."""
    text = str(error)
    for tail in (" (configured timeouts", ", Timeout:", ", full error:"):
        text = text.split(tail, maxsplit=1)[0]
    return text


def _rebuild(cls: type[OrionflowError], fields: dict[str, Any]) -> OrionflowError:
    error = cls.__new__(cls)
    Exception.__init__(error, fields["message"])
    error.__dict__.update(fields)
    return error


class ConfigError(OrionflowError, ValueError):
    """Settings, a machine profile or a configuration file are wrong."""


class InputError(OrionflowError, ValueError):
    """What the user asked for can't be done; found before anything is submitted."""


class LaunchError(OrionflowError, RuntimeError):
    """A command could not be started or failed on its own account (sbatch, mpirun, mongod)."""

    def __init__(self, message: str, *, command: Sequence[str] = (), code: int | None = None,
                 stderr: str = "", hint: str = "", transient: bool = False) -> None:
        super().__init__(message, hint=hint, transient=transient)
        self.command = list(command)
        self.code = code
        self.stderr = stderr


class CodeError(OrionflowError, RuntimeError):
    """A simulation code failed and corrections, if any, did not help."""

    def __init__(self, message: str, *, failure_id: str, folder: str | Path, hint: str = "",
                 transient: bool = False) -> None:
        super().__init__(message, hint=hint, transient=transient)
        self.failure_id = failure_id
        self.folder = str(folder)


class OutputError(OrionflowError, ValueError):
    """An output file is not what its code writes when it ends well."""

    def __init__(self, message: str, *, path: str | Path, line: int | None = None,
                 expected: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.path = str(path)
        self.line = line
        self.expected = expected


class StoreError(OrionflowError, ConnectionError):
    """MongoDB or the JobStore can't be reached, read or written."""


class PolicyError(OrionflowError, PermissionError):
    """An agent or user asked for what the policy does not allow."""

    def __init__(self, message: str, *, rule: str, asked: object, allowed: object,
                 hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.rule = rule
        self.asked = asked
        self.allowed = allowed
