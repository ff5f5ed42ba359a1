"""Meta-SpikeFormer (spike-driven transformer V2): convolution stages, then transformer stages, nothing but additions.

    conv block:         x = x + SepConv(x);   x = x + norm(conv3x3(LIF(norm(conv3x3(LIF(x))))))
    SepConv(x) =        norm(W_2 depthwise_kxk(LIF(norm(W_1 LIF(x)))))
    transformer block:  x = x + R_o(y);   x = x + norm(W_2 LIF(norm(W_1 LIF(x))))
    attention (SDSA-3): s = LIF(x);   q, k, v = LIF(R_q s), LIF(R_k s), LIF(R_v s);   y = LIF_{theta=1/2}(0.125 q (k^T v))
    R = norm(W_b depthwise_3x3(norm(W_a s))),   between stages x = norm(conv3x3(LIF(x)))
    logits = W (sum over steps and places of LIF(x)) / (T h w) + b

Shortcuts are between membrane potentials: x is real, and every layer reads the spikes of a LIF, so every product has a spike
for a factor and is an addition or nothing. For that the network is merged (`MetaSpikeFormerNet.merged`): batch norms go into
convolutions, R becomes one 3x3 convolution (its first norm sees the zeros of the border, so the merged border is exact),
depthwise and W_2 of SepConv become one kxk convolution, 0.125 goes into the threshold, 1 / (T h w) into W. Exceptions, which
`products` counts: the first convolution reads the image, and the classifier reads spike counts (whole numbers). The leak
inside a neuron (1/2 at tau = 2) is its own.

Tensors are [T, N, width, h, w], T steps of the same image. Yao et al. 2024, section 3 and figure 2. Differs from the paper:
border zeros enter the batch statistics of R's first norm, and one norm ends R where the official code has two in a row; the
neuron before the classifier also stands in networks without distillation, so that the classifier adds up spikes; the last norm
of a branch starts at 0; arctangent surrogate.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from netwright.core.errors import NetwrightError, UnknownName
from netwright.core.paper import Paper
from netwright.spike.layers import OverTime, Spiking
from netwright.spike.models.family import LIVELY, PUBLISHED, ConvNorm, Family, heads_of, repeat
from netwright.spike.neurons import LIF


@dataclass(frozen=True)
class SpikeStage:
    """`depth` blocks of one kind at `width` channels, after a convolution of `stride`.

    Attributes:
        kind: conv | transformer; weights of the two kinds have names of their own.
        kernel: side of the depthwise convolution (conv).
        expansion: hidden width over width.
        head_width: channels of one attention head (transformer); no domain, so that leading channels are leading heads.
    """

    kind: Any = "conv"
    depth: Any = 1
    width: Any = 32
    stride: int = 2
    kernel: Any = 7
    expansion: Any = 4
    head_width: int = 16


@dataclass(frozen=True)
class MetaSpikeFormer(Family):
    """Stages in order.

    Attributes:
        input_kernel: side of the first stage's convolution, which reads the image.
        steps: time steps T.
        neuron: of all layers; that of attention has half its threshold.
    """

    name: ClassVar[str] = "meta-spikeformer"
    paper: ClassVar[Paper] = Paper(
        "yao2024metaspikeformer",
        "Spike-driven Transformer V2: Meta Spiking Neural Network Architecture Inspiring the Design of Next-generation "
        "Neuromorphic Chips",
        "Yao, Man and Hu, Jiakui and Hu, Tianxiang and Xu, Yifan and Zhou, Zhaokun and Tian, Yonghong and Xu, Bo and Li, Guoqi",
        "ICLR", 2024, "https://arxiv.org/abs/2404.03663", "S100",
    )  # fmt: skip
    stages: tuple[SpikeStage, ...]
    input_kernel: int = 3
    channels: int = 3
    classes: int = 1000
    steps: int = 4
    neuron: LIF = PUBLISHED

    def build(self) -> MetaSpikeFormerNet:
        """Raises UnknownName for a kind of block there is not, NetwrightError where heads do not divide a width."""
        return MetaSpikeFormerNet(self)


class FireConv(nn.Sequential):
    """norm(conv(LIF(x))): potentials in, potentials out."""

    def __init__(self, neuron: LIF, dim_in: int, dim_out: int, kernel: int = 1, stride: int = 1, gain: float = 1.0):
        super().__init__(OrderedDict(fire=Spiking(neuron), conv=OverTime(ConvNorm(dim_in, dim_out, kernel, stride, gain))))


def convolution(weight: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    """A convolution that keeps the size, with the weights [O, I, k, k] and bias [O] given."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], 1, weight.shape[2] // 2, bias=bias is not None)
    conv.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach().clone())
    return conv


