"""Channels that a gate switches off are not computed, and nothing else changes."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from nets import Builder
from torch import Tensor, nn

from netwright.compress.prune.ftwt import FTWT
from netwright.core.graph import Graph
from netwright.deploy.c99 import build, emit, gates, threads
from netwright.design.execute import GraphModule
from netwright.design.trace import trace

Check = Callable[..., None]
SKIPS = "nw_conv_active_f32"
PRODUCT = re.compile(r"nw_binary_f32\(.*, NW_MUL, [01]\);")
OFF, SOME, ON = 1e3, 0.0, -1e3  # thresholds


class Gated(nn.Module):
    """Convolutions whose channels are on where a linear function of the picture's mean reaches a threshold."""

    def __init__(self, wide: int, high: int, threshold: float, behind: nn.Module | None = None, **sizes: int):
        super().__init__()
        self.conv, self.predictor = nn.Conv2d(wide, high, **{"kernel_size": 3, "padding": 1, **sizes}), nn.Linear(wide, high)
        self.behind, self.threshold = behind or nn.ReLU(), threshold
        nn.init.normal_(self.predictor.weight, 0, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.behind(self.conv(x))
        return y * (self.predictor(x.mean((2, 3))) >= self.threshold)[:, :, None, None]


def traced(*blocks: nn.Module, wide: int, high: int = 9) -> tuple[Graph, Tensor]:
    x = torch.randn(4, wide, high, 8, generator=torch.Generator().manual_seed(2))
    return trace(nn.Sequential(*blocks).eval(), x[:1]), x


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return make()


@pytest.mark.parametrize("high", [1, 7, 16, 17, 33, 64])
def test_gated_channels_at_awkward_counts(high: int, same: Check) -> None:
    """One network for two densities: its layers are on in part, on, and on in part."""
    layers = lambda: nn.Sequential(Gated(5, high, SOME), Gated(high, high, ON), Gated(high, high, SOME))
    graph, x = traced(seeded(layers), wide=5)
    assert (SKIPS in emit(graph).c) == (high > 16)
    same(graph, x.numpy(), 1e-5, avx2=high == 33)


@pytest.mark.parametrize("high", [7, 17, 64])
def test_all_channels_off(high: int, same: Check) -> None:
    graph, x = traced(seeded(lambda: Gated(5, high, OFF)), nn.Conv2d(high, 3, 1), wide=5)
    same(graph, x.numpy(), 1e-5)


def test_skipping_changes_no_bit_of_what_is_computed(tmp_path, monkeypatch) -> None:
    graph, x = traced(seeded(lambda: Gated(19, 40, SOME)), wide=19)
    skipped = build(graph, tmp_path / "skipped").run(x.numpy())
    monkeypatch.setattr(gates, "PIXELS", 10**6)
    np.testing.assert_array_equal(skipped, build(graph, tmp_path / "all").run(x.numpy()))
    off = (skipped == 0).all((2, 3))
    assert 0.2 < off.mean() < 0.8 and (off != off[0]).any()


@pytest.mark.parametrize(
    "sizes",
    [
        {"kernel_size": 1, "padding": 0},
        {"stride": 2, "padding": 0, "kernel_size": 1},
        {"dilation": 2, "padding": 2},
        {"kernel_size": 5, "padding": 2},
    ],
)
def test_other_kernels(sizes: dict[str, int], same: Check) -> None:
    graph, x = traced(seeded(lambda: Gated(18, 37, SOME, nn.Identity(), **sizes)), wide=18, high=33)
    assert SKIPS in emit(graph).c
    same(graph, x.numpy(), 1e-5)


@pytest.mark.parametrize(
    ("behind", "kept"),
    [
        (nn.BatchNorm2d(24), 0),
        (nn.Sequential(nn.BatchNorm2d(24), nn.ReLU()), 0),
        (nn.Sequential(nn.ReLU(), nn.BatchNorm2d(24)), 1),
        (nn.Hardswish(), 1),
        (nn.Sigmoid(), 1),
        (nn.PReLU(24), 1),
    ],
)
def test_what_stands_between_a_convolution_and_its_gate(behind: nn.Module, kept: int, same: Check) -> None:
    """A norm and a rectifier go into the kernel; behind anything else, where zero need not stay zero, the product is kept."""
    for m in behind.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.bias, -1, 1)
    graph, x = traced(seeded(lambda: Gated(6, 24, SOME, behind)), wide=6)
    source = emit(graph).c
    assert SKIPS in source and len(PRODUCT.findall(source)) == kept
    same(graph, x.numpy(), 1e-5)


