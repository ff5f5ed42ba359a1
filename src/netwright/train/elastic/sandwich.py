"""The sandwich rule with in-place distillation.

Every step trains the largest architecture on the labels, and the smallest one and n random ones on the softened outputs
of the largest; the gradients are summed before the one update:

    g = d/dw [ CE(f_max(x), y) + sum_{a in {min, rand_1..n}} CE(f_a(x), stop_gradient(softmax f_max(x))) ]

(Yu & Huang 2019, algorithm 1; Yu et al. 2020, section 3.1.) Largest and smallest refer to the ordered decisions; a decision
without an order (the kind of a block) is drawn anew at every step, so that every kind is trained at both ends.
Differs from the papers: KL in place of CE (the same gradient); weight decay on all widths (BigNAS: on the largest alone).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.core.errors import NetwrightError, RecipeError
from netwright.core.paper import Paper
from netwright.core.space import Arch, Space
from netwright.train.data import Data
from netwright.train.distil.kd import soft_loss
from netwright.train.elastic.role import Elastic, Shared
from netwright.train.engine import Augment, Engine, Hook, Keeping, Progress
from netwright.train.evaluate import share_correct
from netwright.train.loop import Fitted
from netwright.train.recipe import Recipe


@dataclass(frozen=True)
class Sandwich(Elastic):
    """`samples`: architectures drawn a step beside the largest and the smallest (2 in both papers).

    `temperature` softens the targets of the in-place distillation (1 in the papers); the recipe's own one is for teachers.
    """

    samples: int = 2
    temperature: float = 1.0

    name: ClassVar[str] = "sandwich"
    paper: ClassVar[Paper] = Paper(
        key="yu2019universally",
        title="Universally Slimmable Networks and Improved Training Techniques",
        authors="Jiahui Yu and Thomas Huang",
        venue="ICCV",
        year=2019,
        url="https://arxiv.org/abs/1903.05134",
    )
    also: ClassVar[tuple[Paper, ...]] = (
        Paper(
            key="yu2020bignas",
            title="BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models",
            authors="Jiahui Yu and Pengchong Jin and Hanxiao Liu and Gabriel Bender and Pieter-Jan Kindermans and Mingxing Tan"
            " and Thomas Huang and Xiaodan Song and Ruoming Pang and Quoc Le",
            venue="ECCV",
            year=2020,
            url="https://arxiv.org/abs/2003.11142",
        ),
    )

    def architectures(self, space: Space, seed: int, step: int) -> list[Arch]:
        """The largest, the smallest and the random ones of a step; a function of (seed, step) alone, so resuming is exact."""
        rng = random.Random(f"{seed}:{step}")
        kinds = {name: rng.choice(d.values) for name, d in space.decisions.items() if not d.ordered}
        return [space.largest(**kinds), space.smallest(**kinds), *(space.sample(rng) for _ in range(self.samples))]

    def fit(
        self,
        shared: Shared,
        data: Data,
        recipe: Recipe,
        *,
        augment: Augment | None = None,
        validate: Callable[[], float] | None = None,
        checkpoint: Path | None = None,
        save_every_seconds: float = 20.0,
        save_every_steps: int = 0,
        progress: Progress | None = None,
        on_step: Sequence[Hook] = (),
    ) -> Fitted:
        """Train the shared weights in place.

        `validate` gives the accuracy by which the best weights are kept; by default it is the mean over the corners of the
        space and its smallest architecture, on the validation split with the split's own batch statistics.

        Raises: as `train.fit`.
        """
        if not isinstance(shared, nn.Module):
            raise NetwrightError(f"Shared weights must be an nn.Module, so that they can be saved; got {type(shared).__name__}.")
        if recipe.augment and augment is None:
            raise RecipeError(
                f"train.augment asks for {', '.join(recipe.augment)}, but `fit` was given no callable that does it."
            )
        space, call = shared.space, shared.call

        def backward(x: Tensor, y: Tensor, step: int) -> Tensor:
            largest, *others = self.architectures(space, recipe.seed, step)
            logits = call(largest, x)
            loss = F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
            torch.autograd.backward(loss)
            soft = logits.detach()
            total = loss.detach()
            for arch in others:
                loss = soft_loss(call(arch, x), soft, self.temperature)
                torch.autograd.backward(loss)  # at once: the activations of one architecture are alive at a time
                total = total + loss.detach()
            return total

        def ends() -> float:
            archs = [*space.corners(), space.smallest()]
            with torch.no_grad():
                return sum(share_correct(partial(call, arch), data.validation) for arch in archs) / len(archs)

        engine = Engine(
            shared,
            data,
            recipe,
            backward,
            validate or ends,
            augment,
            Keeping(checkpoint, save_every_seconds, save_every_steps),
            on_step,
            progress,
            {"method": {"name": self.name, "samples": self.samples, "temperature": self.temperature, "space": space.name}},
        )
        start = time.perf_counter()
        engine.run()
        return Fitted(
            shared, tuple(engine.history), engine.at.best_accuracy, engine.at.best_step, recipe.steps, time.perf_counter() - start
        )
