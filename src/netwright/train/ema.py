"""Moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class MovingAverage:
    """a <- d a + (1 - d) w after every step, with d = min(decay, (1 + t) / (10 + t)) so that the start is forgotten.

    Batch-norm statistics are averaged too; integers (counters) are copied. `weights` are the live tensors by name.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float):
        self.weights, self.decay = weights, decay
        self.average = {k: v.detach().clone() for k, v in weights.items()}
        floats = [k for k, v in weights.items() if v.is_floating_point()]
        self._live = [weights[k].detach() for k in floats]
        self._mean = [self.average[k] for k in floats]
        self._exact = [k for k in weights if k not in set(floats)]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._mean, self._live, 1 - decay)
        for k in self._exact:
            self.average[k].copy_(self.weights[k])


@torch.no_grad()
def assign(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy `values` into the live tensors of the same names."""
    for k, v in weights.items():
        v.copy_(values[k])


@contextmanager
def standing_in(weights: Mapping[str, Tensor], values: Mapping[str, Tensor] | None) -> Iterator[None]:
    """The live tensors hold `values` for a while (nothing happens where `values` is None)."""
    if values is None:
        yield
        return
    kept = {k: v.detach().clone() for k, v in weights.items()}
    assign(weights, values)
    try:
        yield
    finally:
        assign(weights, kept)