class Refused(nn.Module):
    def __init__(self, how: str):
        super().__init__()
        self.conv, self.predictor, self.how = nn.Conv2d(20, 20, 3, padding=1), nn.Linear(20, 20), how

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        score = self.predictor((y if self.how == "from its output" else x).mean((2, 3)))
        gate = score.sigmoid() if self.how == "not binary" else score >= 0
        out = y * gate[:, :, None, None]
        return out + y if self.how == "read twice" else out


@pytest.mark.parametrize("how", ["from its output", "not binary", "read twice"])
def test_what_cannot_be_skipped_is_computed(how: str, same: Check) -> None:
    graph, x = traced(seeded(lambda: Refused(how)), wide=20)
    assert SKIPS not in emit(graph).c
    same(graph, x.numpy(), 1e-5)


@pytest.mark.parametrize(("wide", "high"), [(16, 20), (64, 5)])
def test_small_layers_are_computed_whole(wide: int, high: int) -> None:
    graph, _ = traced(seeded(lambda: Gated(wide, wide, SOME)), wide=wide, high=high)
    assert SKIPS not in emit(graph).c


def test_a_gate_without_a_predictor(same: Check) -> None:
    """Built by hand: the comparison of a maximum, in its final shape from the start, before the convolution."""
    b = Builder((1, 20, 8, 9))
    on = b.add("gt", b.add("amax", "x", attrs={"dims": [2, 3], "keepdim": True}), attrs={"scalar": 3.5})
    graph = b.graph(b.flatten(b.add("mul", on, b.conv("conv2d", "x", 20, 3))))
    assert SKIPS in emit(graph).c
    same(graph, b.input, 1e-5)


def test_residual_blocks_of_a_pruned_network(same: Check) -> None:
    """As FTWT leaves them: gates behind both branches, each with a predictor that reads a gated tensor."""

    class Block(nn.Module):
        def __init__(self, i: int, o: int):
            super().__init__()
            self.first, self.second, self.short = nn.Conv2d(i, o, 3, 1, 1), nn.Conv2d(o, o, 3, 1, 1), nn.Conv2d(i, o, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.short(x) + self.second(torch.relu(self.first(x))))

    net = seeded(lambda: nn.Sequential(nn.Conv2d(1, 18, 3, 1, 1), nn.ReLU(), Block(18, 34), Block(34, 20), nn.Flatten()))
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    trainee = FTWT(tau=0.6).prepare(net, x[:1], x)
    for layer in trainee.predictors.values():
        nn.init.normal_(layer.weight, 0, 1)
    network = FTWT().finish(trainee, x)
    source = emit(network.graph).c
    assert sum(n.op == "ge" for n in network.graph) == 6 and SKIPS in source and not PRODUCT.search(source)
    same(network.graph, x.numpy(), 1e-5)
    strips = emit(network.graph, most_repeated=0.5)
    assert strips.arena_bytes <= emit(network.graph).arena_bytes


@pytest.mark.parametrize("isa", ["native", "portable"])
def test_three_threads_give_what_one_gives(isa: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(threads, "STEP_US", 0.0)
    monkeypatch.setattr(threads, "NETWORK_US", 0.0)
    monkeypatch.setenv("NETWRIGHT_THREADS", "3")
    layers = [seeded(lambda: Gated(20, 20, SOME)), seeded(lambda: Gated(20, 50, SOME, kernel_size=1, padding=0)), nn.MaxPool2d(3)]
    graph, x = traced(*layers, wide=20, high=25)
    assert "nw_together(part" in emit(graph).c
    one, three = (build(graph, tmp_path / str(n), isa=isa, threads=n) for n in (1, 3))
    with torch.no_grad():
        np.testing.assert_allclose(one.run(x.numpy()), GraphModule(graph).eval()(x).numpy(), atol=1e-5)
    for _ in range(10):
        np.testing.assert_array_equal(three.run(x.numpy()), one.run(x.numpy()))
