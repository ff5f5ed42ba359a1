"""Local threshold balancing: thresholds from forward passes alone, and the delay they imply."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from netwright.spike.convert.program import Neuron, Program
from netwright.spike.neurons.neuron import channelwise


def channel_mean(x: Tensor) -> Tensor:
    """Mean over everything but the channels: [N, C, ...] -> [C]."""
    return x.mean([d for d in range(x.dim()) if d != 1])


def activation(layer: Neuron, z: Tensor) -> Tensor:
    """What the float network computes in the place of the neuron."""
    low = -float("inf") if layer.signed else 0.0
    if layer.cap is None:
        return z.clamp(min=low)
    return z.clamp(-layer.cap if layer.signed else 0.0, layer.cap)


def balance(
    program: Program, calibration: Tensor, iterations: int, batch: int, rate: float, seen: Callable[[int], None] | None = None
) -> dict[str, Tensor]:
    """Thresholds [C] of every layer of neurons after `iterations` batches.

    In every batch, layer by layer, ``theta_c += 2 rate mean[(z_c - theta_c) [z_c > theta_c]]`` with the mean over batch and
    space, then the layer hands on ``clip(z, 0, theta)``, so that later layers see what the clipped earlier ones give. A
    bipolar layer does the same with |z| and clips to [-theta, theta].
    """
    theta: dict[str, Tensor] = {}

    def step(layer: Neuron, z: Tensor) -> Tensor:
        size = z.abs() if layer.signed else z
        t = theta.setdefault(layer.name, z.new_zeros(z.shape[1]))
        t += 2 * rate * channel_mean((size - channelwise(t, z)).clamp(min=0))
        if layer.cap is not None:
            t.clamp_(max=layer.cap)
        high = channelwise(t, z)
        return torch.minimum(torch.maximum(z, -high if layer.signed else torch.zeros_like(high)), high)

    batch = min(batch, len(calibration))
    batches = len(calibration) // batch
    for i in range(iterations):
        k = i % batches
        program(calibration[k * batch : (k + 1) * batch], step)
        if seen is not None:
            seen(i + 1)
    return theta


def delay(program: Program, calibration: Tensor, theta: Mapping[str, Tensor], v0: Mapping[str, Tensor]) -> int:
    """Steps until the first spikes have crossed the network: ``sum_l min_c (theta_c - v0_c) / E[a_c]``, rounded down.

    The sum runs over the longest chain of layers rather than over all of them, which is the same in a network without
    branches. With one threshold a layer, a term is the paper's (theta_l - v_l(0)) / max_c E[relu(z_l)_c].
    """
    mean: dict[str, Tensor] = {}

    def step(layer: Neuron, z: Tensor) -> Tensor:
        a = activation(layer, z)
        mean[layer.name] = channel_mean(a.abs())
        return a

    program(calibration, step)
    reached: dict[str, float] = {program.input.name: 0.0}
    for layer in program.steps:
        if isinstance(layer, Neuron):
            wait = float(((theta[layer.name] - v0[layer.name]) / mean[layer.name].clamp(min=1e-12)).min())
            reached[layer.name] = max((reached[t.source] for t in layer.region.terms), default=0.0) + wait
        else:
            reached[layer.name] = max(reached[s] for s in layer.sources)
    return int(max((reached[t.source] for t in program.head.terms), default=0.0))