class RepConv(nn.Module):
    """Three convolutions without a neuron between them: one 3x3 convolution, learnt as a product; [N, dim, H, W]."""

    def __init__(self, dim: int, gain: float = 1.0):
        super().__init__()
        self.point_a = nn.Conv2d(dim, dim, 1, padding=1, bias=False)
        self.norm_a = nn.BatchNorm2d(dim)
        self.depthwise = nn.Conv2d(dim, dim, 3, groups=dim, bias=False)
        self.point_b = nn.Conv2d(dim, dim, 1, bias=False)
        self.norm_b = nn.BatchNorm2d(dim)
        nn.init.constant_(self.norm_b.weight, gain)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm_b(self.point_b(self.depthwise(self.norm_a(self.point_a(x)))))
        return y

    def merged(self) -> nn.Conv2d:
        """The same function as one convolution: W[o, i, y, x] = sum over c of B[o, c] D[c, y, x] A[c, i]."""
        a = fuse_conv_bn_eval(self.point_a, self.norm_a)
        assert a.bias is not None
        d, b = self.depthwise.weight[:, 0], self.point_b.weight[:, :, 0, 0]
        weight = torch.einsum("oc,cyx,ci->oiyx", b, d, a.weight[:, :, 0, 0])
        return fuse_conv_bn_eval(convolution(weight, b @ (d.sum((1, 2)) * a.bias)).eval(), self.norm_b)


class Separable(nn.Module):
    """norm(W depthwise_kxk(s)), [N, hidden, H, W] -> [N, dim, H, W]."""

    def __init__(self, hidden: int, dim: int, kernel: int):
        super().__init__()
        self.depthwise = nn.Conv2d(hidden, hidden, kernel, 1, kernel // 2, groups=hidden, bias=False)
        self.point, self.norm = nn.Conv2d(hidden, dim, 1, bias=False), nn.BatchNorm2d(dim)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.point(self.depthwise(x)))
        return y

    def merged(self) -> nn.Conv2d:
        """The same function as one dense convolution: W[o, i, y, x] = P[o, i] D[i, y, x]."""
        weight = self.point.weight * self.depthwise.weight[:, 0]
        return fuse_conv_bn_eval(convolution(weight).eval(), self.norm)


