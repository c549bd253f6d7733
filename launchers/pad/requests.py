"""What somebody wants of a job that runs; it lies in the launch, for whoever runs it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from orionflow.launchers.pad.documents import Doc

CANCEL_FIELD = "cancel"
CANCELLED_KEY = "_cancelled"


@dataclass(frozen=True)
class CancelRequest:
    """Who wants a job to stop, when, and why.

    Attributes
    ----------
    restartable
        It becomes READY again and goes on in its folder, instead of DEFUSED.
    pause
        It becomes PAUSED, and goes on in its folder when it is resumed.
    """

    who: str
    why: str
    at: str
    restartable: bool = False
    pause: bool = False

    @classmethod
    def now(cls, who: str, why: str, *, restartable: bool = False,
            pause: bool = False) -> CancelRequest:
        """Return a request made at this moment."""
        return cls(who, why, datetime.now(UTC).isoformat(timespec="seconds"),
                   restartable=restartable, pause=pause)

    @classmethod
    def from_dict(cls, data: Any) -> CancelRequest:
        """Return what ``to_dict`` wrote; what anybody else wrote means: stop."""
        data = data if isinstance(data, dict) else {}
        return cls(str(data.get("who", "somebody")), str(data.get("why", "")),
                   str(data.get("at", "")), restartable=data.get("restartable") is True,
                   pause=data.get("pause") is True)

    def to_dict(self) -> Doc:
        """Return plain values for a document."""
        return asdict(self)

    @property
    def becomes(self) -> Literal["DEFUSED", "READY", "PAUSED"]:
        """State of the firework afterwards."""
        return "PAUSED" if self.pause else "READY" if self.restartable else "DEFUSED"

    def describe(self) -> str:
        """Return one line."""
        what = {"PAUSED": "paused", "READY": "stopped and put back",
                "DEFUSED": "cancelled"}[self.becomes]
        return f"{what} by {self.who}" + (f": {self.why}" if self.why else "")
