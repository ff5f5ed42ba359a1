"""The sandwich rule: what is trained at a step, the gradients' sum, exact resuming, and that slices learn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from netwright.core import Arch, Space, choice, ints
from netwright.core.errors import TrainingDiverged
from netwright.train import Recipe, Tensors
from netwright.train.elastic import CATALOGUE, Sandwich, Shared


@dataclass(frozen=True)
class Config:
    width: Any
    depth: Any
    kind: Any


SPACE = Space("mlp", Config(choice(4, 8, 16), ints(0, 2), choice("relu", "tanh")))


class Mlp(nn.Module):
    """Shared weights of a small perceptron: leading slices of each matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.space = SPACE
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.inner = nn.Linear(6, 16)
            self.hidden = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
            self.head = nn.Linear(16, 3)
        self.called: list[Arch] = []

    def call(self, arch: Arch, x: torch.Tensor) -> torch.Tensor:
        self.called.append(arch)
        n, act = arch["width"], getattr(torch, arch["kind"])
        h = act(F.linear(x, self.inner.weight[:n], self.inner.bias[:n]))
        for layer in self.hidden[: arch["depth"]]:
            h = h + act(F.linear(h, layer.weight[:n, :n], layer.bias[:n]))
        return F.linear(h, self.head.weight[:, :n], self.head.bias)


def task() -> Tensors:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 6, generator=g)
    y = (x @ torch.randn(6, 3, generator=g)).argmax(1)
    return Tensors(x[:200], y[:200], x[200:], y[200:])


RECIPE = Recipe(steps=120, batch_size=32, lr=1e-2, label_smoothing=0.0, evaluations=4)


def test_it_is_listed_and_fits_the_protocol():
    assert list(CATALOGUE) == ["sandwich"]
    assert isinstance(Mlp(), Shared)


def test_a_step_holds_the_ends_and_the_samples():
    for step in range(20):
        largest, smallest, *others = Sandwich(samples=3).architectures(SPACE, 7, step)
        assert (largest["width"], largest["depth"]) == (16, 2)
        assert (smallest["width"], smallest["depth"]) == (4, 0)
        assert largest["kind"] == smallest["kind"]
        assert len(others) == 3
    kinds = {Sandwich().architectures(SPACE, 7, step)[0]["kind"] for step in range(20)}
    assert kinds == {"relu", "tanh"}


def test_the_gradient_is_the_sum_and_targets_are_detached():
    data, shared, reference = task(), Mlp(), Mlp()
    recipe = Recipe(steps=1, batch_size=200, lr=0.1, optimiser="sgd", momentum=0.0, weight_decay=0.0, clip_norm=0.0, warmup=0.0)
    x, y = next(data.batches(200, torch.Generator().manual_seed(0)))
    largest, *others = Sandwich().architectures(SPACE, 0, 0)
    logits = reference.call(largest, x)
    loss = F.cross_entropy(logits, y, label_smoothing=0.1)
    for arch in others:
        loss = loss + F.kl_div(reference.call(arch, x).log_softmax(1), logits.detach().softmax(1), reduction="batchmean")
    loss.backward()
    Sandwich().fit(shared, data, recipe, validate=lambda: 0.5)
    for (name, a), b in zip(shared.named_parameters(), reference.parameters(), strict=True):
        assert torch.allclose(a, b - 0.1 * b.grad if b.grad is not None else b, atol=1e-6), name


def test_largest_and_smallest_learn_together():
    shared, data = Mlp(), task()
    Sandwich().fit(shared, data, RECIPE)
    x, y = data.validation
    for arch, least in ((SPACE.largest(), 0.85), (SPACE.smallest(), 0.75)):
        with torch.no_grad():
            assert (shared.call(arch, x).argmax(1) == y).float().mean() > least


def test_resumes_bit_exactly(tmp_path: Path):
    whole, resumed = Mlp(), Mlp()
    recipe, path = RECIPE.with_(steps=30, ema=0.9), tmp_path / "shared.safetensors"
    Sandwich().fit(whole, task(), recipe)

    def kill(step: int, module: nn.Module) -> None:
        if step == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Sandwich().fit(Mlp(), task(), recipe, checkpoint=path, save_every_steps=4, on_step=[kill])
    Sandwich().fit(resumed, task(), recipe, checkpoint=path)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_nan_stops_it():
    data = task()
    bad = Tensors(data.x * float("nan"), data.y, *data.validation)
    with pytest.raises(TrainingDiverged, match="step 1 of 120"):
        Sandwich().fit(Mlp(), bad, RECIPE)
