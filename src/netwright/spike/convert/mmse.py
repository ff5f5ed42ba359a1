"""Thresholds of the least square error: what T spikes can say of each channel's activations, at best.

    theta_c = argmin_theta E[(q(a_c; theta) - a_c)^2],    q(a; theta) = theta/T clip(floor(a T / theta + 1/2), 0, T)

over a grid of shares of the channel's largest activation; v(0) = theta/2. q is what the neuron sends for a constant current,
so the choice knows T, but neither that spikes come unevenly nor what the layers before got wrong (see `fit`). The rule is
that of Li et al. 2021 (section 3.2); their layer-wise correction of the bias is `lcp`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from netwright.core.paper import Paper
from netwright.spike.convert.balance import activation
from netwright.spike.convert.calibrated import Calibrated, Tick
from netwright.spike.convert.program import Neuron, Program

LI = Paper(
    "li2021free", "A Free Lunch From ANN: Towards Efficient, Accurate Spiking Neural Networks Calibration",
    "Li, Yuhang and Deng, Shikuang and Dong, Xin and Gong, Ruihao and Gu, Shi", "ICML", 2021, "https://arxiv.org/abs/2106.06984",
)  # fmt: skip


def least_error(a: Tensor, steps: int, shares: int, signed: bool) -> Tensor:
    """theta [C] for activations a [P, C]."""
    top = a.abs().amax(0).clamp(min=1e-12)
    best, theta = torch.full_like(top, torch.inf), top
    for k in range(1, shares + 1):
        t = top * k / shares
        sent = (a * steps / t + (0 if signed else 0.5)).floor() if not signed else (a * steps / t).trunc()
        error = (sent.clamp(-steps if signed else 0, steps) * t / steps - a).square().mean(0)
        best, theta = torch.where(error < best, error, best), torch.where(error < best, t, theta)
    return theta


@dataclass(frozen=True)
class MinimumError(Calibrated):
    """`shares` is the number of candidates of each threshold, `samples` of positions that the error is estimated on."""

    shares: int = 32
    samples: int = 8192

    name: ClassVar[str] = "mmse"
    paper: ClassVar[Paper] = LI

    def thresholds(self, program: Program, calibration: Tensor, tick: Tick) -> Mapping[str, Tensor]:
        theta: dict[str, Tensor] = {}
        generator = torch.Generator().manual_seed(self.seed)

        def step(layer: Neuron, z: Tensor) -> Tensor:
            a = activation(layer, z)
            rows = a.transpose(0, 1).flatten(1).T
            rows = rows[torch.randperm(len(rows), generator=generator)[: self.samples]]
            theta[layer.name] = least_error(rows, self.steps, self.shares, layer.signed)
            return a

        program(calibration[: self.images], step)
        return theta
