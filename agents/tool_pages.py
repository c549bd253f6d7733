"""The reference page of the agents' tools, made from their schemas."""

from __future__ import annotations

from typing import Any

from orionflow.agents.tools import tools

# A longer pattern spoils the table.
_LONGEST_PATTERN = 70
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most",
           "maxLength": "characters at most", "minItems": "items at least",
           "maxItems": "items at most"}


def tools_page() -> str:
    """Return the page as Markdown."""
    models: dict[str, dict[str, Any]] = {}
    parts = []
    for tool in tools():
        schema = tool.schema()
        models |= schema.get("$defs", {})
        parts.append(f"### `{tool.name}` ({tool.scope})\n\n{tool.description}\n\n"
                     f"{_table(schema)}")
    inner = [f"### {name}\n\n{' '.join(m.get('description', '').split())}\n\n{_table(m)}"
             for name, m in sorted(models.items())]
    return f"""# Tools of agents

Made from the code by `python scripts/reference.py`.

What an agent can do, and nothing else: see [Agents](../how-to/agents.md). The word in brackets is
the scope a caller needs; a `commit` needs the one of its plan. Arguments that are not listed are
refused, and values are taken as they are: `"60"` is no number.

## Tools

{chr(10).join(parts)}
## Parts of arguments

{chr(10).join(inner)}"""


def _table(schema: dict[str, Any]) -> str:
    properties = schema.get("properties", {})
    if not properties:
        return "No arguments.\n"
    required = set(schema.get("required", ()))
    rows = ["| argument | value | default | what |", "|---|---|---|---|"]
    for name, part in properties.items():
        default = "required" if name in required else f"`{part.get('default')}`"
        words = " ".join(part.get("description", "").split())
        rows.append(f"| `{name}` | {_kind(part)} | {default} | {words} |")
    return "\n".join(rows) + "\n"


def _kind(part: dict[str, Any]) -> str:
    """Return in words what a schema takes."""
    if "$ref" in part:
        return str(part["$ref"]).rsplit("/", maxsplit=1)[-1]
    for group in ("anyOf", "oneOf"):
        if group in part:
            return " or ".join(dict.fromkeys(_kind(p) for p in part[group]))
    if "const" in part or "enum" in part:
        return ", ".join(f"`{v}`" for v in part.get("enum", [part.get("const")]))
    bounds = ", ".join(f"{words} {part[name]}" for name, words in _BOUNDS.items() if name in part)
    text = f"list of {_kind(part['items'])}" if "items" in part else str(part.get("type", "value"))
    if "|" not in (pattern := part.get("pattern", "|")) and len(pattern) < _LONGEST_PATTERN:
        text += f" `{part['pattern']}`" if part["pattern"].isprintable() else ""
    return f"{text} ({bounds})" if bounds else text
