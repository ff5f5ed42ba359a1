"""Tune: after `fit`, a few gradient steps of the whole network towards the float network's answers, on calibration images.

    min  KL( softmax(float logits) || softmax(spiking logits) )     over weights, biases and thresholds

The spiking network runs over its T steps with surrogate gradients, as in `bridge`, but starts from what `fit` found, needs no
labels, and sees at most `updates` / T batches: less than an epoch of training the float network costs. It buys most where T is
small. Li et al. 2021 calibrate with gradients as well ("advanced pipeline"), layer by layer, for 5000 iterations each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from netwright.core.paper import Paper
from netwright.spike.convert.balance import activation
from netwright.spike.convert.bridge import RULES, Bridge, OverSteps
from netwright.spike.convert.converter import Progress, Spiking
from netwright.spike.convert.fit import Fit
from netwright.spike.convert.mmse import LI
from netwright.spike.convert.program import Program
from netwright.spike.surrogates import ARCTAN, Surrogate


@dataclass(frozen=True)
class Tune(Fit):
    """Fit, then distillation without labels.

    Attributes:
        updates: gradient steps times T, so that the time does not grow with T.
        batch: images a step.
        lr: first learning rate of Adam; it falls to zero in a line.
    """

    updates: int = 256
    batch: int = 64
    lr: float = 1e-3
    surrogate: Surrogate = field(default=ARCTAN)

    name: ClassVar[str] = "tune"
    paper: ClassVar[Paper] = LI

    def lower(self, program: Program, calibration: Tensor, progress: Progress | None = None,
              theta: Mapping[str, Tensor] | None = None) -> Spiking:  # fmt: skip
        made = super().lower(program, calibration, progress, theta)
        assert made.program is not None
        trainee = OverSteps(made.program, made.thresholds, self.steps, self.surrogate, RULES[self.neuron])
        self._train(trainee, program, calibration)
        last = Bridge(steps=self.steps, signed=self.signed, neuron=self.neuron, images=self.images // 4, encoder=self.encoder)
        return last.finish(trainee, calibration)

    def _train(self, trainee: OverSteps, program: Program, calibration: Tensor) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        count = max(1, self.updates // self.steps)
        optimiser = torch.optim.Adam([p for p in trainee.parameters() if p.requires_grad], self.lr)
        schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, count)
        order = torch.cat([torch.randperm(len(calibration), generator=generator)
                           for _ in range(-(-count * self.batch // len(calibration)))])  # fmt: skip
        with torch.enable_grad():
            for i in order.split(self.batch)[:count]:
                x = calibration[i]
                with torch.no_grad():
                    wanted = F.log_softmax(program(x, activation), 1)
                optimiser.zero_grad()
                loss = F.kl_div(F.log_softmax(trainee(x), 1), wanted, reduction="batchmean", log_target=True)
                torch.autograd.backward(loss)
                optimiser.step()
                schedule.step()
