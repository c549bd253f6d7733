"""Bearer tokens of agents that come over HTTP: random, stored hashed, expiring, revocable."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pymongo.write_concern import WriteConcern

from orionflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from pymongo.database import Database

COLLECTION = "agent_tokens"
SCOPES = ("read", "propose", "control")
MOST_DAYS = 366
_PREFIX = "ofa"
_LONGEST = 200


@dataclass(frozen=True)
class Token:
    """What is known of a token; never the token itself."""

    id: str
    agent: str
    scopes: tuple[str, ...]
    created: datetime
    expires: datetime
    by: str
    revoked: datetime | None = None

    @property
    def state(self) -> str:
        """``valid``, ``expired`` or ``revoked``."""
        if self.revoked is not None:
            return "revoked"
        return "valid" if self.expires > datetime.now(UTC) else "expired"


class Tokens:
    """The tokens of a project.

    Parameters
    ----------
    database
        The project's.
    """

    def __init__(self, database: Database[Any]) -> None:
        self._documents = database.get_collection(
            COLLECTION, write_concern=WriteConcern(w="majority", j=True))

    def create(self, agent: str, scopes: Iterable[str], *, days: float, by: str
               ) -> tuple[str, Token]:
        """Make a token; its text is returned this once and stored nowhere.

        Raises
        ------
        InputError
            An unknown scope, or a life that is not between zero and a year.
        """
        wanted = check_scopes(scopes)
        if not 0 < days <= MOST_DAYS:
            raise InputError(f"a token can't live {days:g} days", hint=f"up to {MOST_DAYS}")
        now = datetime.now(UTC)
        token = Token(secrets.token_hex(6), agent, wanted, now, now + timedelta(days=days), by)
        text = f"{_PREFIX}_{token.id}_{secrets.token_urlsafe(32)}"
        self._documents.insert_one({
            "_id": token.id, "sha256": _sha256(text), "agent": agent, "scopes": list(wanted),
            "created": now, "expires": token.expires, "by": by, "revoked": None})
        return text, token

    def check(self, text: str) -> Token | None:
        """Return whose token this is; None when it is not valid, for whatever reason."""
        prefix, _, rest = text.partition("_")
        token_id, _, secret = rest.partition("_")
        if prefix != _PREFIX or not secret or len(text) > _LONGEST:
            return None
        found = self._documents.find_one({"_id": token_id})
        # Compared even when there is none, so that the time taken tells nothing.
        same = hmac.compare_digest(_sha256(text), found["sha256"] if found else "0" * 64)
        if not same or found is None:
            return None
        token = _token(found)
        return token if token.state == "valid" else None

    def all(self) -> list[Token]:
        """Return all tokens, oldest first."""
        return [_token(d) for d in self._documents.find({}, sort=[("created", 1)])]

    def revoke(self, token_id: str) -> Token:
        """Make a token invalid at once.

        Raises
        ------
        InputError
            There is none with this id.
        """
        self._documents.update_one({"_id": token_id, "revoked": None},
                                   {"$set": {"revoked": datetime.now(UTC)}})
        found = self._documents.find_one({"_id": token_id})
        if found is None:
            raise InputError(f"there is no token {token_id!r}",
                             hint="orionflow agent token list shows them")
        return _token(found)


def check_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """Return scopes in their order, each once; InputError for an unknown one or none."""
    wanted: Collection[str] = set(scopes)
    if unknown := sorted(set(wanted) - set(SCOPES)):
        raise InputError(f"there is no scope {unknown[0]!r}", hint=f"valid: {', '.join(SCOPES)}")
    if not wanted:
        raise InputError("no scope given", hint=f"valid: {', '.join(SCOPES)}")
    return tuple(s for s in SCOPES if s in wanted)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _token(found: dict[str, Any]) -> Token:
    return Token(found["_id"], found["agent"], tuple(found["scopes"]), _utc(found["created"]),
                 _utc(found["expires"]), found["by"],
                 _utc(found["revoked"]) if found["revoked"] else None)


def _utc(value: datetime) -> datetime:
    return value if value.tzinfo else value.replace(tzinfo=UTC)
