"""The recipes by name: what the command line and agents may run, and with which parameters.

A new recipe is one line in `_RECIPES`. Nothing heavy is imported before a recipe is asked for.
"""

from __future__ import annotations

import difflib
import inspect
import json
import re
import sys
from dataclasses import MISSING, dataclass, fields
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_origin, get_type_hints

from orionflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ase import Atoms
    from jobflow import Flow, Job, Maker
    from pydantic import BaseModel
    from pymatgen.core import Structure


@dataclass(frozen=True)
class Parameter:
    """One parameter of a recipe.

    Attributes
    ----------
    type
        As a person reads it: ``float | None``.
    default
        None also when there is none: see `required`.
    """

    name: str
    type: str
    default: Any
    required: bool
    description: str


@dataclass(frozen=True)
class Recipe:
    """A Maker under a name.

    Attributes
    ----------
    name
        ``<code>.<what>``.
    code
        Executable it runs.
    summary
        One line for lists.
    target
        ``module:class`` of the Maker.
    step
        For a flow: name of the recipe of its steps, whose parameters it takes too.
    step_field
        For a flow: field of its Maker that takes the Maker of the steps.
    own
        For a flow: those of its own fields that are parameters.
    takes_input
        Made of a user's input file, or a folder of them, in place of a structure.
    """

    name: str
    code: str
    summary: str
    target: str
    step: str | None = None
    step_field: str = "static_maker"
    own: tuple[str, ...] = ()
    takes_input: bool = False

    def maker_class(self) -> type[Maker]:
        """Import and return the Maker."""
        return _load(self.target)

    def parameters(self) -> dict[str, Parameter]:
        """Return the parameters by name, those of a flow's own first."""
        return {name: p for name, (p, _) in _parameters(self.name).items()}

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the parameters."""
        return _model(self.name).model_json_schema()

    def check(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters in their types; JSON lists become tuples where they should.

        Raises
        ------
        InputError
            A name is unknown, a value is of the wrong type, or one is missing.
        """
        return _check(self, parameters)

    def maker(self, parameters: Mapping[str, Any] | None = None) -> Maker:
        """Return the Maker with these parameters.

        Raises
        ------
        InputError
            See `check`.
        """
        checked = self.check(parameters or {})
        if self.step is None:
            return self.maker_class()(**checked)
        own = {k: v for k, v in checked.items() if k in self.own}
        rest = {k: v for k, v in checked.items() if k not in self.own}
        step = get_recipe(self.step).maker_class()(**rest)
        return self.maker_class()(**{self.step_field: step}, **own)

    def make(self, structure: str | Path | Structure | Atoms,
             parameters: Mapping[str, Any] | None = None) -> Flow | Job:
        """Return the job or flow for a structure, checked and with all choices made.

        Parameters
        ----------
        structure
            Whatever `orionflow.workflows.structures.read_structure` takes; for a recipe that
            takes inputs an input file or a folder.
        parameters
            By name.

        Raises
        ------
        InputError
            Structure, parameters or the files they need are wrong.
        """
        from orionflow.workflows.structures import read_structure

        maker: Any = self.maker(parameters)
        made: Flow | Job = maker.make(
            structure if self.takes_input else read_structure(structure))
        return made


_QE = "orionflow.workflows.qe.core:"
_LAMMPS = "orionflow.workflows.lammps.core:"
_EOS = "orionflow.workflows.common.eos:EosMaker"
_EOS_OWN = ("name", "linear_strain", "number_of_frames")
_RECIPES = (
    Recipe("qe.static", "pw.x", "energy, forces and stress of a structure", _QE + "StaticMaker"),
    Recipe("qe.relax", "pw.x", "positions of least energy in a fixed cell", _QE + "RelaxMaker"),
    Recipe("qe.vc_relax", "pw.x", "cell and positions of least enthalpy", _QE + "VcRelaxMaker"),
    Recipe("qe.eos", "pw.x", "equation of state: lattice constant and bulk modulus", _EOS,
           step="qe.static", own=_EOS_OWN),
    Recipe("qe.input", "pw.x", "your own input files of pw.x and ph.x, as they are",
           "orionflow.workflows.qe.user_input:InputMaker", takes_input=True),
    Recipe("lammps.static", "lmp", "energy, forces and stress of a structure",
           _LAMMPS + "StaticMaker"),
    Recipe("lammps.minimize", "lmp", "positions, or cell and positions, of least energy",
           _LAMMPS + "MinimizeMaker"),
    Recipe("lammps.nvt", "lmp", "dynamics at constant volume and temperature",
           _LAMMPS + "NvtMaker"),
    Recipe("lammps.npt", "lmp", "dynamics at constant pressure and temperature",
           _LAMMPS + "NptMaker"),
    Recipe("lammps.nve", "lmp", "dynamics at constant energy", _LAMMPS + "NveMaker"),
    Recipe("lammps.eos", "lmp", "equation of state: lattice constant and bulk modulus",
           "orionflow.workflows.lammps.eos:LammpsEosMaker", step="lammps.static",
           own=(*_EOS_OWN, "initial_relax")),
    Recipe("lammps.input", "lmp", "your own LAMMPS script, as it is",
           "orionflow.workflows.lammps.user_input:InputMaker", takes_input=True),
)
_BY_NAME = {recipe.name: recipe for recipe in _RECIPES}


