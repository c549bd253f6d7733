"""The audit trail in MongoDB: every call of an agent before its effect, and what came of it.

Rows are added and never changed. ``_id`` counts them without a gap, and each holds the hash of the
row before: what is edited, removed or put in is found by `Audit.verify`. Only the end can be cut
off unseen, unless somebody remembers the last hash; see its ``head``.
"""

from __future__ import annotations

import hashlib
import json
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pymongo import ASCENDING, DESCENDING
from pymongo.errors import DuplicateKeyError, PyMongoError
from pymongo.write_concern import WriteConcern

from orionflow.agents.answers import clean_text
from orionflow.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pymongo.database import Database

COLLECTION = "agent_audit"
_ARGUMENTS = 8_000
_PATIENCE = 2_000


class Audit:
    """The audit trail of a project.

    Parameters
    ----------
    database
        The project's.
    """

    def __init__(self, database: Database[Any]) -> None:
        self._plain = database.get_collection(COLLECTION)
        # A row that comes before an effect must outlive a killed mongod, as the effect does.
        self._durable = database.get_collection(
            COLLECTION, write_concern=WriteConcern(w="majority", j=True))
        self._lock = threading.Lock()

    def call(self, *, agent: str, via: str, user: str, tool: str, arguments: object,
             durable: bool) -> int:
        """Write down a call before anything is done; return its number.

        Parameters
        ----------
        arguments
            As they came, right or wrong.
        durable
            Wait until the row is in MongoDB's journal.

        Raises
        ------
        StoreError
            It could not be written: nothing may be done.
        """
        text, sha256 = _readable(arguments)
        return self._add({"kind": "call", "agent": agent, "via": via, "user": user,
                          "tool": clean_text(tool, 80), "arguments": text,
                          "arguments_sha256": sha256}, durable=durable)

    def outcome(self, call: int, *, ok: bool, text: str, rule: str = "", seconds: float = 0.0,
                durable: bool = False) -> int:
        """Write down what came of a call.

        Parameters
        ----------
        ok
            False for everything refused or failed.
        text
            What was answered, short.
        rule
            Of the policy, if one was broken.
        """
        return self._add({"kind": "outcome", "of": call, "ok": ok, "text": clean_text(text, 600),
                          "rule": rule, "seconds": round(seconds, 4)}, durable=durable)

    def note(self, *, user: str, what: str, text: str) -> int:
        """Write down what a person did: an approval, a stop, a token."""
        return self._add({"kind": "person", "user": user, "what": what,
                          "text": clean_text(text, 600)}, durable=True)

    # ---------------------------------------------------------------------------- reading

    def rows(self, *, last: int = 0, agent: str | None = None) -> list[dict[str, Any]]:
        """Return rows, oldest first; ``last`` keeps only so many of the newest."""
        query = {} if agent is None else {"agent": agent}
        found = self._plain.find(query, sort=[("_id", DESCENDING)], limit=last)
        return list(found)[::-1]

    def count(self, kind: str) -> int:
        """Return the number of rows of a kind."""
        return self._plain.count_documents({"kind": kind})

    def verify(self, head: tuple[int, str] | None = None) -> tuple[int, str]:
        """Check every row, and return number and hash of the last.

        Parameters
        ----------
        head
            Number and hash (or its beginning) of a row seen before; it must still be there.

        Raises
        ------
        StoreError
            Names the first row that is not as it was written.
        """
        previous, count = "", 0
        for row in self._all():
            if row["_id"] != count:
                raise StoreError(f"the audit trail has no row {count}",
                                 hint="somebody removed it; restore it from a backup")
            if row["prev"] != previous or row["hash"] != _hash(row):
                raise StoreError(f"audit row {row['_id']} is not as it was written",
                                 hint="somebody edited the trail; restore it from a backup")
            if head is not None and row["_id"] == head[0] and not row["hash"].startswith(head[1]):
                raise StoreError(f"audit row {head[0]} has another hash than the one remembered",
                                 hint="the trail was rewritten; restore it from a backup")
            previous, count = row["hash"], count + 1
        if head is not None and head[0] >= count:
            raise StoreError(f"the audit trail ends before row {head[0]}",
                             hint="its end was cut off; restore it from a backup")
        return count - 1, previous

    def _all(self) -> Iterator[dict[str, Any]]:
        yield from self._plain.find({}, sort=[("_id", ASCENDING)])

    # ---------------------------------------------------------------------------- writing

    def _add(self, content: dict[str, Any], *, durable: bool) -> int:
        rows = self._durable if durable else self._plain
        with self._lock:  # threads of one server need not race each other
            for _ in range(_PATIENCE):
                # Read anew each time: rows of reads may be lost with a killed mongod.
                last, previous = self._last()
                number = last + 1
                row = {"_id": number, "at": datetime.now(UTC).isoformat(), **content,
                       "prev": previous}
                row["hash"] = _hash(row)
                try:
                    rows.insert_one(row)
                except DuplicateKeyError:
                    continue  # another process was faster
                except PyMongoError as error:
                    raise StoreError(f"the audit trail can't be written: {error}",
                                     hint="nothing has been done; try again when MongoDB is back",
                                     transient=True) from error
                return number
        raise StoreError("the audit trail is too busy", hint="try again", transient=True)

    def _last(self) -> tuple[int, str]:
        try:
            row = self._plain.find_one({}, {"hash": 1}, sort=[("_id", DESCENDING)])
        except PyMongoError as error:
            raise StoreError(f"the audit trail can't be read: {error}",
                             hint="start MongoDB: orionflow db start", transient=True) from error
        return (-1, "") if row is None else (row["_id"], row["hash"])


def _hash(row: Mapping[str, Any]) -> str:
    text = json.dumps({k: v for k, v in row.items() if k != "hash"}, sort_keys=True,
                      separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _readable(arguments: object) -> tuple[str, str]:
    """Return arguments as text, cut where they are long, and the hash of the whole."""
    try:
        text = json.dumps(arguments, sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        text = f"(not readable: {type(error).__name__})"
    sha256 = hashlib.sha256(text.encode(errors="replace")).hexdigest()
    return text[:_ARGUMENTS], sha256
