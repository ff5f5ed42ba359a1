"""Spaces: all that a recipe can search, and what of them the wanted forms cannot take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from netwright import compress
from netwright.core.errors import NetwrightError, RecipeError, UnknownName
from netwright.core.graph import Graph
from netwright.design import merge, trace
from netwright.design.merge import fade
from netwright.design.spaces import SPACES as PLAIN
from netwright.design.spaces import Options
from netwright.spike import convert
from netwright.spike.spaces import SPACES as SPIKING

SPACES: Mapping[str, type[Options]] = {**PLAIN, **SPIKING}


def options(name: str, values: Mapping[str, Any]) -> Options:
    """The options of a space from the values of a recipe.

    Raises:
        UnknownName: no such space; RecipeError: an option that it has not, or a value of another type.
    """
    if name not in SPACES:
        raise UnknownName("space", name, SPACES)
    cls = SPACES[name]
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}."
            raise RecipeError(f"design.{key}: the space {name!r} has no such option; {hint}")
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(f"design.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def refusals(graph: Graph, forms: tuple[str, ...]) -> list[str]:
    """Why the wanted forms cannot take this float graph."""
    reasons: list[str] = []
    if {"int8", "ternary", "binary"} & set(forms):
        reasons += compress.unsupported(graph)
    if "spiking" in forms:
        reasons += convert.unsupported(graph)
    return reasons


def refused(space: Options, forms: tuple[str, ...]) -> dict[str, str]:
    """Kinds of layers of a space that a wanted form cannot take, each with the reason.

    Raises:
        NetwrightError: then no network of the space is left.
    """
    found: dict[str, str] = {}
    for kind in space.choices if set(forms) - {"float"} else ():
        network = space.probe(kind)
        fade(network, 1.0)
        if reasons := refusals(trace(merge(network), torch.zeros(1, 1, 8, 8)), forms):
            found[kind] = reasons[0]
    if len(found) == len(space.choices):
        raise NetwrightError(
            f"No network of the space {space.name!r} has the forms {', '.join(forms)}: {next(iter(found.values()))} "
            f'Write forms = ["float"], or another space of {", ".join(SPACES)}.'
        )
    return found
