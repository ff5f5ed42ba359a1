"""Recipe: everything that decides how a network is trained, as data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, get_args

from netwright.core.errors import RecipeError

OptimiserName = Literal["adamw", "adam", "sgd"]
ScheduleName = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True)
class Recipe:
    """How to train. The budget counts gradient steps, so that the time does not depend on the size of the data set.

    Args:
        steps: number of gradient steps.
        batch_size: images a step; a smaller data set is one batch.
        optimiser: adamw | adam | sgd.
        lr: the highest learning rate, reached after the warm-up.
        betas: decay of the first and second moment (adam, adamw).
        momentum: Nesterov momentum (sgd).
        weight_decay: on matrices and kernels; never on biases, norms and other vectors.
        schedule: cosine | linear | constant, after the warm-up.
        warmup: share of the steps in which the rate grows linearly from 0.
        label_smoothing: share of the target that is spread over all classes.
        clip_norm: largest norm of the gradient, 0 = off.
        ema: decay of the moving average of the weights that is evaluated and kept, 0 = off.
        augment: names of the augmentations, carried out by the callable given to `fit`.
        distil_weight: share of the teacher's soft targets in the loss, where there is a teacher.
        distil_temperature: temperature of the soft targets.
        evaluations: how often the validation accuracy is taken; the best weights are kept.
        log_every: steps between two entries of the history.
        channels_last: keep kernels and feature maps in NHWC order while training: about a quarter less time for small
            convolutions on a CPU; off because a module that calls `view` on feature maps cannot run so.
        seed: of batches, augmentation, dropout and sampling.

    Raises:
        RecipeError: a value outside its range; names the key.
    """

    steps: int = 1000
    batch_size: int = 64
    optimiser: OptimiserName = "adamw"
    lr: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    weight_decay: float = 0.05
    schedule: ScheduleName = "cosine"
    warmup: float = 0.05
    label_smoothing: float = 0.1
    clip_norm: float = 1.0
    ema: float = 0.0
    augment: tuple[str, ...] = ()
    distil_weight: float = 0.9
    distil_temperature: float = 4.0
    evaluations: int = 20
    log_every: int = 50
    channels_last: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        object.__setattr__(self, "augment", tuple(self.augment))
        for key, names in {"optimiser": get_args(OptimiserName), "schedule": get_args(ScheduleName)}.items():
            if getattr(self, key) not in names:
                raise RecipeError(f"train.{key} = {getattr(self, key)!r} is not one of {', '.join(names)}.")
        for key in ("steps", "batch_size", "log_every"):
            self._within(key, 1, math.inf)
        for key in ("weight_decay", "clip_norm", "evaluations"):
            self._within(key, 0, math.inf)
        for key in ("warmup", "distil_weight"):
            self._within(key, 0, 1)
        for key in ("momentum", "label_smoothing", "ema"):
            self._within(key, 0, 1, open_end=True)
        for key in ("lr", "distil_temperature"):
            self._within(key, 0, math.inf, open_start=True)
        if len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            raise RecipeError(f"train.betas = {self.betas} must be two numbers in [0, 1).")

    def _within(self, key: str, low: float, high: float, open_start: bool = False, open_end: bool = False) -> None:
        value = getattr(self, key)
        too_low = value <= low if open_start else value < low
        if too_low or (value >= high if open_end else value > high) or value != value:
            start, end = "(" if open_start else "[", ")" if open_end or high == math.inf else "]"
            raise RecipeError(f"train.{key} = {value} must lie in {start}{low}, {high}{end}.")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Recipe:
        """Read a TOML table; an unknown key is an error that names the nearest one."""
        known = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                near = get_close_matches(key, known, n=1)
                raise RecipeError(
                    f"train.{key} is not a key. " + (f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}.")
                )
        return cls(**values)

    def with_(self, **changes: Any) -> Recipe:
        """A copy with other values, checked again."""
        return Recipe.from_mapping({**self.to_json(), **changes})

    def to_json(self) -> dict[str, Any]:
        """Plain values, as they would stand in TOML."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}
