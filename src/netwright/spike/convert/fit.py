"""Fit: every layer of neurons is chosen with the real T-step neuron in the loop, on the spikes that really reach it.

Layer by layer, in one pass over the calibration images, without gradients and without labels:

    W, b      ridge regression of the float network's sums on the decoded spikes that arrive              (see `refit`)
    theta_c   argmin over shares of the largest activation of  mean (theta/T sum_t s_t - a)^2;   a: the float activation
    b_c      += mean (a - theta/(T-w) sum_{t>=w} s_t)       after w steps: what the steady state lacks, in every step
    v_c(0)   += T mean (a - theta/T sum_t s_t)              what start-up lacks, once

theta, b and v(0) are tried on sampled positions, and kept where they lower the channel's error. So all errors that time
makes (clipping, rounding, uneven arrival) are in what is minimised, for the wanted T; thresholds for another T are others.

`neuron` says what stands at rectified points. "binary": spikes of 0 and 1. "bipolar": a neuron that also takes back a spike
that it sent too early (see `signed`), which closes most of the gap of residual networks but needs hardware with signed
spikes. Linear points have signed spikes either way.

The corrections of bias and potential are those of Li et al. 2021 (light calibration), one after the other; thresholds by
simulation and weights by regression are this project's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from netwright.core.paper import Paper
from netwright.spike.convert.calibrated import Calibrated, Seen
from netwright.spike.convert.lower import Settings
from netwright.spike.convert.mmse import LI
from netwright.spike.convert.program import Region
from netwright.spike.convert.refit import refit
from netwright.spike.convert.simulate import sample, spike_sum

GRID = 8  # settings that are simulated side by side


@dataclass(frozen=True)
class Fit(Calibrated):
    """Simulation in the loop.

    Attributes:
        neuron: of rectified points: binary (0, 1), or bipolar (-1, 0, 1, its sum never below zero).
        shares: candidates of theta, as shares of the channel's largest activation.
        starts: candidates of v(0) at rectified points, as shares of theta.
        bias_rounds, potential_rounds: trials of the bias and of the v(0) correction; 0 for none.
        windows: shares of T after which the bias is measured. Each gives a network; the one that agrees most often with the
            float network on calibration images that were not used to make it is kept.
        prices: candidates for the price of moving weights, as shares of the inputs' variance; none leaves them as they are.
        points: positions that the regression looks at; `rounds` of it for the part behind the rectifier.
        samples: positions that the errors are estimated on.
    """

    images: int = 512
    neuron: Literal["binary", "bipolar"] = "binary"
    shares: tuple[float, ...] = tuple(k / 16 for k in range(1, 17))
    starts: tuple[float, ...] = (0.5,)
    bias_rounds: int = 4
    potential_rounds: int = 0
    windows: tuple[float, ...] = (0.0,)
    prices: tuple[float, ...] = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
    points: int = 32768
    rounds: int = 2
    samples: int = 2048

    name: ClassVar[str] = "fit"
    paper: ClassVar[Paper] = LI

    def variants(self) -> tuple[Calibrated, ...]:
        distinct = {int(w * self.steps): w for w in self.windows} if self.bias_rounds else {0: 0.0}
        return tuple(replace(self, windows=(w,)) for w in distinct.values())

    def refit(self, region: Region, fed: Mapping[str, Tensor], wanted: Tensor, rectified: bool,
              generator: torch.Generator) -> Region:  # fmt: skip
        if not self.prices:
            return region
        return refit(region, fed, wanted, rectified=rectified, prices=self.prices, points=self.points, rounds=self.rounds,
                     generator=generator)  # fmt: skip

    def settle(self, seen: Seen) -> Settings:
        seed = int(torch.randint(2**31, (), generator=seen.generator))
        x = sample(seen.current, seen.current_steps, self.samples, torch.Generator().manual_seed(seed))
        a = sample(seen.target, 1, self.samples, torch.Generator().manual_seed(seed))[0]
        signed, steps = seen.layer.signed, self.steps
        rule = "bipolar" if signed else "memory" if self.neuron == "bipolar" else "if"

        def error(theta: Tensor, v0: Tensor, bias: Tensor, window: int) -> tuple[Tensor, Tensor]:
            sums = spike_sum(x, theta, v0, bias, steps, rule, window=window)
            lacking = a - theta / (steps - window) * sums
            return lacking.square().mean(1, keepdim=True), lacking.mean(1, keepdim=True)

        def corrected(theta: Tensor, v0: Tensor, bias: Tensor, window: int, rounds: int) -> tuple[Tensor, Tensor]:
            """The bias after some rounds, and the error over all steps."""
            least, mean = error(theta, v0, bias, window)
            for _ in range(rounds):
                moved = (bias + mean).round()
                errors, means = error(theta, v0, moved, window)
                better = errors < least
                bias, least = torch.where(better, moved, bias), torch.where(better, errors, least)
                mean = torch.where(better, means, mean / 2)
            return bias, error(theta, v0, bias, 0)[0] if window else least

        grid = [((m * seen.theta).round().clamp(min=1), f) for m in self.shares for f in ((0.0,) if signed else self.starts)]
        thetas = torch.stack([t for t, _ in grid]).float()[:, None]
        v0s = torch.stack([(f * t).floor() for t, f in grid]).float()[:, None]
        window = int(self.windows[0] * steps)
        tried = [corrected(t, v, torch.zeros_like(t), window, self.bias_rounds)
                 for t, v in zip(thetas.split(GRID), v0s.split(GRID), strict=True)]  # fmt: skip
        best = torch.cat([errors for _, errors in tried]).argmin(0, keepdim=True)
        theta, v0, bias = (t.gather(0, best) for t in (thetas, v0s, torch.cat([b for b, _ in tried])))

        least, mean = error(theta, v0, bias, 0)
        for _ in range(self.potential_rounds):
            start = (v0 + steps * mean).round()
            errors, means = error(theta, start, bias, 0)
            better = errors < least
            v0, least = torch.where(better, start, v0), torch.where(better, errors, least)
            mean = torch.where(better, means, mean / 2)
        theta, v0, bias = (t.reshape(-1).to(torch.int64) for t in (theta, v0, bias))
        return Settings(theta, v0, bias, rule)
