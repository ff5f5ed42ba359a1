"""Non-uniform post-training quantisation by a power function, NUPES, from the exponent search of PowerQuant.

    q = sign(w) rint(T min(1, |w| / p)^a),     w ~ p sign(q) (|q| / T)^(1/a),     T = 2^(b-1) - 1

p[o] is the largest value of a channel, a the exponent of a layer: with a < 1 the values lie denser around zero, where most
weights are; a = 1 is uniform. First a and p are searched (a over a grid, p over the clip points of `uniform`); then a and the
codes are learnt so that the layer's output on the calibration data changes least:

    E = sum over o of d[o] H d[o]^T,     d = w_q - w,     H = mean of x x^T over the patches x that the layer reads

which is the mean squared error of the layer's outputs. The codes come from latent weights u in place of w that may move over the
whole grid, dE/du = dE/dw_q * [|u| <= p]; and dE/da = -1/a^2 * sum dE/dw_q w_q ln(|q|/T), which is finite everywhere (0 at q = 0).
The codes with the least E, looked at every ten steps, are kept. Last, with a fixed, each column k of the codes in turn takes the
values on the grid that are best given all others, those next to ``w_k - sum over j != k of d_j H_jk / H_kk``. No part makes E
larger, and a = 1 is on the grid, so E is never above that of uniform codes with steps of least squared error.

In integers a code stands for a whole number: ``table[q] = rint(M (q/T)^(1/a))``, with M <= 127 such that the roundings are least,
one table a layer. The codes of the integer network are table[q]: whole numbers of 8 bits with at most 2^b - 1 values a layer, so
b bits a weight and the table are what a file needs (`stored_bits`). Search and learning see the rounded table.

Differs from the paper: activations stay uniform; one layer after another on the float network's activations in place of blocks;
straight-through gradients in place of a soft rounding; clip points are searched; the last sweeps over columns are not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from netwright.compress.calibrate import RATIOS
from netwright.compress.codes import Codes
from netwright.compress.quantise.posttraining import PostTraining, check_bits
from netwright.core.errors import NetwrightError
from netwright.core.graph import Graph, Node
from netwright.core.paper import Paper
from netwright.design.execute import GraphModule

EXPONENTS = tuple(round(0.4 + 0.05 * i, 2) for i in range(21))  # 0.4 to 1.4
LOOK = 10  # steps between looks at the error of the whole numbers


def table(exponent: float, bits: int) -> Tensor:
    """Whole numbers [2^(b-1)] for |q| = 0..T: ``rint(M (q/T)^(1/a))``, M from T to 127 with the least squared rounding error.

    With a = 1 it is 0..T, the codes of uniform weights.
    """
    top = 2 ** (bits - 1) - 1
    real = (torch.arange(top + 1, dtype=torch.float64) / top) ** (1 / exponent)
    largest = torch.arange(top, 128, dtype=torch.float64)[:, None]
    whole = torch.round(largest * real)
    return whole[((whole / largest - real) ** 2).sum(1).argmin()]


@dataclass(frozen=True)
class Power:
    """Power codes of one layer: weights ``peak[o] * table[q] / table[-1]``.

    Attributes:
        q: whole numbers [O, K], -T..T.
        peak: [O], the largest value of a channel.
        exponent: a.
        bits: b.
    """

    q: Tensor
    peak: Tensor
    exponent: float
    bits: int

    @property
    def whole(self) -> Tensor:
        """The 8-bit whole numbers [O, K] that the integer network computes with."""
        return self.q.sign() * table(self.exponent, self.bits).to(self.q)[self.q.abs().long()]

    @property
    def unit(self) -> Tensor:
        """Real value [O] of one of them."""
        return self.peak / float(table(self.exponent, self.bits)[-1])

    @property
    def weight(self) -> Tensor:
        return self.whole * self.unit[:, None]


def power_codes(w: Tensor, peak: Tensor, exponent: float, bits: int) -> Power:
    """``q = sign(w) rint(T min(1, |w|/p)^a)`` for w [O, K], p [O]."""
    top = 2 ** (bits - 1) - 1
    q = w.sign() * torch.round(top * (w.abs() / peak[:, None]).clamp(max=1) ** exponent)
    return Power(q, peak, exponent, bits)


def clipped(w: Tensor, exponent: float, bits: int) -> Power:
    """Power codes for w [O, K], each channel with the clip point of least squared error."""
    largest = w.abs().amax(1)
    largest = torch.where(largest > 0, largest, 1.0)
    errors = [(power_codes(w, r * largest, exponent, bits).weight - w).square().sum(1) for r in RATIOS]
    return power_codes(w, largest * RATIOS.to(w)[torch.stack(errors).argmin(0)], exponent, bits)


def search(w: Tensor, bits: int, error: Callable[[Tensor], Tensor], exponents: Iterable[float] = EXPONENTS) -> Power:
    """The power codes for w [O, K] with the least ``error(weight - w)`` over a grid of exponents.

    With the squared norm as the error this is PowerQuant, a search without data.
    """
    return min((clipped(w, a, bits) for a in exponents), key=lambda p: float(error(p.weight - w)))


def patches(node: Node, x: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """What a weighted node multiplies its weights with: [G, positions, K], K in the order of the weight's [I/G, kh, kw]."""
    if node.op == "linear":
        return x.flatten(0, -2)[None]
    a = node.attrs
    top, left, bottom, right = a["pads"]
    columns = F.unfold(F.pad(x, (left, right, top, bottom)), kernel, a["dilation"], 0, a["stride"])
    return columns.unflatten(1, (a["groups"], -1)).permute(1, 0, 3, 2).flatten(1, 2)  # from [N, G, K, L]


