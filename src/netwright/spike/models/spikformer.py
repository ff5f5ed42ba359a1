"""Spikformer V2: a convolutional stem of spiking layers, self-attention between spikes without softmax, masked pre-training.

    stem, stage i:   s = LIF(norm(conv3x3, stride r_i (s)));   s = s + LIF(norm(conv3x3(LIF(norm(conv3x3(s))))))
    attention (SSA): q, k, v = LIF(norm(W s));   y = LIF_{theta=1/2}(0.125 (q k^T) v);   LIF(norm(W_o y))
    block:           s = s + SSA(s);   s = s + LIF(norm(W_2 LIF(norm(W_1 s))))
    logits = W mean over steps and tokens of s + b

q, k, v are 0 or 1, so q k^T is never negative and needs no softmax; (q k^T) v = q (k^T v) exactly, and the cheaper of the two
orders is taken. Sums of shortcuts are small whole numbers: a network of additions, but its layers read spike counts, not
spikes alone. s is [T, N, width, h, w] with h*w tokens; T steps see the same image (direct coding).

Masked pre-training (`MaskedReconstruction`): some patches are hidden, no spike of theirs enters the network (their pixels and
the stem's spikes there are erased, their tokens left out), and a small float decoder, thrown away afterwards, draws the pixels.

Zhou et al. 2024, sections 3 and 4; SSA as in Spikformer (Zhou et al., ICLR 2023). Differs from the paper: stages of the stem
are as stated above, since the code and the exact widths of the paper's stem are not published; arctangent surrogate.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.spike.layers import Spiking
from netwright.spike.models.family import LIVELY, PUBLISHED, ConvFire, ConvNorm, Family, heads_of, repeat
from netwright.spike.neurons import LIF


@dataclass(frozen=True)
class SpikformerV2(Family):
    """`depth` blocks on tokens of `width` channels.

    Attributes:
        head_width: channels of one attention head; no domain, so that leading channels are leading heads.
        expansion: hidden width over width in a block.
        strides: of the stem's stages; their product is the side of a patch. Stage i has width / 2^(stages-1-i) channels.
        stem_expansion: hidden width over width in the stem's shortcuts; 0 leaves them out.
        steps: time steps T.
        neuron: of all layers; that of attention has half its threshold.
    """

    name: ClassVar[str] = "spikformer-v2"
    paper: ClassVar[Paper] = Paper(
        "zhou2024spikformerv2", "Spikformer V2: Join the High Accuracy Club on ImageNet with an SNN Ticket",
        "Zhou, Zhaokun and Che, Kaiwei and Fang, Wei and Tian, Keyu and Zhu, Yuesheng and Yan, Shuicheng and Tian, Yonghong "
        "and Yuan, Li", "arXiv:2401.02020", 2024, "https://arxiv.org/abs/2401.02020", "S055",
    )  # fmt: skip
    width: Any = 512
    depth: Any = 8
    head_width: int = 64
    expansion: Any = 4
    strides: tuple[int, ...] = (2, 2, 2, 2)
    stem_expansion: Any = 2
    channels: int = 3
    classes: int = 1000
    steps: int = 4
    neuron: LIF = PUBLISHED

    def build(self) -> SpikformerNet:
        """Raises NetwrightError where heads or the stem's stages do not divide the width."""
        heads_of(self.width, self.head_width)
        if self.width % 2 ** (len(self.strides) - 1):
            raise NetwrightError(f"A stem of {len(self.strides)} stages halves {self.width} channels too often.")
        return SpikformerNet(self)


