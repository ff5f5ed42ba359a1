"""Simulate: what layers of neurons make of sampled currents, many settings side by side."""

from __future__ import annotations

import torch
from torch import Tensor


def sample(x: Tensor, steps: int, count: int, generator: torch.Generator) -> Tensor:
    """At most `count` positions (image and pixel) of a current or an activation: [steps*N, C, ...] -> [steps, P, C], float32."""
    t = x.reshape(steps, x.shape[0] // steps, x.shape[1], -1)
    positions = t.shape[1] * t.shape[3]
    if positions <= count:
        return t.permute(0, 1, 3, 2).reshape(steps, positions, t.shape[2]).to(torch.float32)
    chosen = torch.randint(positions, (count,), generator=generator)
    image, pixel = chosen // t.shape[3], chosen % t.shape[3]
    return t[:, image, :, pixel].permute(1, 0, 2).to(torch.float32)


def spike_sum(
    x: Tensor, theta: Tensor, v0: Tensor, bias: Tensor, steps: int, rule: str, limit: int = 0, window: int = 0
) -> Tensor:
    """Sum of the spikes of steps `window`..`steps`-1 for currents x [S, P, C] and settings theta, v0, bias [K, 1, C]: [K, P, C].

    The rules are those of the operator ``netwright::integrate``.
    """
    v = v0.expand(theta.shape[0], x.shape[1], x.shape[2]).clone()
    total, sent = torch.zeros_like(v), torch.zeros_like(v)
    for t in range(steps):
        v += x[t % x.shape[0]] + bias
        if rule == "burst":
            s = (v / theta).floor_().clamp_(0, limit)
        else:
            s = (v >= theta).to(v.dtype)
            if rule == "bipolar":
                s -= (v <= -theta).to(v.dtype)
            elif rule == "memory":
                if limit:
                    s *= sent < limit
                s -= ((v < 0) & (sent > 0)).to(v.dtype)
                sent += s
        v -= s * theta
        if t >= window:
            total += s
    return total
