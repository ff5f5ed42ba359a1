"""Spiking operators on integer currents; the T steps of a batch of N stand in one tensor of T*N, time first."""

from __future__ import annotations

import torch
from torch import Tensor


def _time(x: Tensor, steps: int) -> Tensor:
    """[T*N, ...] -> [T, N, ...]."""
    return x.reshape(steps, x.shape[0] // steps, *x.shape[1:])


@torch.library.custom_op("netwright::iadd", mutates_args=())
def iadd(a: Tensor, b: Tensor, a_steps: int, b_steps: int) -> Tensor:
    """Sum of two int32 currents; one of constant current (steps 1) repeats over the other's steps."""
    return (_time(a, a_steps) + _time(b, b_steps)).flatten(0, 1).to(torch.int32)


@iadd.register_fake
def _(a, b, a_steps, b_steps):
    return torch.empty_like(a if a_steps >= b_steps else b, dtype=torch.int32)


@torch.library.custom_op("netwright::isum", mutates_args=())
def isum(x: Tensor) -> Tensor:
    """Sum over h and w as int32: [N, C, H, W] -> [N, C, 1, 1]."""
    return x.to(torch.int64).sum((2, 3), keepdim=True).to(torch.int32)


@isum.register_fake
def _(x):
    return x.new_empty((*x.shape[:2], 1, 1), dtype=torch.int32)


@torch.library.custom_op("netwright::integrate", mutates_args=())
def integrate(current: Tensor, theta: Tensor, v0: Tensor, steps: int, current_steps: int, rule: str, limit: int) -> Tensor:
    """Integrate-and-fire with soft reset, `steps` times: v += current; s by the rule; v -= theta*s.

    `current` int32 [S*N, C, ...] with S = `current_steps` (1: the same current in every step, else `steps`); `theta`, at
    least 1, and `v0` int32 [C]. The rules:

        if       s = [v >= theta]
        bipolar  s = [v >= theta] - [v <= -theta]
        memory   s = [v >= theta and (A < limit or limit = 0)] - [v < 0 and A > 0],  A the sum of the spikes so far
        burst    s = clip(floor(v / theta), 0, limit),  limit at most 127

    Returns int8 spikes [steps*N, C, ...].
    """
    x = _time(current, current_steps).to(torch.int64)
    shape = (-1, *[1] * (current.dim() - 2))
    threshold = theta.to(torch.int64).reshape(shape)
    v = v0.to(torch.int64).reshape(shape).expand_as(x[0]).clone()
    sent = torch.zeros_like(v)
    spikes = []
    for t in range(steps):
        v += x[t % current_steps]
        if rule == "burst":
            s = torch.div(v, threshold, rounding_mode="floor").clamp(0, limit)
        elif rule == "memory":
            s = ((v >= threshold) & ((sent < limit) | (limit == 0))).to(torch.int64) - ((v < 0) & (sent > 0)).to(torch.int64)
            sent += s
        else:
            s = (v >= threshold).to(torch.int64)
            if rule == "bipolar":
                s -= (v <= -threshold).to(torch.int64)
        v -= s * threshold
        spikes.append(s.to(torch.int8))
    return torch.stack(spikes).flatten(0, 1)


@integrate.register_fake
def _(current, theta, v0, steps, current_steps, rule, limit):
    return current.new_empty((current.shape[0] // current_steps * steps, *current.shape[1:]), dtype=torch.int8)


@torch.library.custom_op("netwright::accumulate", mutates_args=())
def accumulate(current: Tensor, steps: int) -> Tensor:
    """Running sum over time, y_t = x_1 + ... + x_t: int32 [T*N, ...], the same shape."""
    return _time(current, steps).to(torch.int64).cumsum(0).flatten(0, 1).to(torch.int32)


@accumulate.register_fake
def _(current, steps):
    return torch.empty_like(current, dtype=torch.int32)


@torch.library.custom_op("netwright::difference", mutates_args=())
def difference(current: Tensor, steps: int, current_steps: int) -> Tensor:
    """Change from step to step, y_1 = x_1, y_t = x_t - x_(t-1), the inverse of `accumulate`: int32 [S*N, ...] -> [T*N, ...].

    Of a constant current (S = `current_steps` = 1) that is the current in the first step and nothing after.
    """
    x = _time(current, current_steps).to(torch.int64)
    later = x[1:] - x[:-1] if current_steps > 1 else torch.zeros_like(x).expand(steps - 1, *x.shape[1:])
    return torch.cat([x[:1], later]).flatten(0, 1).to(torch.int32)


@difference.register_fake
def _(current, steps, current_steps):
    return current.new_empty((current.shape[0] // current_steps * steps, *current.shape[1:]), dtype=torch.int32)


@torch.library.custom_op("netwright::readout", mutates_args=())
def readout(current: Tensor, steps: int, start: int, v0: Tensor | None = None) -> Tensor:
    """Sum of the output currents of steps `start`..`steps`-1, from `v0` (int32 [K]) or 0: int32 [T*N, K] -> [N, K]."""
    total = _time(current, steps)[start:].to(torch.int64).sum(0)
    return (total if v0 is None else total + v0.reshape(-1, *[1] * (total.dim() - 2))).to(torch.int32)


@readout.register_fake
def _(current, steps, start, v0=None):
    return current.new_empty((current.shape[0] // steps, *current.shape[1:]), dtype=torch.int32)
