"""Contract suite of the training-free proxies: what every one of them must do with any module that it can score."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.core.paper import Paper
from netwright.estimate.proxies import Proxy


def check_proxy(proxy: Proxy, module: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """The score is a finite float, decided by the generator; module, batch and PyTorch's generator stay as they were.

    A proxy reads no more of the batch than it declares, and scores a module alike in training and in evaluation mode, with
    gradients left over, and with frozen parameters.

    Args:
        proxy: the proxy.
        module: a network with a loss of cross entropy that the proxy can score.
        batch: x [N, ...] and labels [N].
    """

    def score(network: nn.Module, x: Tensor, y: Tensor, seed: int = 0) -> float:
        return proxy(network, (x, y), F.cross_entropy, torch.Generator().manual_seed(seed))

    assert isinstance(proxy.paper, Paper) and proxy.name and proxy.needs in ("shape", "inputs", "labels")
    x, y = batch
    module.train()
    F.cross_entropy(module(x), y).backward()
    before, kept = copy.deepcopy(module), (x.clone(), y.clone())
    for p, q in zip(module.parameters(), before.parameters(), strict=True):
        q.grad = None if p.grad is None else p.grad.clone()
    random = torch.get_rng_state()
    found = score(module, x, y)
    assert isinstance(found, float) and math.isfinite(found)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(x, kept[0]) and torch.equal(y, kept[1]) and not x.requires_grad
    alike(module, before)
    assert score(module, x, y) == found
    assert score(module.eval(), x, y) == found
    alike(module, before.eval())
    assert score(module.requires_grad_(False), x, y) == found
    module.requires_grad_(True).zero_grad()
    other = (torch.randn(x.shape) if x.is_floating_point() else x.flip(0)), (y + 1) % (int(y.max()) + 1)
    if proxy.needs == "shape":
        assert score(module, *other) == found
    elif proxy.needs == "inputs":
        assert score(module, x, other[1]) == found


def alike(a: nn.Module, b: nn.Module) -> None:
    """Two modules have equal parameters, buffers, gradients, modes and as many hooks."""
    for (name, m), (_, n) in zip(a.named_modules(), b.named_modules(), strict=True):
        assert m.training == n.training and len(m._forward_hooks) == len(n._forward_hooks), name
        assert m.__dict__.keys() == n.__dict__.keys(), name
    state, other = a.state_dict(), b.state_dict()
    assert state.keys() == other.keys()
    assert all(v.dtype == other[k].dtype and torch.equal(v, other[k]) for k, v in state.items())
    for (name, p), (_, q) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        assert p.requires_grad == q.requires_grad, name
        assert (p.grad is None) == (q.grad is None), name
        assert p.grad is None or q.grad is None or torch.equal(p.grad, q.grad), name
