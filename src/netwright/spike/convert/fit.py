"""Fit: threshold, initial potential and bias of a layer of neurons with the neuron itself, T steps long, in the loop.

For each channel, on the integer currents that the already fixed earlier layers really send,

    theta, v0 = argmin over a grid of mean (theta/T sum_t s_t - a)^2,     a: the float network's activation
    bias     += mean (a - theta/(T-w) sum_{t>=w} s_t)       after w steps: what the steady state lacks, in every step
    v0       += T mean (a - theta/T sum_t s_t)              what start-up lacks, once

each kept where it lowers the channel's error. One forward pass, no gradients. Both corrections are those of Li et al. 2021
(layer-wise calibration of bias and of initial potential), here one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SAMPLES = 1024  # positions (image and pixel) that the error is estimated on


def sample(x: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """Positions drawn from a current or an activation: [steps*N, C, ...] -> [steps, P, C] in float32."""
    t = x.reshape(steps, x.shape[0] // steps, x.shape[1], -1)
    positions = t.shape[1] * t.shape[3]
    if positions <= SAMPLES:
        return t.permute(0, 1, 3, 2).reshape(steps, positions, t.shape[2]).to(torch.float32)
    chosen = torch.randint(positions, (SAMPLES,), generator=generator)
    image, pixel = chosen // t.shape[3], chosen % t.shape[3]
    return t[:, image, :, pixel].permute(1, 0, 2).to(torch.float32)


def spike_sum(x: Tensor, theta: Tensor, v0: Tensor, steps: int, signed: bool, window: int = 0) -> Tensor:
    """Sum of the spikes of steps `window`..`steps`-1 for currents x [S, P, C] and settings theta, v0 [K, 1, C]: [K, P, C]."""
    v = v0.expand(theta.shape[0], x.shape[1], x.shape[2]).clone()
    total = torch.zeros_like(v)
    for t in range(steps):
        v += x[t % x.shape[0]]
        s = (v >= theta).to(v.dtype)
        if signed:
            s -= (v <= -theta).to(v.dtype)
        v -= s * theta
        if t >= window:
            total += s
    return total


def fit(
    current: Tensor,
    target: Tensor,
    theta: Tensor,
    v0: Tensor,
    *,
    current_steps: int,
    steps: int,
    signed: bool,
    multiples: Sequence[float],
    starts: Sequence[float],
    bias_rounds: int,
    window: int = 0,
    potential_rounds: int = 0,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Whole-number theta, v0 and bias correction, each int64 [C].

    Args:
        current: int32 [current_steps*N, C, ...]; `target` float [N, C, ...] in the same unit.
        theta, v0: the settings to start from, whole numbers [C]; always among the candidates.
        window: first step that the bias correction counts; the grid and the v(0) correction count all steps.
        multiples: candidates of theta as multiples of the given one; `starts` of v0 as multiples of theta.
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    x = sample(current, current_steps, torch.Generator().manual_seed(seed))
    a = sample(target, 1, torch.Generator().manual_seed(seed))[0]
    grid = [(m * theta).round().clamp(min=1) for m in multiples]
    thetas = torch.stack([theta, *(t for t in grid for _ in starts)]).to(torch.float32)[:, None]
    v0s = torch.stack([v0, *((f * t).floor() for t in grid for f in starts)]).to(torch.float32)[:, None]

    def error(thetas: Tensor, v0s: Tensor, bias: Tensor, window: int) -> tuple[Tensor, Tensor]:
        sums = spike_sum(x + bias, thetas, v0s, steps, signed, window)
        difference = a - thetas / (steps - window) * sums
        return difference.square().mean(1), difference.mean(1)

    bias = torch.zeros_like(theta, dtype=torch.float32)
    errors, _ = error(thetas, v0s, bias, 0)
    best = errors.argmin(0, keepdim=True)[:, None]
    thetas, v0s = thetas.gather(0, best), v0s.gather(0, best)

    least, mean = error(thetas, v0s, bias, window)
    for _ in range(bias_rounds):
        tried = (bias + mean[0]).round()
        errors, means = error(thetas, v0s, tried, window)
        better = errors < least
        bias, least = torch.where(better[0], tried, bias), torch.where(better, errors, least)
        mean = torch.where(better, means, mean / 2)

    least, mean = error(thetas, v0s, bias, 0)
    for _ in range(potential_rounds):
        start = (v0s + steps * mean[:, None]).round()
        errors, means = error(thetas, start, bias, 0)
        better = errors < least
        v0s, least = torch.where(better[:, None], start, v0s), torch.where(better, errors, least)
        mean = torch.where(better, means, mean / 2)
    return thetas.reshape(-1).to(torch.int64), v0s.reshape(-1).to(torch.int64), bias.reshape(-1).to(torch.int64)
