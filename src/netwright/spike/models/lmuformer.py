"""LMUFormer: Legendre memory in place of attention, trained on whole sequences at once, run on streams step by step.

    memory (order d, window w steps):   dm/dt = A m + B u
        A_ij = (2i+1)/w * (-1 if i < j else (-1)^(i-j+1)),   B_i = (2i+1)/w * (-1)^i
        zero-order hold over one step:  m_t = Ad m_{t-1} + Bd u_t,   Ad = expm(A),   Bd = A^-1 (Ad - I) B
        at once:                        m = irfft(rfft(H) rfft(u)),   H_t = Ad^t Bd
    LMU:     u = f(W_u x),   h = f(W_m m + W_x x),   y = norm(W_o h)
    FFN:     f(norm(W_2 g(norm(W_1 x))))
    network: patch embedding (causal convolutions in time, and a positional one added), blocks x = x + LMU(x), x = x + FFN(x),
             logits = W mean over t of x_t + b
    spiking: f = g = LIF after a norm, also m = LIF(norm(m)), y = LIF(norm(W_o h)); time of the sequence is the neurons' time

Sequences are [N, T, C], or images row by row; inside they are time first, [T, N, C]. u is one number a step, the memory holds
the last w of them as d Legendre coefficients. `step` takes one x [N, C] and its state, and gives the logits so far.

Liu et al. 2024, equations 3 to 8; the memory and its FFT form are Voelker et al. 2019 and Chilkuri and Eliasmith 2021.
Differs from the paper: convolutions look back only (there they look one step ahead each, so streaming would wait); `step` has
the neuron on the memory too (the official recurrent form leaves it out, so it is another function than the parallel one).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import expm
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.core.paper import Paper
from netwright.spike.layers import OverTime, Spiking
from netwright.spike.models.family import PUBLISHED, Family, sequences

Matrix = NDArray[np.float64]
State = Any  # None before the first step, then tensors as deep as the module


@dataclass(frozen=True)
class LMUFormer(Family):
    """`depth` blocks of `width` channels.

    Attributes:
        order: Legendre coefficients d of a memory. Their recurrence depends on d, so networks that share weights share the
            reading of the leading coefficients, not their values.
        window: steps w that a memory spans.
        embed: convolutions of the patch embedding.
        kernel: their length in steps.
        spiking: LIF neurons in place of ReLU and GELU.
    """

    name: ClassVar[str] = "lmuformer"
    paper: ClassVar[Paper] = Paper(
        "liu2024lmuformer", "LMUFormer: Low Complexity Yet Powerful Spiking Model With Legendre Memory Units",
        "Liu, Zeyu and Datta, Gourav and Li, Anni and Beerel, Peter Anthony", "ICLR", 2024, "https://arxiv.org/abs/2402.04882",
        "S012",
    )  # fmt: skip
    width: Any = 256
    depth: Any = 1
    order: Any = 256
    window: float = 128.0
    expansion: Any = 4
    embed: Any = 4
    kernel: Any = 3
    channels: int = 128
    classes: int = 35
    spiking: bool = False

    def build(self) -> LMUFormerNet:
        return LMUFormerNet(self)


@lru_cache(maxsize=32)
def legendre(order: int, window: float) -> tuple[Matrix, Matrix]:
    """(Ad [order, order], Bd [order]) of the equations above."""
    i, j = np.meshgrid(np.arange(order), np.arange(order), indexing="ij")
    a = (2 * i + 1) / window * np.where(i < j, -1.0, (-1.0) ** (i - j + 1))
    b = (2 * np.arange(order) + 1) / window * (-1.0) ** np.arange(order)
    held = expm(a)
    return held, np.linalg.solve(a, (held - np.eye(order)) @ b)


@lru_cache(maxsize=32)
def impulse(order: int, window: float, steps: int) -> Matrix:
    """H [steps, order]: the memory t steps after a 1."""
    ad, m = legendre(order, window)
    rows = [m]
    for _ in range(steps - 1):
        rows.append(ad @ rows[-1])
    return np.stack(rows)


class LegendreMemory(nn.Module):
    """u [T, N, 1] -> m [T, N, order]; no weights."""

    def __init__(self, order: int, window: float):
        super().__init__()
        self.order, self.window = order, window

    def forward(self, u: Tensor) -> Tensor:
        """All steps at once, by convolution with the impulse response."""
        steps = len(u)
        h = torch.from_numpy(impulse(self.order, self.window, steps)).to(u)
        product = torch.fft.rfft(u, 2 * steps, dim=0) * torch.fft.rfft(h, 2 * steps, dim=0)[:, None]
        return torch.fft.irfft(product, 2 * steps, dim=0)[:steps]

    def step(self, u: Tensor, state: State) -> tuple[Tensor, State]:
        """u [N, 1] and m [N, order] to the next m, twice."""
        ad, bd = (torch.from_numpy(x).to(u) for x in legendre(self.order, self.window))
        m = u * bd if state is None else state @ ad.T + u * bd
        return m, m


class CausalConv(nn.Conv1d):
    """Convolution over this step and those before it, [T, N, dim_in] -> [T, N, dim_out]."""

    def __init__(self, dim_in: int, dim_out: int, kernel: int):
        super().__init__(dim_in, dim_out, kernel, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        window = F.pad(x.permute(1, 2, 0), (self.kernel_size[0] - 1, 0))
        return super().forward(window).permute(2, 0, 1)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x [N, dim_in] and the inputs before it [N, dim_in, kernel - 1]."""
        before = x.new_zeros(*x.shape, self.kernel_size[0] - 1) if state is None else state
        window = torch.cat([before, x[..., None]], 2)
        return super().forward(window)[..., 0], window[..., 1:]


