"""Logging: one logger tree named ``orionflow``, to stderr, quiet unless asked."""

from __future__ import annotations

import logging
import sys


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module; pass ``__name__``."""
    return logging.getLogger(name)


def configure_logging(*, verbose: bool = False, quiet: bool = False) -> None:
    """Send the messages of orionflow to stderr, once for a process.

    Parameters
    ----------
    verbose
        Show debug messages.
    quiet
        Show warnings and errors only (cron).
    """
    root = logging.getLogger("orionflow")
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    root.setLevel(level)
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root.addHandler(handler)
    root.propagate = False