class ConvBlock(nn.Module):
    """Two shortcuts between potentials: separable convolution, and 3x3 convolutions across channels."""

    def __init__(self, neuron: LIF, dim: int, kernel: int, hidden: int):
        super().__init__()
        layers = OrderedDict(
            up=FireConv(neuron, dim, 2 * dim), fire=Spiking(neuron), separable=OverTime(Separable(2 * dim, dim, kernel))
        )
        self.space = nn.Sequential(layers)
        self.mix = nn.Sequential(
            OrderedDict(up=FireConv(neuron, dim, hidden, 3), down=FireConv(neuron, hidden, dim, 3, gain=0.0))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.space(x)
        return x + self.mix(x)


class SpikeDrivenAttention(nn.Module):
    """SDSA-3 over the places of the potentials [T, N, dim, h, w]; `scale` None where it stands in the threshold."""

    def __init__(self, neuron: LIF, dim: int, head_width: int):
        super().__init__()
        heads_of(dim, head_width)
        self.head_width, self.scale = head_width, 0.125
        self.fire = Spiking(neuron)
        self.q, self.k, self.v, self.out = (OverTime(RepConv(dim, gain)) for gain in (1.0, 1.0, 1.0, 0.0))
        self.fire_q, self.fire_k, self.fire_v = (Spiking(neuron) for _ in range(3))
        self.fire_y = Spiking(replace(neuron, theta=neuron.theta / 2))

    def forward(self, x: Tensor) -> Tensor:
        s = self.fire(x)
        spikes = (fire(conv(s)) for conv, fire in ((self.q, self.fire_q), (self.k, self.fire_k), (self.v, self.fire_v)))
        q, k, v = (part.flatten(3).unflatten(2, (-1, self.head_width)) for part in spikes)
        y = ((v @ k.transpose(-1, -2)) @ q).flatten(2, 3).unflatten(3, x.shape[3:])  # q (k^T v), channels before places
        out: Tensor = self.out(self.fire_y(y if self.scale == 1 else self.scale * y))
        return out

    def merge(self) -> None:
        """Move the scale into the threshold: LIF is linear in current and threshold together."""
        neuron = self.fire_y.neuron
        assert isinstance(neuron, LIF)
        self.fire_y, self.scale = Spiking(replace(neuron, theta=neuron.theta / self.scale)), 1.0


class TransformerBlock(nn.Module):
    """Two shortcuts between potentials: attention, and two layers per place."""

    def __init__(self, neuron: LIF, dim: int, head_width: int, hidden: int):
        super().__init__()
        self.attention = SpikeDrivenAttention(neuron, dim, head_width)
        self.mlp = nn.Sequential(OrderedDict(up=FireConv(neuron, dim, hidden), down=FireConv(neuron, hidden, dim, gain=0.0)))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


def _block(neuron: LIF, s: SpikeStage) -> nn.Module:
    if s.kind not in ("conv", "transformer"):
        raise UnknownName("kind of spiking block", s.kind, ("conv", "transformer"))
    if s.kind == "conv":
        return ConvBlock(neuron, s.width, s.kernel, s.width * s.expansion)
    return TransformerBlock(neuron, s.width, s.head_width, s.width * s.expansion)


class MetaSpikeFormerNet(nn.Module):
    """[N, channels, H, W] -> [N, classes]."""

    def __init__(self, c: MetaSpikeFormer):
        super().__init__()
        self.config, self.places = c, 0
        self.input: nn.Module = ConvNorm(c.channels, c.stages[0].width, c.input_kernel, c.stages[0].stride)
        self.stages = nn.ModuleList()
        for i, stage in enumerate(c.stages):
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            if i:
                layers["down"] = FireConv(c.neuron, c.stages[i - 1].width, stage.width, 3, stage.stride)
            for j in range(stage.depth):
                layers[f"{stage.kind}_{j}"] = _block(c.neuron, stage)
            self.stages.append(nn.Sequential(layers))
        self.fire = Spiking(c.neuron)
        self.head = nn.Linear(c.stages[-1].width, c.classes)

    def features(self, x: Tensor) -> Tensor:
        """Spikes of the last layer, [T, N, width, h, w]."""
        x = repeat(self.input(x), self.config.steps)
        for stage in self.stages:
            x = stage(x)
        spikes: Tensor = self.fire(x)
        return spikes

    def forward(self, x: Tensor) -> Tensor:
        s = self.features(x)
        if self.places and self.places != s[:, 0, 0].numel():
            raise NetwrightError(
                f"This network was merged for {self.places} steps and places, the image has {s[:, 0, 0].numel()}."
            )
        logits: Tensor = self.head(s.sum((0, 3, 4)) if self.places else s.mean((0, 3, 4)))
        return logits

    def merged(self, example: Tensor) -> MetaSpikeFormerNet:
        """The same function, for images of the size of `example` [1, C, H, W], with products of spikes alone; for inference.

        Raises:
            NetwrightError: the network is in training mode, where batch norms are no constants.
        """
        if self.training:
            raise NetwrightError("Batch norms merge with their final statistics: call `eval()` on the network first.")
        network = copy.deepcopy(self)
        for parent, name, child in [*_mergeable(network)]:
            setattr(parent, name, child.merged())
        for module in network.modules():
            if isinstance(module, SpikeDrivenAttention):
                module.merge()
        with torch.no_grad():
            network.places = network.features(example)[:, 0, 0].numel()
            network.head.weight /= network.places
        return network


def _mergeable(network: nn.Module) -> Iterator[tuple[nn.Module, str, ConvNorm | RepConv | Separable]]:
    for parent in network.modules():
        for name, child in parent.named_children():
            if isinstance(child, (ConvNorm, RepConv, Separable)):
                yield parent, name, child


def _published(width: int) -> MetaSpikeFormer:
    """The paper's network of `width` channels in its third stage (six transformer blocks of eight heads, two at 5/4 width)."""
    quarter, last = width // 4, width * 5 // 4
    return MetaSpikeFormer(
        (
            SpikeStage("conv", 1, quarter // 2, 2),
            SpikeStage("conv", 1, quarter, 2),
            SpikeStage("conv", 2, width // 2, 2),
            SpikeStage("transformer", 6, width, 2, head_width=width // 8),
            SpikeStage("transformer", 2, last, 1, head_width=last // 8),
        ),
        input_kernel=7,
    )


def _small(widths: tuple[int, int, int], channels: int, strides: tuple[int, int, int]) -> MetaSpikeFormer:
    kinds = ("conv", "conv", "transformer")
    stages = (SpikeStage(k, 1, w, s, 3, 2, 8) for k, w, s in zip(kinds, widths, strides, strict=True))
    return MetaSpikeFormer(tuple(stages), channels=channels, classes=10, neuron=LIVELY)


VARIANTS = {
    "meta_spikeformer_8_384": _published(384),
    "meta_spikeformer_8_512": _published(512),
    "meta_spikeformer_8_768": _published(768),
    "cifar_meta_spikeformer": _small((32, 64, 96), 3, (1, 2, 2)),
    "digits_meta_spikeformer": MetaSpikeFormer(
        (SpikeStage("conv", 1, 16, 1, 3, 2), SpikeStage("transformer", 1, 32, 2, 3, 2, 8)),
        channels=1,
        classes=10,
        neuron=LIVELY,
    ),
}
