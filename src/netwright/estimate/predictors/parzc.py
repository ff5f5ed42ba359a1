"""ParZC: statistics of the nodes of a cell, mixed by a small network with Bayesian layers that is trained on its ranking.

    token of node v     kind, log(1 + G(v) B(v)), share of the variance and of the paths that cross v, edges into and out of v,
                        longest way from the input and to the output, channels, parameters               (see `statistics`)
    G(v) = g(v) sum_u m(u, v) G(u),  B(u) = sum_v m(u, v) g(v) B(v)     g: k^2 of convolutions, 1 else; G B is synflow's
                                                                        saliency of the node at weights of one
    t = E tokens                              E ~ N(mu, softplus(rho)^2), drawn anew in each pass (reparametrised)
    t = t + W2 gelu(W1 norm(t)')'             along the nodes, then the same along the channels; `depth` times
    f = e' mean_v norm(t)                     e as E; mean and spread of f over `samples` draws
    loss = 1 - mean over pairs of tanh(a (f_i - f_j)) tanh(a (z_i - z_j))       differentiable Kendall's tau

Nodes stand in an order that isomorphic cells share. Numbers of the whole architecture (block ``numbers``: proxies), and all plain
numbers where there are no cells, pass through a linear layer and are cut into segments, one more token each. `loss="mse"` trains
the same network on squared errors. The outputs' scale means nothing to the ranking; held-out labels give it.

Differs from the paper: statistics of nodes follow from the graph, none needs a network or data; no transformer beside the mixer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.core.paper import Paper
from netwright.estimate.predictors.ensemble import blend
from netwright.estimate.predictors.role import Held, Learned, Predictor
from netwright.estimate.tables.cell import JOINS, Cell
from netwright.estimate.tables.features import Array, Features, kernel

DIGITS = 9
CHUNK = 8192
START = -5.0  # rho at first: spreads of 0.007


def statistics(cells: Sequence[Cell], kinds: Sequence[str], most: int) -> Array:
    """Tokens [N, most, len(kinds) + 10] of the output, which comes first, and of the nodes in order of their longest way.

    Of a cell with more nodes the last ones are left out; one with less is filled up with zeros. The last column is 1 for a node.
    """
    distinct = {cell: i for i, cell in enumerate(dict.fromkeys(cells))}
    count, n = len(distinct), max(len(c.operations) for c in distinct)
    a, kind, there = np.zeros((count, n, n)), np.full((count, n), -1), np.zeros((count, n), bool)
    side, weighted = np.ones((count, n)), np.zeros((count, n))
    at = {k: i for i, k in enumerate(kinds)}
    for i, cell in enumerate(distinct):
        places = [*range(len(cell.operations) - 1), n - 1]
        a[np.ix_([i], places, places)] = cell.counts
        there[i, places[1:]] = True
        for v, name in list(zip(places, cell.operations, strict=True))[1:-1]:
            kind[i, v], side[i, v], weighted[i, v] = at.get(name, -1), kernel(name), "pool" not in name
    concat = np.array([c.join == JOINS[1] for c in distinct])
    gain = np.where(weighted > 0, side**2, 1.0)

    flow, ways, variance, depth = (np.zeros((count, n)) for _ in range(4))
    flow[:, 0] = ways[:, 0] = variance[:, 0] = 1
    incoming = np.zeros((count, n))
    for v in range(1, n):
        edges = a[:, :, v]
        flow[:, v], ways[:, v] = (edges * flow).sum(1) * gain[:, v], (edges * ways).sum(1)
        incoming[:, v], depth[:, v] = (edges * variance).sum(1), np.where(edges > 0, depth + 1, 0).max(1)
        variance[:, v] = np.where(weighted[:, v] > 0, incoming[:, v] > 0, incoming[:, v] * (0.5 if v < n - 1 else 1))
    share = a * variance[:, :, None] / np.maximum(incoming, 1e-12)[:, None, :]
    back, left, mass, height = (np.zeros((count, n)) for _ in range(4))
    back[:, -1] = left[:, -1] = mass[:, -1] = 1
    channels = np.zeros((count, n))
    parts = np.maximum((a[:, 1:-1, -1] > 0).sum(1), 1)
    for u in range(n - 2, -1, -1):
        edges = a[:, u]
        back[:, u], left[:, u] = (edges * gain * back).sum(1), (edges * left).sum(1)
        mass[:, u], height[:, u] = (share[:, u] * mass).sum(1), np.where(edges > 0, height + 1, 0).max(1)
        channels[:, u] = np.maximum((edges[:, -1] > 0) / parts, np.where(edges > 0, channels, 0).max(1))
    channels = np.where(concat[:, None], channels, 1.0)
    columns = [
        *np.moveaxis((kind[:, :, None] == np.arange(len(kinds))).astype(float), 2, 0),
        np.log1p(flow * back), mass, ways * left / np.maximum(ways[:, -1:], 1), a.sum(1), a.sum(2), depth, height, channels,
        np.log1p(weighted * side**2 * channels**2), there * 1.0,
    ]  # fmt: skip
    tokens = np.round(np.stack(columns, 2), DIGITS)
    found = np.zeros((count, most, tokens.shape[2]))
    for i in range(count):
        inner = tokens[i, 1:-1][there[i, 1:-1]]
        order = np.lexsort((*inner.T, inner[:, len(kinds) + 5]))
        rows = np.concatenate([tokens[i, -1:], inner[order]])[:most]
        found[i, : len(rows)] = rows
    return found[[distinct[cell] for cell in cells]]


def kendall(f: Tensor, z: Tensor, steepness: float) -> Tensor:
    """1 - smooth rank correlation of two vectors [B]; 0 where the ranks agree and all differences are large."""
    pairs = torch.tanh(steepness * (f[:, None] - f)) * torch.tanh(steepness * (z[:, None] - z))
    return 1 - pairs.sum() / (len(f) * (len(f) - 1))


class Bayesian(nn.Module):
    """A linear layer whose weights are normal: drawn in each pass, from `generator` where one is given."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.empty(outputs, inputs))
        self.rho = nn.Parameter(torch.full((outputs, inputs), START))
        nn.init.kaiming_uniform_(self.mean, a=math.sqrt(5))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(self.mean.shape, generator=generator)
        return F.linear(x, self.mean + F.softplus(self.rho) * noise)