class Stream(nn.Sequential):
    """Layers in a row over [T, N, C], each of which can also take one step."""

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        states = [None] * len(self) if state is None else state
        after = []
        for layer, before in zip(self, states, strict=True):
            x, last = step(layer, x, before)
            after.append(last)
        return x, after


def step(layer: nn.Module, x: Tensor, state: State) -> tuple[Tensor, State]:
    """One step of a layer: x [N, C] and its state (None before the first step) to the output and the next state."""
    if isinstance(layer, OverTime):
        return layer.layer(x), None
    if isinstance(layer, Spiking):
        return layer.neuron.step(x, layer.neuron.start(x) if state is None else state)
    return layer.step(x, state)  # type: ignore[operator]


def activation(spiking: bool, otherwise: nn.Module) -> nn.Module:
    return Spiking(PUBLISHED) if spiking else OverTime(otherwise)


def projection(dim_in: int, dim_out: int) -> OverTime:
    """norm(W x) at every step."""
    return OverTime(nn.Linear(dim_in, dim_out), nn.BatchNorm1d(dim_out))


class Embedding(nn.Module):
    """Causal convolutions, and one more added as position."""

    def __init__(self, c: LMUFormer):
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i in range(c.embed):
            layers[f"conv_{i}"] = CausalConv(c.width if i else c.channels, c.width, c.kernel)
            if c.spiking:
                layers[f"norm_{i}"], layers[f"act_{i}"] = OverTime(nn.BatchNorm1d(c.width)), Spiking(PUBLISHED)
            else:
                layers[f"act_{i}"], layers[f"norm_{i}"] = OverTime(nn.ReLU()), OverTime(nn.BatchNorm1d(c.width))
        self.body = Stream(layers)
        place: OrderedDict[str, nn.Module] = OrderedDict(conv=CausalConv(c.width, c.width, c.kernel))
        if c.spiking:
            place["norm"], place["act"] = OverTime(nn.BatchNorm1d(c.width)), Spiking(PUBLISHED)
        self.place = Stream(place)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return x + self.place(x)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        body, place = (None, None) if state is None else state
        x, body = self.body.step(x, body)
        y, place = self.place.step(x, place)
        return x + y, (body, place)


class LegendreUnit(nn.Module):
    """The LMU, [T, N, width] -> [T, N, width]."""

    def __init__(self, c: LMUFormer):
        super().__init__()
        norm = (lambda dim: [OverTime(nn.BatchNorm1d(dim))]) if c.spiking else (lambda dim: [])
        self.write = Stream(OverTime(nn.Linear(c.width, 1)), *norm(1), activation(c.spiking, nn.ReLU()))
        self.memory = Stream(LegendreMemory(c.order, c.window), *norm(c.order), *([Spiking(PUBLISHED)] if c.spiking else []))
        self.of_memory, self.of_input = nn.Linear(c.order, c.width, bias=False), nn.Linear(c.width, c.width)
        self.read = Stream(*norm(c.width), activation(c.spiking, nn.ReLU()))
        self.out = Stream(projection(c.width, c.width), *([Spiking(PUBLISHED)] if c.spiking else []))

    def forward(self, x: Tensor) -> Tensor:
        m = self.memory(self.write(x))
        y: Tensor = self.out(self.read(self.of_memory(m) + self.of_input(x)))
        return y

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        write, memory, read, out = [None] * 4 if state is None else state
        u, write = self.write.step(x, write)
        m, memory = self.memory.step(u, memory)
        h, read = self.read.step(self.of_memory(m) + self.of_input(x), read)
        y, out = self.out.step(h, out)
        return y, (write, memory, read, out)


class Block(nn.Module):
    """x = x + LMU(x); x = x + FFN(x)."""

    def __init__(self, c: LMUFormer):
        super().__init__()
        self.unit = LegendreUnit(c)
        hidden = c.width * c.expansion
        self.mlp = Stream(OrderedDict(up=projection(c.width, hidden), act=activation(c.spiking, nn.GELU()),
                                      down=projection(hidden, c.width), out=activation(c.spiking, nn.ReLU())))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.unit(x)
        return x + self.mlp(x)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        unit, mlp = (None, None) if state is None else state
        y, unit = self.unit.step(x, unit)
        x = x + y
        y, mlp = self.mlp.step(x, mlp)
        return x + y, (unit, mlp)


class LMUFormerNet(nn.Module):
    """Sequences [N, T, channels], or images [N, C, H, W] by rows (C*W channels), to logits [N, classes]."""

    def __init__(self, c: LMUFormer):
        super().__init__()
        self.body = Stream(OrderedDict(embed=Embedding(c)) | {f"block_{i}": Block(c) for i in range(c.depth)})
        self.head = nn.Linear(c.width, c.classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(sequences(x)).mean(0))
        return logits

    def step(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """One element x [N, channels] of every stream and the state (None before the first) to the logits of what has been
        seen so far, [N, classes], and the next state. In evaluation mode the last logits are those of `forward`."""
        body, total, steps = (None, 0.0, 0) if state is None else state
        y, body = self.body.step(x, body)
        total, steps = total + y, steps + 1
        return self.head(total / steps), (body, total, steps)


VARIANTS = {
    "lmuformer_speech_commands": LMUFormer(),
    "spiking_lmuformer_speech_commands": LMUFormer(order=512, spiking=True),
    "rows_lmuformer": LMUFormer(24, 1, 8, 8.0, 2, 2, channels=8, classes=10),
    "rows_spiking_lmuformer": LMUFormer(24, 1, 8, 8.0, 2, 2, channels=8, classes=10, spiking=True),
}