def moments(graph: Graph, names: Iterable[str], calibration: Tensor, batch: int = 32) -> dict[str, Tensor]:
    """H [G, K, K] of the named weighted nodes: the mean of x x^T over the patches x that each group reads.

    Takes K^2 floats a group and layer, and one pass over `calibration` [N, C, H, W].
    """
    sums: dict[str, Tensor] = {}
    counts = dict.fromkeys(names, 0)
    readers: dict[str, list[Node]] = {}
    for name in counts:
        readers.setdefault(graph[name].inputs[0], []).append(graph[name])

    def visit(source: Node, out: Tensor) -> None:
        for node in readers.get(source.name, ()):
            x = patches(node, out, graph.value(node, "weight").shape[2:])
            sums[node.name] = sums.get(node.name, 0) + x.mT @ x
            counts[node.name] += x.shape[1]

    network = GraphModule(graph).eval()
    with torch.no_grad():
        for x in calibration.split(batch):
            network(x, visit=visit)
    return {name: sums[name] / counts[name] for name in counts}


def output_error(d: Tensor, h: Tensor) -> Tensor:
    """``sum over o of d[o] H d[o]^T``, d [O, K], H [G, K, K]: mean squared change of a layer's outputs, summed over channels."""
    d = d.unflatten(0, (len(h), -1))
    return ((d @ h) * d).sum()


