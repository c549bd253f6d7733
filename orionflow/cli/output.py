"""How commands print: tables for people, JSON or YAML for programs."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_WIDE = 160


class OutputFormat(StrEnum):
    """What `-o` takes, as lpad spells it."""

    JSON = "json"
    YAML = "yaml"


def dump(data: Any, form: OutputFormat) -> None:
    """Print data to stdout."""
    text = json.dumps(data, default=_plain, indent=2, ensure_ascii=False)
    if form is OutputFormat.YAML:
        import yaml

        text = yaml.safe_dump(json.loads(text), sort_keys=False, allow_unicode=True).rstrip()
    print(text)


def console(*, stderr: bool = False) -> Console:
    """Return a console; where nobody looks, wide lines are not cut."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, soft_wrap=False,
                   width=None if stream.isatty() else _WIDE)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if hasattr(value, "item"):  # numpy scalars
        return value.item()
    return str(value)
