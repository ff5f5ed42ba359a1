"""Quantiles: how large a layer's activations are."""

from __future__ import annotations

import torch
from torch import Tensor

from netwright.spike.convert.balance import activation
from netwright.spike.convert.program import Neuron, Program

BATCH = 100


def quantiles(program: Program, calibration: Tensor, share: float, channelwise: bool) -> dict[str, Tensor]:
    """The `share` quantile of |activation| of every layer, [C]: of each channel, or the layer's in every channel.

    Ranks count from the top over all data, so only the values that can be among the k largest are kept.
    """
    kept: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    images = len(calibration)

    def step(layer: Neuron, z: Tensor) -> Tensor:
        a = activation(layer, z)
        rows = a.abs().transpose(0, 1).flatten(1) if channelwise else a.abs().reshape(1, -1)
        total = rows.shape[1] // len(a) * images
        most = min(round((1 - share) * total) + 1, total)
        rows = torch.cat([kept[layer.name], rows], 1) if layer.name in kept else rows
        kept[layer.name] = rows.topk(min(most, rows.shape[1]), 1).values
        counts[layer.name] = most
        return a

    for part in calibration.split(BATCH):
        program(part, step)
    return {
        layer.name: kept[layer.name][:, counts[layer.name] - 1].expand(layer.region.shape[1]).clone() for layer in program.neurons
    }
