"""Accuracy of a module, and batch statistics estimated again after its weights changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from netwright.core.errors import DataError

Split = tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[nn.Module]:
    """The module in eval mode without gradients; every submodule gets its own mode back afterwards."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield module
    finally:
        for m, training in modes:
            m.training = training


def device_of(module: nn.Module) -> torch.device:
    """Where the module's tensors lie (the CPU for a module that has none)."""
    return next((t.device for tensors in (module.parameters(), module.buffers()) for t in tensors), torch.device("cpu"))


def _batches(split: Split, batch_size: int) -> Iterable[tuple[Tensor, Tensor]]:
    if isinstance(split, tuple) and isinstance(split[0], Tensor):
        x, y = split
        return zip(x.split(batch_size), y.split(batch_size), strict=True)
    return cast(Iterable[tuple[Tensor, Tensor]], split)


def share_correct(call: Callable[[Tensor], Tensor], split: Split, batch_size: int = 512) -> float:
    """Share of the inputs whose largest logit is the label's."""
    right = total = 0
    for x, y in _batches(split, batch_size):
        right += int((call(x).argmax(1).to(y.device) == y).sum())
        total += y.numel()
    if not total:
        raise DataError("There is nothing to measure the accuracy on: the split is empty.")
    return right / total


def accuracy(module: nn.Module, split: Split, batch_size: int = 512) -> float:
    """Top-1 accuracy in eval mode, in [0, 1].

    Args:
        module: [N, C, H, W] -> logits [N, classes].
        split: (x, y) tensors, or batches of them.
        batch_size: used where `split` is one pair of tensors.

    Raises:
        DataError: the split is empty.
    """
    device = device_of(module)
    with evaluating(module):
        return share_correct(lambda x: module(x.to(device)), split, batch_size)


def reestimate(module: nn.Module, batches: Iterable[Tensor | tuple[Tensor, Tensor]]) -> nn.Module:
    """Estimate the running statistics of every batch norm anew, as the plain mean over `batches`.

    A sub-network cut out of shared weights, or a network whose weights were rounded, has other activations than those its
    statistics describe (Yu & Huang, Universally Slimmable Networks, ICCV 2019, section 3.3).

    Args:
        module: changed in place; only its batch norms run in train mode.
        batches: inputs [N, C, H, W], or (inputs, labels).

    Raises:
        DataError: there are batch norms but no batches.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return module
    momenta = [m.momentum for m in norms]
    device = device_of(module)
    with evaluating(module):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # cumulative average
            norm.training = True
        try:
            for batch in batches:
                module((batch if isinstance(batch, Tensor) else batch[0]).to(device))
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    if any(m.num_batches_tracked == 0 for m in norms):
        raise DataError("Batch statistics cannot be estimated without data: no batch reached the batch norms.")
    return module
