"""Augmentations of batches, one a file; a recipe names them: ``augment = ["shift", "flip", "cutout:8"]``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

from torch import Generator, Tensor

from netwright.core.catalogue import catalogue
from netwright.core.errors import RecipeError
from netwright.tasks.augment.affine import Affine as Affine
from netwright.tasks.augment.cutout import Cutout as Cutout
from netwright.tasks.augment.flip import Flip as Flip
from netwright.tasks.augment.role import Augment as Augment
from netwright.tasks.augment.role import Augmentation as Augmentation
from netwright.tasks.augment.shift import Shift as Shift

CATALOGUE = catalogue(globals(), Augment, "augmentation")


def parse(text: str) -> Augment:
    """``name`` or ``name:value``, the value being that of the first parameter.

    Raises:
        UnknownName: no augmentation has this name.
        RecipeError: the value is not a number, or out of range.
    """
    name, colon, value = text.partition(":")
    kind: type[Augment] = CATALOGUE[name.strip()]
    if not colon:
        return kind()
    try:
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
    except ValueError:
        raise RecipeError(f"augment = {text!r}: {value!r} is not a number. Write for example {name}:2.") from None
    return kind(**{fields(kind)[0].name: int(number) if number.is_integer() else number})


def augmentation(names: Sequence[str], background: Tensor) -> Augmentation:
    """The named augmentations one after another, as (x [B,C,H,W], generator) -> x; `background` [C] normalised."""
    steps = [parse(text) for text in names]

    def apply(x: Tensor, generator: Generator) -> Tensor:
        for step in steps:
            x = step.apply(x, background, generator)
        return x

    return apply
