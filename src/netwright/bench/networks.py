"""Networks that the benchmarks time; weights are random, shapes are the published ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.core.graph import Graph, Node, Spec


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual around each (Bi-Real Net's form of ResNet's basic block, same operations)."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.shortcut(x) + self.norm1(self.conv1(x)))
        return torch.relu(x + self.norm2(self.conv2(x)))


class ShortBlock(nn.Module):
    """A 3x3 convolution with a shortcut of its own, as Bi-Real networks have them: relu(norm(conv(x)) + shortcut(x))."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.AvgPool2d(stride), nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)) + self.shortcut(x))


def small_resnet(width: int = 32, classes: int = 10, seed: int = 0, channels: int = 3, stem: int = 2) -> nn.Module:
    """Six 3x3 convolutions with shortcuts, two at each of three resolutions, behind a stem of stride `stem`."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, stem, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    channels = width
    for i in range(3):
        for stride in (2 if i else 1, 1):
            layers.append(ShortBlock(channels, width << i, stride))
            channels = width << i
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)).eval()


class EncoderLayer(nn.Module):
    """Pre-norm attention and an MLP of four times the width: [N, T, width] -> the same."""

    def __init__(self, width: int, heads: int, causal: bool = False):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        y = self.norm1(x)
        q, k, v = (f(y).reshape(n, t, self.heads, d // self.heads).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).reshape(n, t, d))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class VisionTransformer(nn.Module):
    """Patches of side 2 as tokens, pre-norm layers, the mean token to the classifier: [N, C, side, side] -> [N, classes]."""

    def __init__(self, side: int, channels: int = 1, classes: int = 10, width: int = 64, heads: int = 4, layers: int = 2):
        super().__init__()
        self.patches = nn.Conv2d(channels, width, 2, 2)
        self.place = nn.Parameter(torch.randn(1, (side // 2) ** 2, width) * 0.02)
        self.layers = nn.Sequential(*(EncoderLayer(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.norm(self.layers(tokens)).mean(1))


def vit(side: int, seed: int = 0) -> nn.Module:
    """A small vision transformer."""
    torch.manual_seed(seed)
    return VisionTransformer(side).eval()


def vgg(width: int = 32, channels: int = 1, classes: int = 10, seed: int = 0) -> nn.Module:
    """Five 3x3 convolutions in a row, max pooling behind every second, no shortcut; for 8 x 8 images."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i, out in enumerate((width, width, 2 * width, 2 * width, 4 * width)):
        layers += [nn.Conv2d(channels, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if i % 2 else []
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)).eval()


def resnet18(classes: int = 1000, seed: int = 0) -> nn.Module:
    """ResNet-18 for images of 224 x 224 (He et al., 2016), with random weights."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for i, out in enumerate((64, 128, 256, 512)):
        layers += [BasicBlock(channels, out, 2 if i else 1), BasicBlock(out, out, 1)]
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes)).eval()


def small_cnn(widths: tuple[int, ...], side: int, channels: int = 1, classes: int = 10, seed: int = 0) -> nn.Module:
    """Convolutions 3x3 with batch norm and ReLU, the side halved after each but the first; global pooling and a classifier."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i, width in enumerate(widths):
        layers += [nn.Conv2d(channels, width, 3, 2 if i else 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)).eval()


@dataclass
class Layers:
    """Layers written one after another as a graph: quantise, layers of codes, back to floats; or floats throughout."""

    shape: tuple[int, ...]
    seed: int = 0
    nodes: list[Node] = field(default_factory=list)
    params: dict[str, Spec] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.nodes.append(Node("x", "input", (), Spec(self.shape)))

    def add(self, op: str, spec: Spec, attrs: dict[str, Any] | None = None, **weights: np.ndarray) -> Layers:
        name = f"n{len(self.nodes)}"
        keys = {}
        for role, value in weights.items():
            keys[role] = f"{name}.{role}"
            self.values[keys[role]] = value
            bits = int((attrs or {}).get("bits", 8)) if role == "weight" and op[0] in "qb" else value.itemsize * 8
            self.params[keys[role]] = Spec(value.shape, bits, "float" if value.dtype.kind == "f" else "int")
        macs = spec.elements * int(np.prod(weights["weight"].shape[1:])) if "weight" in weights else 0
        self.nodes.append(Node(name, op, (self.nodes[-1].name,), spec, attrs or {}, keys, macs))
        return self

    def codes(self) -> Layers:
        return self.add("quantize", Spec(self.nodes[-1].spec.shape, 8, "int"), {"scale": 0.03, "lo": -127, "hi": 127})

    def floats(self) -> Layers:
        return self.add("dequantize", Spec(self.nodes[-1].spec.shape), scale=np.ones(1, np.float32))

    def _weight(self, shape: tuple[int, ...], bits: int) -> np.ndarray:
        if bits == 32:
            return (self.rng.normal(0, 1, shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        if bits == 8:
            return self.rng.integers(-127, 128, shape).astype(np.int8)
        return self.rng.choice([-1, 1] if bits == 1 else [-1, 0, 1], shape).astype(np.int8)

    def _rescaling(self, outputs: int) -> dict[str, np.ndarray]:
        return {"bias": self.rng.integers(-500, 500, outputs).astype(np.int32),
                "mult": self.rng.integers(2**10, 2**15, outputs).astype(np.int32),
                "shift": self.rng.integers(18, 25, outputs).astype(np.int32)}  # fmt: skip

    def conv(self, outputs: int, kernel: int, bits: int) -> Layers:
        """A convolution of stride 1 that keeps the size; 1 bit: of signs (binary), 2: ternary, 8, or 32: of floats."""
        shape = self.nodes[-1].spec.shape
        window = {"stride": [1, 1], "pads": [kernel // 2] * 4, "dilation": [1, 1], "groups": 1}
        weight, out = self._weight((outputs, shape[1], kernel, kernel), bits), (1, outputs, *shape[2:])
        if bits == 32:
            return self.add("conv2d", Spec(out), window, weight=weight, bias=self.rng.normal(0, 1, outputs).astype(np.float32))
        attrs = {**window, "lo": -127, "hi": 127, "bits": bits}
        return self.add("bconv2d" if bits == 1 else "qconv2d", Spec(out, 8, "int"), attrs, weight=weight,
                        **self._rescaling(outputs))  # fmt: skip

    def linear(self, outputs: int, bits: int) -> Layers:
        shape = self.nodes[-1].spec.shape
        weight, out = self._weight((outputs, shape[-1]), bits), (*shape[:-1], outputs)
        if bits == 32:
            return self.add("linear", Spec(out), weight=weight, bias=self.rng.normal(0, 1, outputs).astype(np.float32))
        attrs = {"lo": -127, "hi": 127, "bits": bits}
        return self.add("blinear" if bits == 1 else "qlinear", Spec(out, 8, "int"), attrs, weight=weight,
                        **self._rescaling(outputs))  # fmt: skip

    @property
    def graph(self) -> Graph:
        return Graph(tuple(self.nodes), (self.nodes[-1].name,), self.params, self.values)
