"""Write the reference pages that are made from code: ``python scripts/reference.py [--check]``."""

from __future__ import annotations

import sys
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Literal, Union, get_args, get_origin

from orionflow.agents.tool_pages import tools_page
from orionflow.launchers.failure_pages import failures_page
from orionflow.launchers.machine import AllocationClass, AllocationProfile, MachineProfile
from orionflow.launchers.resources import Resources
from orionflow.settings import PREFIX, RetrySettings, Settings

if TYPE_CHECKING:
    from pydantic import BaseModel

DOCS = Path(__file__).parents[1] / "docs" / "reference"


def type_name(annotation: object) -> str:
    """Return a type as a reader would write it; validators (with their addresses) left out."""
    kind, parts = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        text = type_name(parts[0])
    elif isinstance(annotation, UnionType) or kind is Union:
        text = " \\| ".join(type_name(a) for a in parts)
    elif kind is Literal:
        text = " \\| ".join(repr(a) for a in parts)
    elif kind is tuple and parts[-1] is Ellipsis:
        text = f"list of {type_name(parts[0])}"
    elif annotation is NoneType:
        text = "None"
    elif kind is None and isinstance(annotation, type):
        text = annotation.__name__
    else:
        text = str(annotation).replace("pathlib.", "").replace("typing.", "")
    return text


def table(model: type[BaseModel], variable: str = "") -> str:
    """Return the fields of a model as a Markdown table."""
    head = "| name | type | default | what |\n|---|---|---|---|\n"
    rows = []
    for name, field in model.model_fields.items():
        kind = type_name(field.annotation)
        if field.is_required():
            default = "required"
        elif field.default_factory is not None:
            default = "computed"
        else:
            default = f"`{field.default}`" if field.default not in ((), None, "") else "-"
        if isinstance(field.default, (AllocationProfile, RetrySettings)):
            default = "see below"
        what = (field.description or "").replace("|", "\\|")
        shown = f"`{name}`" + (f" (`{variable}{name.upper()}`)" if variable else "")
        rows.append(f"| {shown} | `{kind}` | {default} | {what} |")
    return head + "\n".join(rows) + "\n"


def settings_page() -> str:
    """Return the page on settings and machine profiles."""
    return f"""# Settings and machine profiles

Made from the code by `python scripts/reference.py`.

Settings say where and how to run, never physics: physics is a parameter of a recipe, because it
must be stored with the result. A variable wins over `orionflow.yaml` in the project folder, which
wins over the default. A misspelt name in either is an error that names the right one.

## `orionflow.yaml`

{table(Settings, PREFIX)}
### `retry`

Also for one job or recipe: `submit(..., retry={{...}})`, `orionflow submit --retry memory=0`,
`job.config.manager_config["retry"]`.

{table(RetrySettings)}
## Machine profile

One YAML file in `machines/` of the project, or one of those shipped with orionflow.

{table(MachineProfile)}
### `allocation`

{table(AllocationProfile)}
### `classes` of `allocation`

{table(AllocationClass)}
## Resources of a job

{table(Resources)}"""


PAGES = {"agent-tools.md": tools_page, "failures.md": failures_page, "settings.md": settings_page}


def main(check: bool) -> int:  # noqa: FBT001  one flag
    """Write the pages, or say which are out of date."""
    stale = []
    for name, make in PAGES.items():
        path, text = DOCS / name, make()
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if not check:
            path.write_text(text)
    if stale:
        print("out of date:" if check else "written:", *stale)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