def recipes() -> tuple[Recipe, ...]:
    """Return all recipes."""
    return _RECIPES


def recipe_names() -> list[str]:
    """Return the names of all recipes."""
    return list(_BY_NAME)


def get_recipe(name: str) -> Recipe:
    """Return a recipe by name.

    Raises
    ------
    InputError
        There is none of that name; lists those there are.
    """
    if name not in _BY_NAME:
        raise InputError(f"there is no recipe {name!r}", hint=_suggest(name, _BY_NAME))
    return _BY_NAME[name]


def make(name: str, structure: str | Path | Structure | Atoms,
         parameters: Mapping[str, Any] | None = None) -> Flow | Job:
    """Return the job or flow of a recipe for a structure; see `Recipe.make`."""
    return get_recipe(name).make(structure, parameters)


def _suggest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    start = f"did you mean {close[0]!r}? " if close else ""
    return f"{start}Valid: {', '.join(known)}"


def _load(target: str) -> type[Maker]:
    module, _, name = target.partition(":")
    loaded: type[Maker] = getattr(import_module(module), name)
    return loaded


@cache
def _parameters(name: str) -> dict[str, tuple[Parameter, Any]]:
    """Return each parameter of a recipe with its type."""
    recipe = get_recipe(name)
    cls = recipe.maker_class()
    if recipe.step is None:
        return _fields_of(cls)
    return _fields_of(cls, recipe.own) | {
        k: v for k, v in _parameters(recipe.step).items() if k not in recipe.own}


def _fields_of(cls: type[Maker], only: tuple[str, ...] = ()) -> dict[str, tuple[Parameter, Any]]:
    described = _descriptions(cls)
    found = {}
    for item in fields(cls):
        if item.metadata.get("internal") or (only and item.name not in only):
            continue
        hint = _hint(cls, item.name)
        default = item.default
        if default is MISSING and item.default_factory is not MISSING:
            default = item.default_factory()
        required = default is MISSING
        parameter = Parameter(item.name, _type_name(hint), None if required else default,
                              required, described.get(item.name, ""))
        found[item.name] = (parameter, hint)
    return found


def _hint(cls: type, name: str) -> Any:
    """Resolve one annotation where it was written; its neighbours may not be importable."""
    owner = next(c for c in cls.__mro__ if name in inspect.get_annotations(c))
    alone = type("_", (), {"__annotations__": {name: inspect.get_annotations(owner)[name]},
                           "__module__": owner.__module__})
    return get_type_hints(alone, vars(sys.modules[owner.__module__]), include_extras=True)[name]


def _type_name(hint: Any) -> str:
    if isinstance(hint, type) and get_origin(hint) is None:
        return hint.__name__
    text = re.sub(r"\b(?:typing|builtins|orionflow(?:\.[a-z]\w*)*)\.", "", str(hint))
    return re.sub(r"Literal\[(.*?)\]", lambda m: m[1].replace(", ", " | "), text)


def _descriptions(cls: type) -> dict[str, str]:
    """Return what the numpydoc docstrings of a class and its bases say of each parameter."""
    found: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        text = owner.__dict__.get("__doc__") or ""
        for section in re.split(r"\n\s*\n?\s*(?:Parameters|Attributes)\n\s*-{3,}\n", text)[1:]:
            for names, body in re.findall(
                    r"^ {4}(\w+(?:, \w+)*)(?: *:[^\n]*)?\n((?: {8,}[^\n]*\n?)+)",
                    section.split("\n\n    ")[0] + "\n", re.MULTILINE):
                words = " ".join(body.split())
                found |= dict.fromkeys(names.split(", "), words)
    return found


@cache
def _model(name: str) -> type[BaseModel]:
    from pydantic import ConfigDict, Field, create_model

    definitions: dict[str, Any] = {
        key: (hint, Field(default=... if p.required else p.default, description=p.description))
        for key, (p, hint) in _parameters(name).items()
    }
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False,
                        protected_namespaces=())
    return create_model(name, __config__=config, **definitions)


def _check(recipe: Recipe, parameters: Mapping[str, Any]) -> dict[str, Any]:
    from pydantic import ValidationError

    known = recipe.parameters()
    for key in parameters:
        if key not in known:
            raise InputError(f"recipe {recipe.name} has no parameter {key!r}",
                             hint=_suggest(str(key), known))
    try:
        # As JSON, whose lists are tuples where a tuple is wanted; strict in all else.
        text = json.dumps(dict(parameters))
    except (TypeError, ValueError) as error:
        raise InputError(f"parameters of {recipe.name}: {error}",
                         hint="use numbers, strings, lists and mappings") from error
    try:
        values = _model(recipe.name).model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        raise InputError(
            f"recipe {recipe.name}: {key} = {json.dumps(parameters.get(key))}: {first['msg']}",
            hint=f"{key}: {known[key].type}; {known[key].description}".rstrip("; ")) from error
    return {key: getattr(values, key) for key in parameters}
