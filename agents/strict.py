"""Strict documents: pydantic models that are read from YAML and complain like a person."""

from __future__ import annotations

import difflib
import json
import re
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from orionflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable
    from pathlib import Path

    from pydantic_core import ErrorDetails

_SHOWN = 60
# How pydantic calls the members of a union in the place of a fault, and how people do.
_KINDS = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "a text",
          "literal": "one of the names", "list": "a list", "tuple": "a list",
          "datetime": "a date with a time", "date": "a date such as 2030-06-01"}
_BRANCH = re.compile(
    r"(constrained-)?(bool|int|float|str)$|(literal|dict|list|tuple)\[|function-|date(time)?$")
_WRONG_TYPE = re.compile(r"_type$|_parsing$|^int_from_float$")


class StrictModel(BaseModel):
    """A frozen model that guesses nothing: no unknown names, no "1" for 1, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @classmethod
    def from_data(cls, data: Any, *, source: str = "") -> Self:
        """Check plain data (dicts, lists, numbers, text).

        Parameters
        ----------
        data
            As YAML or JSON give it.
        source
            Where it comes from, for messages.

        Raises
        ------
        InputError
            Every fault, one a line, with its place.
        """
        where = source or cls.__name__
        try:
            # By way of JSON, because there a list may become a tuple and a text a date even in
            # strict mode, and no Python object slips in.
            return cls.model_validate_json(json.dumps(data, default=_plain))
        except ValidationError as error:
            raise InputError(f"{where}: {explain(error, cls)}",
                             hint="correct the lines named; numbers such as 1e-3 need a point in "
                             "YAML (1.0e-3)") from error
        except TypeError as error:
            raise InputError(f"{where}: {error}", hint="use plain YAML values only") from error

    @classmethod
    def from_yaml(cls, text: str, *, source: str = "") -> Self:
        """Read a YAML text; a key given twice is an error.

        Raises
        ------
        InputError
            It is not YAML, or not such a document.
        """
        where = source or cls.__name__
        try:
            data = yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader, see below
        except yaml.YAMLError as error:
            raise InputError(f"{where} is not YAML: {error}",
                             hint="check indentation, brackets and colons there") from error
        return cls.from_data(data, source=where)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a YAML file; see `from_yaml`."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"can't read {path}: {error}", hint="give the path of a YAML file"
                             ) from error
        return cls.from_yaml(text, source=str(path))

    def to_data(self) -> dict[str, Any]:
        """Return plain data; what is at its default is left out."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def to_yaml(self) -> str:
        """Return YAML that `from_yaml` reads back to an equal object."""
        return yaml.safe_dump(self.to_data(), sort_keys=False, allow_unicode=True)


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the faults pydantic found, one a line, as ``place: what``; of one fault, one."""
    found = error.errors(include_url=False)
    # A list from which pydantic took what is wrong in it is not too short.
    found = [e for e in found if e["type"] != "too_short" or not any(
        len(o["loc"]) > len(e["loc"]) and o["loc"][:len(e["loc"])] == e["loc"] for o in found)]
    return "; ".join(_sentence(e, model) for e in _without_branches(found, model))


def suggest(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'x'? Valid: …``."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    start = f"did you mean {close[0]!r}? " if close else ""
    return f"{start}Valid: {', '.join(names)}"


def _sentence(error: ErrorDetails, model: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _fields_at(model, error["loc"][:-1])
        listed = f" ({suggest(str(error['loc'][-1]), known)})" if known else ""
        return f"{place}: unknown name{listed}"
    if error["type"] == "missing":
        return f"{place}: is missing"
    if error["type"] in {"union_tag_not_found", "union_tag_invalid"}:
        tags = error.get("ctx", {}).get("expected_tags")
        return f"{place}: needs a `type`" + (f", one of {tags}" if tags else "")
    message = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    given = repr(error.get("input"))
    if error["type"] in {"value_error", "assertion_error"} or len(given) > _SHOWN:
        return f"{place}: {message}" if place else message
    return f"{place}: {message}, not {given}"


def _without_branches(errors: list[ErrorDetails], model: type[BaseModel]) -> list[ErrorDetails]:
    """Return the faults with one for each union, where pydantic tells what each member thinks.

    Members of another type than the value's were not meant.
    """
    found: list[ErrorDetails] = []
    unions: dict[tuple[int | str, ...], list[tuple[int, ErrorDetails]]] = {}
    for error in errors:
        at = next((n for n, part in enumerate(error["loc"])
                   if _is_branch(part, model, error["loc"][:n])), None)
        if at is None:
            found.append(error)
        else:
            unions.setdefault(error["loc"][:at], []).append((at, error))
    for place, branches in unions.items():
        meant = [(at, e) for at, e in branches
                 if len(e["loc"]) > at + 1 or not _WRONG_TYPE.search(e["type"])]
        for at, error in meant:
            found.append({**error, "loc": (*place, *error["loc"][at + 1:])})
        if not meant:
            kinds = list(dict.fromkeys(_name_of(str(e["loc"][at])) for at, e in branches))
            last = f" or {kinds[-1]}" if len(kinds) > 1 else kinds[-1]
            found.append({**branches[0][1], "loc": place,
                          "msg": f"should be {', '.join(kinds[:-1])}{last}"})
    return found


def _is_branch(part: int | str, model: type[BaseModel], place: tuple[int | str, ...]) -> bool:
    if not isinstance(part, str):
        return False
    return bool(_BRANCH.match(part)) or part in _names_at(model, place)


def _name_of(branch: str) -> str:
    return next((name for start, name in _KINDS.items()
                 if branch.removeprefix("constrained-").startswith(start)), "a mapping")


def _names_at(model: type[BaseModel], place: tuple[int | str, ...]) -> set[str]:
    """Return the names of the models that may stand at a place."""
    return {m.__name__ for m in _models_at(model, place)}


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Return the field names of the model at a place, as far as types tell."""
    return list(dict.fromkeys(name for m in _models_at(model, loc)
                              for name in getattr(m, "model_fields", {})))


def _models_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[Any]:
    here: list[Any] = [model]
    for part in loc:
        step: list[Any] = []
        for kind in here:
            if isinstance(part, str) and part in getattr(kind, "model_fields", {}):
                step.append(kind.model_fields[part].annotation)
            else:
                # A tag of a union or an index of a list: look at all models inside.
                step.append(kind)
        here = [m for kind in step for m in _models(kind)]
        if isinstance(part, str):
            tagged = [m for m in here if _tag(m) == part]
            here = tagged or here
    return here


def _models(kind: Any) -> list[Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [m for arg in get_args(kind) for m in _models(arg)]


def _tag(model: Any) -> Any:
    field = model.model_fields.get("type")
    return next(iter(get_args(field.annotation)), None) if field is not None else None


def _plain(value: object) -> str:
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    raise TypeError(f"{value!r} is no plain value")


class _Loader(yaml.SafeLoader):
    """A SafeLoader that refuses keys given twice (PyYAML keeps the last without a word)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False  # noqa: FBT001, FBT002  PyYAML's signature
                          ) -> dict[Hashable, Any]:
        """Return the mapping, or complain with line and column."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} is given twice", key.start_mark)
            if key.tag != "tag:yaml.org,2002:merge":
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)