class Mixer(nn.Module):
    """Mixes tokens [B, tokens, width] along the tokens, then along the width."""

    def __init__(self, tokens: int, width: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.along = nn.Sequential(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * tokens, tokens))
        self.across = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width))

    def forward(self, t: Tensor) -> Tensor:
        t = t + self.along(self.first(t).transpose(1, 2)).transpose(1, 2)
        return t + self.across(self.second(t))


class Network(nn.Module):
    """Scores [B] of node tokens [B, nodes, columns] and of numbers [B, count]; either may have no columns."""

    def __init__(self, nodes: int, columns: int, count: int, segment: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.segment, segments = segment, -(-count // segment)
        self.nodes = Bayesian(columns, width) if nodes else None
        self.project = nn.Linear(count, segments * segment) if count else None
        self.segments = Bayesian(segment, width) if count else None
        self.mixers = nn.ModuleList(Mixer(nodes + segments, width, dropout) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), Bayesian(width, 1)

    def forward(self, nodes: Tensor, numbers: Tensor, generator: torch.Generator | None = None) -> Tensor:
        tokens = [self.nodes(nodes, generator)] if self.nodes is not None else []
        if self.project is not None and self.segments is not None:
            tokens.append(self.segments(self.project(numbers).reshape(len(numbers), -1, self.segment), generator))
        t = torch.cat(tokens, 1)
        for mixer in self.mixers:
            t = mixer(t)
        return torch.as_tensor(self.head(self.norm(t).mean(1), generator)[:, 0])


def _standard(values: Array) -> tuple[Tensor, Tensor]:
    """Centre and width of the last axis."""
    if not values.size:
        return torch.zeros(values.shape[-1]), torch.ones(values.shape[-1])
    flat = values.reshape(-1, values.shape[-1])
    width = flat.std(0)
    return torch.tensor(flat.mean(0)).float(), torch.tensor(np.where(width > 1e-9, width, 1.0)).float()


@dataclass(frozen=True)
class ParZC(Predictor):
    """A mixer over nodes, trained on ranks.

    Attributes:
        loss: ``kendall``, or ``mse`` for comparison.
        steepness: a.
        width: of a token.
        depth: mixers.
        segment: numbers of the whole architecture in one token.
        epochs, batch, rate, decay, dropout: of training, by AdamW with the rate going down as a cosine.
        samples: draws of the weights behind mean and spread.
    """

    name: ClassVar[str] = "parzc"
    paper: ClassVar[Paper] = Paper(
        "dong2024parzc", "ParZC: Parametric Zero-Cost Proxies for Efficient NAS",
        "Peijie Dong and Lujun Li and Xinglin Pan and Zimian Wei and Xiang Liu and Qiang Wang and Xiaowen Chu",
        "arXiv", 2024, "https://arxiv.org/abs/2402.02105", "S184",
    )  # fmt: skip

    folds: int = 4
    loss: Literal["kendall", "mse"] = "kendall"
    steepness: float = 2.0
    width: int = 64
    depth: int = 2
    segment: int = 8
    epochs: int = 150
    batch: int = 32
    rate: float = 5e-4
    decay: float = 1e-3
    dropout: float = 0.1
    samples: int = 8

    def learn(self, x: Features, z: Array, rng: np.random.Generator) -> Learned:
        cells = [c for c in x.cells if isinstance(c, Cell)]
        kinds = sorted({o for c in cells for o in c.operations[1:-1]})
        most = max((len(c.operations) - 1 for c in cells), default=0)

        def read(x: Features) -> tuple[Array, Array]:
            if not most:
                return np.zeros((len(x), 0, 1)), x.numbers
            return statistics(x.cells, kinds, most), x.blocks.get("numbers", np.zeros((len(x), 0)))

        seen = read(x)
        standards = [_standard(v) for v in seen]

        def tensors(values: tuple[Array, Array]) -> list[Tensor]:
            return [(torch.tensor(v).float() - c) / w for v, (c, w) in zip(values, standards, strict=True)]

        seed = int(rng.integers(2**31))
        nodes, numbers = tensors(seen)
        target = torch.tensor(z).float()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = Network(most, nodes.shape[-1], numbers.shape[-1], self.segment, self.width, self.depth, self.dropout)
            self.train(net, nodes, numbers, target)

        def draws(nodes: Tensor, numbers: Tensor) -> Tensor:
            parts = list(zip(nodes.split(CHUNK), numbers.split(CHUNK), strict=True))
            seeds = range(seed, seed + self.samples)
            with torch.inference_mode():
                found = [torch.cat([net(*part, torch.Generator().manual_seed(s)) for part in parts]) for s in seeds]
            return torch.stack(found).double()

        own = draws(nodes, numbers)
        centre, size = float(own.mean()), float(own.mean(0).std()) or 1.0
        common = float(own.var(0).mean()) or 1.0

        def learned(x: Features) -> tuple[Array, Array]:
            found = draws(*tensors(read(x)))
            mean, variance = (found.mean(0) - centre) / size, found.var(0) / common
            return mean.numpy(), (1 + variance).sqrt().numpy()

        return learned

    def train(self, net: Network, nodes: Tensor, numbers: Tensor, z: Tensor) -> None:
        """Train on `loss`; batches of two at least, since a single label has no rank."""
        optimiser = torch.optim.AdamW(net.parameters(), self.rate, weight_decay=self.decay)
        steps = self.epochs * max(1, len(z) // self.batch)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        net.train()
        for _ in range(self.epochs):
            for rows in torch.randperm(len(z)).tensor_split(max(1, len(z) // self.batch)):
                f = net(nodes[rows], numbers[rows])
                loss = kendall(f, z[rows], self.steepness) if self.loss == "kendall" else F.mse_loss(f, z[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
        net.eval()

    def hold_out(self, x: Features, z: Array, rng: np.random.Generator) -> Held:
        return blend([super().hold_out(x, z, rng)], z)
