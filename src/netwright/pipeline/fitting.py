"""Fitting: a task as training sees it, and the `fit` that a compressor is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netwright.tasks import Task
from netwright.train import fit
from netwright.train.recipe import Recipe

Progress = Callable[[int, int, str], None]
LOOKS = 40  # records of a method's indicators a stage


@dataclass(frozen=True)
class TaskData:
    """A Task as training sees it: augmented batches of equal size, and the validation split in memory."""

    task: Task
    augment: Any

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        size = min(batch_size, len(self.task.train))
        return self.task.batches("train", size, generator, self.augment, drop_last=True)

    @cached_property
    def validation(self) -> tuple[Tensor, Tensor]:
        return self.task.validation.x, self.task.validation.y


@dataclass
class Fitting:
    """The callable that trains what a compressor has prepared, stage after stage, from one budget.

    Args:
        data: batches and the validation split.
        recipe: `steps` are shared out among the stages; rate and decay come from each stage, times `lr`.
        teacher: gives soft targets, by the recipe's weight and temperature.
        folder: where the state of each stage is kept, so that a run can go on; None keeps none.
        progress: called with (done, total, "NAME, STAGE").
        name: stands in the progress text.
        lr: factor on every stage's learning rate.

    Attributes:
        indicators: what the method's paper watches in training (`Trainee.indicators`), by step over all stages.
    """

    data: Any
    recipe: Recipe
    teacher: nn.Module | None = None
    folder: Path | None = None
    progress: Progress | None = None
    name: str = "compress"
    lr: float = 1.0
    stages: list[str] = field(default_factory=list)
    indicators: list[dict[str, float]] = field(default_factory=list)
    done: int = 0

    def __call__(self, trainee: nn.Module, *, stage: str, share: float, lr: float, weight_decay: float) -> nn.Module:
        steps = max(1, math.ceil(self.recipe.steps * share))
        recipe = self.recipe.with_(steps=steps, lr=lr * self.lr, weight_decay=weight_decay)
        if getattr(trainee, "last", False):
            recipe = recipe.with_(evaluations=1)  # its schedule ends with the training: earlier weights are not a result
        checkpoint = self.folder / f"checkpoint-{len(self.stages)}.safetensors" if self.folder else None
        self.stages.append(stage)
        follow = getattr(trainee, "follow", None)
        hooks = [lambda step, module: module.follow(step / steps)] if follow is not None else []
        if hasattr(trainee, "indicators"):
            offset, every = self.done, max(1, steps // LOOKS)
            self.done += steps

            def watch(step: int, module: Any) -> None:
                if (step % every == 0 or step + 1 == steps) and (found := module.indicators()):
                    self.indicators.append({"step": offset + step, **found})

            hooks.append(watch)
        report = self.progress

        def told(done: int, total: int, text: str) -> None:
            if report is not None:
                report(done, total, f"{self.name}, {stage}: {text}")

        return fit(
            trainee, self.data, recipe, teacher=self.teacher, checkpoint=checkpoint, on_step=hooks, progress=told
        ).module  # fmt: skip
