"""Convolutional network of LIF neurons, trained through surrogate gradients: what spiking transformers are compared with.

    s_0 = LIF(norm(conv(x))),   the same current in every step (direct coding)
    s_l = LIF(norm(conv(s_{l-1}))),   average pooling after the layers named in `pools`
    logits = W mean over steps and places of s_L + b

Differs from the paper: batch norm (over images and steps) in place of its NeuNorm, LIF with tau = 2 (leak 1/2), one linear
layer on spike rates in place of voting populations.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from netwright.core.paper import Paper
from netwright.spike.layers import OverTime, Spiking
from netwright.spike.models.family import LIVELY, ConvFire, ConvNorm, Family, repeat
from netwright.spike.neurons import LIF


@dataclass(frozen=True)
class LifCnn(Family):
    """3x3 convolutions of `widths` channels.

    Attributes:
        pools: numbers of the layers that 2x2 average pooling follows.
        steps: time steps T.
        neuron: of all layers.
    """

    name: ClassVar[str] = "lif-cnn"
    paper: ClassVar[Paper] = Paper(
        "wu2019direct", "Direct Training for Spiking Neural Networks: Faster, Larger, Better",
        "Wu, Yujie and Deng, Lei and Li, Guoqi and Zhu, Jun and Xie, Yuan and Shi, Luping", "AAAI", 2019,
        "https://arxiv.org/abs/1809.05793",
    )  # fmt: skip
    widths: tuple[Any, ...] = (24, 44, 64)
    pools: tuple[int, ...] = (0, 1)
    channels: int = 1
    classes: int = 10
    steps: int = 4
    neuron: LIF = LIVELY

    def build(self) -> nn.Module:
        return LifCnnNet(self)


class LifCnnNet(nn.Module):
    """[N, channels, H, W] -> [N, classes]."""

    def __init__(self, c: LifCnn):
        super().__init__()
        self.steps = c.steps
        self.input = ConvNorm(c.channels, c.widths[0], 3)
        layers: OrderedDict[str, nn.Module] = OrderedDict(fire_0=Spiking(c.neuron))
        for i, width in enumerate(c.widths):
            if i:
                layers[f"conv_{i}"] = ConvFire(c.neuron, c.widths[i - 1], width, 3)
            if i in c.pools:
                layers[f"pool_{i}"] = OverTime(nn.AvgPool2d(2))
        self.layers = nn.Sequential(layers)
        self.head = nn.Linear(c.widths[-1], c.classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(repeat(self.input(x), self.steps)).mean((0, 3, 4)))
        return logits


VARIANTS = {"digits_lif_cnn": LifCnn()}
