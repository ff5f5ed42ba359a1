"""Learning-rate schedules: functions of the share of the steps that is done."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from netwright.train.recipe import Recipe


def cosine(t: float) -> float:
    """(1 + cos pi t) / 2 (Loshchilov & Hutter, SGDR, ICLR 2017, eq. 5, without restarts)."""
    return (1 + math.cos(math.pi * t)) / 2


def linear(t: float) -> float:
    """1 - t."""
    return 1 - t


def constant(t: float) -> float:
    """1."""
    return 1.0


SCHEDULES: Mapping[str, Callable[[float], float]] = {"cosine": cosine, "linear": linear, "constant": constant}


def learning_rate(recipe: Recipe, step: int) -> float:
    """Rate of step `step` (from 0): a linear warm-up to `recipe.lr`, then the schedule over what remains.

    A function of the step alone, so a resumed run needs no scheduler state.
    """
    warm = round(recipe.warmup * recipe.steps)
    if step < warm:
        return recipe.lr * (step + 1) / (warm + 1)
    return recipe.lr * SCHEDULES[recipe.schedule]((step - warm) / max(1, recipe.steps - warm))
