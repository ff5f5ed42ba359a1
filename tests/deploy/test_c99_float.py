"""Float kernels against PyTorch, and folding against the network before it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from nets import Builder
from torch import nn
from torch.nn import functional as F

from netwright.core.errors import Unsupported
from netwright.deploy.c99 import emit
from netwright.design.execute import GraphModule
from netwright.design.fold import fold
from netwright.design.trace import trace

Check = Callable[..., None]
CHANNELS = [1, 3, 7, 16, 17, 31, 32, 33, 63, 64, 65]


def test_convolutions_at_awkward_sizes(same: Check) -> None:
    b = Builder((1, 65, 5, 7))
    names = []
    for n, c in enumerate(CHANNELS):
        part = b.add("slice", "x", attrs={"dim": 1, "start": 0, "end": c, "step": 1})
        names.append(b.conv("conv2d", part, CHANNELS[-1 - n], (1, 3, 5)[n % 3], stride=1 + n % 2, bias=n % 4 > 0))
        names.append(b.conv("conv2d", part, c, (3, 7, 5)[n % 3], stride=1 + n % 4 // 3, groups=c))
    names += [
        b.conv("conv2d", "x", 65, 3, groups=5, pads=[0, 1, 2, 0]),
        b.conv("conv2d", "x", 130, 3, groups=65, dilation=2, pads=[2] * 4),
        b.conv("conv2d", "x", 10, 2, pads=[1, 0, 0, 1], stride=2),
        b.conv("conv2d", "x", 24, 5, pads=[4] * 4, stride=3),
    ]
    same(b.gather(names), b.input, 1e-4)


def test_operators(same: Check) -> None:
    b = Builder((1, 19, 5, 6))
    x = b.conv("conv2d", "x", 19, 1)
    acts = [("relu", {}), ("relu6", {}), ("hardtanh", {"min": -0.5, "max": 0.7}), ("gelu", {"approximate": "none"}),
            ("gelu", {"approximate": "tanh"}), ("silu", {}), ("hardswish", {}),
            ("hardsigmoid", {}), ("sigmoid", {}), ("tanh", {}),
            ("leaky_relu", {"slope": 0.1}), ("elu", {"alpha": 0.7})]  # fmt: skip
    names = [b.add(op, x, attrs=a) for op, a in acts]
    gate = b.add("mean", x, attrs={"dims": [2, 3], "keepdim": True})
    ones = np.random.default_rng(0).normal(2, 0.3, (19, 1, 1)).astype(np.float32)
    plane = np.random.default_rng(0).normal(2, 0.3, (1, 1, 5, 6)).astype(np.float32)
    full = np.random.default_rng(0).normal(2, 0.3, (1, 19, 5, 1)).astype(np.float32)
    map_ = b.add("slice", x, attrs={"dim": 1, "start": 2, "end": 3, "step": 1})
    names += [b.add(op, x, "x") for op in ("add", "sub", "mul")] + [b.add("div", "x", names[8])]
    names += [b.add("mul", x, gate), b.add("sub", gate, x), b.add("mul", map_, x), b.add("div", x, attrs={"scalar": 3.0})]
    positive = names[8]  # a sigmoid: safe to divide by
    names += [
        b.add(op, positive, attrs={"reverse": r}, other=o)
        for op in ("sub", "div")
        for r in (False, True)
        for o in (ones, plane, full)
    ]
    pool = {"kernel": [3, 2], "stride": [2, 2], "padding": [1, 1], "ceil": True, "count_include_pad": False}
    names += [b.add("max_pool2d", x, attrs=pool), b.add("avg_pool2d", x, attrs=pool),
              b.add("avg_pool2d", x, attrs={**pool, "count_include_pad": True}),
              b.add("avg_pool2d", x, attrs={**pool, "ceil": False, "padding": [0, 0]})]  # fmt: skip
    names += [
        b.add("mean", x, attrs={"dims": d, "keepdim": k})
        for d, k in (([2, 3], False), ([1], True), ([3], False), ([1, 2, 3], True))
    ]
    names += [b.add("softmax", x, attrs={"dim": d}) for d in (1, 3)]
    names += [b.add("cat", x, "x", map_, attrs={"dim": 1}), b.add("cat", x, "x", attrs={"dim": 2})]
    names += [b.add("pad", x, attrs={"pad": p, "value": 0.5}) for p in ([1, 2], [0, 1, 2, 0], [0, 0, 0, 0, 1, 2])]
    names += [b.add("interpolate", x, attrs={"size": [9, 4], "mode": "nearest"})]
    names += [b.add("interpolate", x, attrs={"size": [9, 4], "mode": "bilinear", "align_corners": c}) for c in (False, True)]
    tokens = b.add("permute", b.add("reshape", x, shape=(1, 19, 30)), attrs={"dims": [0, 2, 1]})
    rng = np.random.default_rng(5)
    ln = {"weight": rng.normal(1, 0.2, 19).astype(np.float32), "bias": rng.normal(0, 1, 19).astype(np.float32)}
    matrix = rng.normal(0, 0.2, (19, 23)).astype(np.float32)
    names += [
        b.add("layer_norm", tokens, attrs={"shape": [19], "eps": 1e-5}, **ln),
        b.add("layer_norm", x, attrs={"shape": [5, 6], "eps": 1e-5}),
    ]
    names += [b.add("matmul", tokens, other=matrix), b.linear("linear", tokens, 35)]
    names += [b.add("matmul", tokens, other=rng.normal(0, 0.2, (7, 30)).astype(np.float32), attrs={"reverse": True})]
    names += [b.add("affine", x, scale=ln["weight"], bias=ln["bias"]), b.linear("linear", b.flatten(x), 12)]
    same(b.gather(names), b.input, 1e-4)


class Mixed(nn.Module):
    """Batch norms after and before layers, gates, residuals, layer scale after a permutation, factors as parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.Hardswish())
        self.norm = nn.BatchNorm2d(24)
        self.deep = nn.Sequential(nn.Conv2d(24, 24, 7, padding=3, groups=24), nn.BatchNorm2d(24))
        self.point = nn.Conv2d(24, 24, 1)
        self.layer_norm, self.up, self.down = nn.LayerNorm(24), nn.Linear(24, 50), nn.Linear(50, 24)
        self.scale = nn.Parameter(torch.rand(24) + 0.5)
        self.gate = nn.Conv2d(24, 24, 1)
        self.head = nn.Sequential(nn.Linear(24 * 16, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = F.relu(x + self.point(self.norm(x)))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        y = self.down(F.gelu(self.up(self.layer_norm(self.deep(x).permute(0, 2, 3, 1)))))
        x = x + y.permute(0, 3, 1, 2) * self.scale.reshape(1, -1, 1, 1)
        a, b = x.chunk(2, 1)
        x = torch.cat([b * 2.0 - 1.0, a], 1)
        return self.head(x.flatten(1))


@pytest.fixture(scope="module")
def mixed() -> Mixed:
    torch.manual_seed(0)
    net = Mixed().eval()
    for m in net.modules():
        if isinstance(m, (nn.BatchNorm2d, nn.BatchNorm1d)):
            nn.init.normal_(m.running_mean, 0, 0.3)
            nn.init.uniform_(m.running_var, 0.5, 2)
            nn.init.uniform_(m.weight, 0.5, 2)
    return net


def test_network(same: Check, mixed: Mixed) -> None:
    x = torch.randn(3, 3, 8, 8)
    same(trace(mixed, x[:1]), x.numpy(), 1e-4, avx2=True)


def test_fold_keeps_the_function_and_removes_batch_norms(mixed: Mixed) -> None:
    x = torch.randn(2, 3, 8, 8)
    graph = trace(mixed, x[:1])
    folded = fold(graph)
    ops = [n.op for n in folded]
    assert "batch_norm" not in ops and ops.count("affine") == 1  # the one before a layer, whose source has two readers
    assert ops.count("constant") == 0 and len(folded.nodes) <= len(graph.nodes) - 4
    with torch.no_grad():
        torch.testing.assert_close(GraphModule(folded).eval()(x), mixed(x), rtol=0, atol=1e-4)
    assert fold(folded).nodes == folded.nodes


def test_nan_goes_through(same: Check) -> None:
    b = Builder((1, 4, 4, 4))
    x = np.full((1, 4, 4, 4), np.nan, np.float32)
    same(b.gather([b.add("relu", b.conv("conv2d", "x", 20, 3)), b.add("relu", "x")]), x, 1e-9)


@pytest.mark.parametrize("op", ["aten.fft_rfft2", "aten.nms"])
def test_unknown_operations_are_refused_by_name_and_place(op: str) -> None:
    b = Builder((1, 4, 4, 4))
    graph = b.graph("x")
    node = graph.nodes[0].__class__("y", op, ("x",), graph.nodes[0].spec, path="block.mixer", line="mixer.py:12")
    with pytest.raises(Unsupported, match=rf"{op}.*block\.mixer, mixer\.py:12.*ONNX"):
        emit(graph.replace([*graph.nodes, node], ["y"]))


@pytest.mark.parametrize("channels, outputs, side", [(33, 17, 5), (64, 48, 7), (40, 65, 3), (7, 16, 9)])
def test_sparse_weights(same: Check, channels: int, outputs: int, side: int) -> None:
    """Zeros at random and in blocks of 16 outputs, with a residual and a rectifier, for images and for one vector."""
    b = Builder((1, channels, side, side), seed=channels)
    names = []
    for blocks in (False, True):
        for residual in (False, True):
            y = b.conv("conv2d", "x", outputs, 1)
            w = b.values[f"{y}.weight"]
            zero = b.rng.random((-(-outputs // 16), channels) if blocks else (outputs, channels)) < (0.5 if blocks else 0.9)
            w[np.repeat(zero, 16, 0)[:outputs] if blocks else zero] = 0
            z = b.add("relu", b.add("add", names[0], y)) if residual and names else y
            names.append(z)
    flat = b.linear("linear", b.flatten("x"), outputs)
    w = b.values[f"{flat}.weight"]
    w[np.repeat(b.rng.random((-(-outputs // 16), w.shape[1])) < 0.8, 16, 0)[:outputs]] = 0
    graph = b.gather([*names, b.flatten(flat)])
    source = emit(graph).c
    assert "nw_blocks_f32(p0" in source
    assert ("nw_sparse_f32(p0" in source) == (side * side >= 16 and outputs % 16 == 0)  # else blocks pay already
    same(graph, b.input, 1e-4)
