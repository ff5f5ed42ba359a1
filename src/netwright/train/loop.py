"""`fit`: train one network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.core.errors import RecipeError
from netwright.train.data import Data
from netwright.train.distil.kd import KnowledgeDistillation
from netwright.train.engine import Augment, Engine, Hook, Keeping, Progress, Record
from netwright.train.evaluate import accuracy, evaluating
from netwright.train.recipe import Recipe

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Fitted:
    """A trained module in eval mode with its best weights, and how it got there."""

    module: nn.Module
    history: tuple[Record, ...]
    best_accuracy: float
    best_step: int
    steps: int
    seconds: float


def fit(
    module: nn.Module,
    data: Data,
    recipe: Recipe,
    *,
    loss: Loss | None = None,
    teacher: nn.Module | None = None,
    augment: Augment | None = None,
    checkpoint: Path | None = None,
    save_every_seconds: float = 20.0,
    save_every_steps: int = 0,
    progress: Progress | None = None,
    on_step: Sequence[Hook] = (),
) -> Fitted:
    """Train `module` in place and keep the weights with the best validation accuracy (of equal ones, the later).

    With `recipe.ema` the moving average of the weights, batch statistics included, is what is evaluated and kept. With a
    checkpoint the state is saved now and then; a run that was killed goes on from it and ends with exactly the weights of
    an undisturbed one, and a finished one returns at once. The caller's random state is left alone.

    Args:
        module: [N, C, H, W] -> logits [N, classes].
        data: training batches and the validation split (`train.data.Data`).
        loss: (logits, labels) -> scalar; cross-entropy with label smoothing when None.
        teacher: gives soft targets (`recipe.distil_weight`, `recipe.distil_temperature`).
        augment: (x, y, generator) -> (x, y), for every training batch; y may become probabilities [N, classes].
        checkpoint: file for the state.
        progress: called with (steps done, steps, text).
        on_step: called with (step, module) before every step, step from 0; for schedules of the module's own.

    Raises:
        TrainingDiverged: the loss or gradient became NaN or infinite; says where the last good state is.
        RecipeError: the recipe names augmentations but `augment` is None.
        NetwrightError: nothing to train, or a checkpoint of another recipe or module.
    """
    if recipe.augment and augment is None:
        raise RecipeError(f"train.augment asks for {', '.join(recipe.augment)}, but `fit` was given no callable that does it.")
    hard = loss or (lambda logits, y: F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing))
    distil = KnowledgeDistillation(recipe.distil_weight, recipe.distil_temperature)

    def backward(x: Tensor, y: Tensor, step: int) -> Tensor:
        logits = module(x)
        total = hard(logits, y)
        if teacher is not None:
            with torch.no_grad():
                soft = teacher(x)
            total = distil(logits, soft, total)
        torch.autograd.backward(total)
        return total.detach()

    start = time.perf_counter()
    with _order(module, recipe.channels_last), evaluating(teacher) if teacher is not None else nullcontext():
        engine = Engine(
            module,
            data,
            recipe,
            backward,
            lambda: accuracy(module, data.validation),
            augment,
            Keeping(checkpoint, save_every_seconds, save_every_steps),
            on_step,
            progress,
            {"method": "fit"},
        )
        engine.run()
    return Fitted(
        module, tuple(engine.history), engine.at.best_accuracy, engine.at.best_step, recipe.steps, time.perf_counter() - start
    )


@contextmanager
def _order(module: nn.Module, channels_last: bool) -> Iterator[None]:
    """Kernels in channels-last order for a while; convolutions hand the order on to their outputs."""

    def bring(memory_format: torch.memory_format) -> None:
        for parameter in module.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=memory_format)

    if channels_last:
        bring(torch.channels_last)
    try:
        yield
    finally:
        if channels_last:
            bring(torch.contiguous_format)