class Stage(nn.Module):
    """One stage of the stem, [T, N, C, H, W] -> [T, N, dim, H', W']; the first one gets currents and only fires."""

    def __init__(self, neuron: LIF, dim_in: int, dim: int, stride: int, hidden: int):
        super().__init__()
        self.down: nn.Module = ConvFire(neuron, dim_in, dim, 3, stride) if dim_in else Spiking(neuron)
        self.shortcut = (
            nn.Sequential(OrderedDict(up=ConvFire(neuron, dim, hidden, 3), down=ConvFire(neuron, hidden, dim, 3)))
            if hidden
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        s: Tensor = self.down(x)
        return s if self.shortcut is None else s + self.shortcut(s)


class SpikingSelfAttention(nn.Module):
    """SSA over the tokens of [T, N, dim, h, w]."""

    def __init__(self, neuron: LIF, dim: int, head_width: int):
        super().__init__()
        self.head_width = head_width
        self.q, self.k, self.v, self.out = (ConvFire(neuron, dim, dim) for _ in range(4))
        self.fire = Spiking(replace(neuron, theta=neuron.theta / 2))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (project(x).flatten(3).unflatten(2, (-1, self.head_width)) for project in (self.q, self.k, self.v))
        kt = k.transpose(-1, -2)
        y = (v @ kt) @ q if q.shape[-1] > self.head_width else v @ (kt @ q)  # channels before tokens: all of it transposed
        spikes: Tensor = self.out(self.fire(0.125 * y.flatten(2, 3).unflatten(3, x.shape[3:])))
        return spikes


class Block(nn.Module):
    """Attention and two layers per token, each added to its input."""

    def __init__(self, neuron: LIF, dim: int, head_width: int, hidden: int):
        super().__init__()
        self.attention = SpikingSelfAttention(neuron, dim, head_width)
        self.mlp = nn.Sequential(OrderedDict(up=ConvFire(neuron, dim, hidden), down=ConvFire(neuron, hidden, dim)))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


class SpikformerNet(nn.Module):
    """[N, channels, H, W] -> [N, classes]."""

    def __init__(self, c: SpikformerV2):
        super().__init__()
        self.config = c
        dims = [c.width >> (len(c.strides) - 1 - i) for i in range(len(c.strides))]
        self.input = ConvNorm(c.channels, dims[0], 3, c.strides[0])
        self.stem = nn.ModuleList(
            Stage(c.neuron, before, dim, stride, dim * c.stem_expansion)
            for before, dim, stride in zip([0, *dims[:-1]], dims, c.strides, strict=True)
        )
        self.blocks = nn.ModuleList(Block(c.neuron, c.width, c.head_width, c.width * c.expansion) for _ in range(c.depth))
        self.head = nn.Linear(c.width, c.classes)

    def features(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """What the last block gives, [T, N, width, h, w]; with `visible` [N, V], the tokens seen, [T, N, width, V, 1]."""
        grid = [side // math.prod(self.config.strides) for side in x.shape[2:]]
        if visible is not None:
            x = x * shown(visible, grid, x.shape[2:])
        s = repeat(self.input(x), self.config.steps)
        for stage in self.stem:
            s = stage(s)
            if visible is not None:
                s = s * shown(visible, grid, s.shape[3:])
        if visible is not None:
            s = s.flatten(3).gather(3, visible[:, None].expand(*s.shape[:3], -1))[..., None]
        for block in self.blocks:
            s = block(s)
        return s

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x).mean((0, 3, 4)))
        return logits


def shown(visible: Tensor, grid: list[int], size: torch.Size) -> Tensor:
    """1 where a patch is seen, [N, 1, H, W] at `size`, from the numbers of the visible patches [N, V] of a `grid` (h, w)."""
    mask = visible.new_zeros(len(visible), grid[0] * grid[1]).scatter(1, visible, 1).to(torch.get_default_dtype())
    return F.interpolate(mask.unflatten(1, grid)[:, None], size=list(size))


class MaskedReconstruction(nn.Module):
    """Masked image modelling: the loss of a Spikformer that sees some patches and has the others drawn.

        loss = mean over hidden patches of (decoder(spike rates of the visible tokens) - pixels)^2

    The decoder is one float transformer layer over all places, with a learnt token where a patch is hidden; only `encoder` is
    kept. Its errors come as [N, 1], so that a training loop for classifiers runs it with the loss ``errors.mean()``.

    Args:
        shape: of one image (channels, height, width).
        ratio: share of the patches that is hidden.
        width: of the decoder.

    Raises:
        NetwrightError: the image is no whole number of patches, or the ratio hides all of them or none.
    """

    def __init__(self, encoder: SpikformerNet, shape: tuple[int, int, int], ratio: float = 0.5, width: int = 32):
        super().__init__()
        side = math.prod(encoder.config.strides)
        if shape[1] % side or shape[2] % side:
            raise NetwrightError(f"Images of {shape[1]} x {shape[2]} are no whole number of patches of {side} x {side}.")
        self.encoder, self.side = encoder, side
        places = shape[1] * shape[2] // side**2
        self.seen = round(places * (1 - ratio))
        if not 0 < self.seen < places:
            raise NetwrightError(
                f"A mask over {ratio:.0%} of {places} patches leaves {self.seen}; it must hide some and leave some."
            )
        self.embed = nn.Linear(encoder.config.width, width)
        self.hidden = nn.Parameter(torch.zeros(width))
        self.place = nn.Parameter(torch.randn(places, width) * 0.02)
        self.mix = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.draw = nn.Linear(width, shape[0] * side**2)

    def visible(self, images: int, generator: torch.Generator | None = None) -> Tensor:
        """Numbers of the patches that each image shows, [images, V]; drawn like dropout's where no generator is given."""
        return torch.rand(images, len(self.place), generator=generator).argsort(1)[:, : self.seen]

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Mean squared error of the hidden patches of each image, [N, 1], of x [N, C, H, W]."""
        visible = self.visible(len(x)).to(x.device) if visible is None else visible
        rates = self.encoder.features(x, visible).mean(0).flatten(2).transpose(1, 2)
        where = visible[..., None].expand(-1, -1, len(self.hidden))
        tokens = self.hidden.expand(len(x), len(self.place), -1).scatter(1, where, self.embed(rates))
        drawn = self.draw(self.mix(tokens + self.place))
        pixels = F.unfold(x, self.side, stride=self.side).transpose(1, 2)
        unseen = x.new_ones(len(x), len(self.place)).scatter(1, visible, 0.0)
        errors = (drawn - pixels).square().mean(2)
        return (errors * unseen).sum(1, keepdim=True) / (len(self.place) - self.seen)


VARIANTS = {
    "spikformer_v2_8_384": SpikformerV2(384, 8, 32),
    "spikformer_v2_8_512": SpikformerV2(512, 8, 64),
    "spikformer_v2_8_768": SpikformerV2(768, 8, 64),
    "spikformer_v2_16_768": SpikformerV2(768, 16, 64, steps=1),
    "cifar_spikformer_v2": SpikformerV2(96, 3, 16, 2, (1, 2, 2), classes=10, neuron=LIVELY),
    "digits_spikformer_v2": SpikformerV2(
        32, 1, 8, expansion=2, strides=(1, 2), stem_expansion=1, channels=1, classes=10, neuron=LIVELY
    ),
}
