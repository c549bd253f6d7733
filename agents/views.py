"""Campaigns as they stand, for a process that is asked again and again.

Rows of a ledger are added and never changed, so each needs to be read once: what was known is kept,
and only what has come since is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orionflow.agents.records import extended, view_of

if TYPE_CHECKING:
    from orionflow.agents.ledger import Ledger
    from orionflow.agents.records import View

_MOST = 200


class Views:
    """What is known of the campaigns of a project; any number of threads may ask.

    Parameters
    ----------
    ledger
        Of the project.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: dict[str, tuple[str, View]] = {}

    def get(self, name: str) -> View:
        """Return a campaign as it stands; shared with others, and not to be changed.

        Raises
        ------
        InputError
            There is none of that name.
        """
        known = self._known.get(name)
        if known is not None:
            last, view = known
            # The last row known comes again: another one in its place is another ledger.
            rows = self._ledger.rows_since(name, view.head)
            if rows and rows[0]["hash"] == last:
                return view if len(rows) == 1 else self._keep(
                    name, rows[-1]["hash"], extended(view, rows[1:]))
        rows = self._ledger.rows_since(name)
        return self._keep(name, rows[-1]["hash"], view_of(rows))

    def _keep(self, name: str, last: str, view: View) -> View:
        # Views are replaced and never changed, so a reader in another thread keeps a whole one.
        if len(self._known) >= _MOST and name not in self._known:
            self._known = {}
        self._known[name] = (last, view)
        return view