class PowerRound(torch.autograd.Function):
    """u [O, K], peak [O, 1], a -> ``peak sign(q) (|q|/T)^(1/a)`` with the gradients above."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, peak: Tensor, a: Tensor, top: int) -> Tensor:
        share = torch.round(top * (u.abs() / peak).clamp(max=1) ** a) / top
        value = peak * u.sign() * share ** (1 / a)
        ctx.save_for_backward(u.abs() <= peak, value, share, a)
        return value

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        inside, value, share, a = ctx.saved_tensors
        slope = -value * torch.where(share > 0, share, 1.0).log() / a**2
        return g * inside, None, (g * slope).sum(), None


def learn(start: Power, w: Tensor, h: Tensor, steps: int, lr: float = 0.005, exponent_lr: float = 0.005) -> Power:
    """Power codes for w [O, K] with no more output error under H than `start`, by `steps` of Adam on weights and exponent.

    The learning rates are shares of a channel's peak and of one; both fall to 0 along a cosine.
    """
    top, peak = 2 ** (start.bits - 1) - 1, start.peak[:, None]
    u = (w / peak).clamp(-1, 1).requires_grad_()
    a = torch.tensor(start.exponent, dtype=w.dtype, requires_grad=True)
    one = torch.ones_like(peak)
    optimiser = torch.optim.Adam([{"params": [u], "lr": lr}, {"params": [a], "lr": exponent_lr}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, steps))
    best, least = start, float(output_error(start.weight - w, h))
    unit = max(least, 1e-30)
    for step in range(1, steps + 1):
        optimiser.zero_grad()
        (output_error(PowerRound.apply(u, one, a, top) * peak - w, h) / unit).backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            a.clamp_(EXPONENTS[0], EXPONENTS[-1])
            if step % LOOK == 0 or step == steps:
                now = power_codes(u * peak, start.peak, float(a), start.bits)
                error = float(output_error(now.weight - w, h))
                if error < least:
                    best, least = now, error
    return best


def settle(start: Power, w: Tensor, h: Tensor, sweeps: int) -> Power:
    """Power codes for w [O, K] with no more output error under H than `start`: best code of each column in turn, others given."""
    whole = table(start.exponent, start.bits).to(w)
    values = torch.cat([-whole.flip(0)[:-1], whole])
    between = (values[1:] + values[:-1]) / 2
    d, q, unit, each = start.weight - w, start.q.clone(), start.unit, len(w) // len(h)
    for k in [k for _ in range(sweeps) for k in range(w.shape[1])]:
        pull = h[:, k].repeat_interleave(each, 0)
        own = pull[:, k]
        target = w[:, k] + d[:, k] - (d * pull).sum(1) / own.clamp(min=1e-12)
        index = torch.where(own > 0, torch.bucketize(target / unit, between), q[:, k].long() + len(whole) - 1)
        q[:, k] = (index - len(whole) + 1).to(q)
        d[:, k] = values[index] * unit - w[:, k]
    now = replace(start, q=q)
    return min(start, now, key=lambda p: float(output_error(p.weight - w, h)))


@dataclass(frozen=True)
class NUPES(PostTraining):
    """Non-uniform weights of few bits, one exponent a layer.

    Attributes:
        bits: of a weight, 2..8.
        steps: of learning a layer's exponent and codes by gradient.
        sweeps: over the columns at the end; with 0 steps and 0 sweeps there is only the search.

    Raises:
        NetwrightError: `bits` is not one of 2..8, or `steps` or `sweeps` is negative.
    """

    bits: int = 4
    steps: int = 200
    sweeps: int = 4

    name: ClassVar[str] = "nupes"
    paper: ClassVar[Paper] = Paper(
        "yvinec2025nupes", "NUPES: Non-Uniform Post-Training Quantization via Power Exponent Search",
        "Edouard Yvinec and Arnaud Dapogny and Kevin Bailly", "TPAMI", 2025, "https://arxiv.org/abs/2308.05600", "S244",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_bits(self.name, self.bits)
        if self.steps < 0 or self.sweeps < 0:
            raise NetwrightError(f"{self.name} was asked for {self.steps} steps and {self.sweeps} sweeps; give 0 or more of each")

    def codes(self, graph: Graph, calibration: Tensor) -> dict[str, Codes]:
        found = {}
        for name, h in moments(graph, self.narrow(graph), calibration).items():
            value = graph.value(graph[name], "weight")
            w = torch.from_numpy(np.array(value, np.float32)).flatten(1)
            start = search(w, self.bits, lambda d, h=h: output_error(d, h))  # type: ignore[misc]
            power = settle(learn(start, w, h, self.steps), w, h, self.sweeps)
            codes = power.whole.to(torch.int8).numpy().reshape(value.shape)
            found[name] = Codes(codes, power.unit.double().numpy(), 2 if self.bits == 2 else 8)
        return found
