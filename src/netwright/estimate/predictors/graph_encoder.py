"""Networks as graphs of operations, and the k-GNN that reads them: what GENNAPE and AIO-P have in common.

    node v       x_v = [ kind of operation, one-hot | side of the kernel, log2 channels, log2 resolution ]
    layer        h_v' = tanh( W0 h_v + W1 sum_u m(u, v) h_u + W2 sum_w m(v, w) h_w )        m: number of edges
    graph        g = [ mean_v h_v, h_last ]                                 two times `hidden` numbers

A reduced cell (`Cell`) has channels relative to its width: 1 where inputs are summed, the share of a branch where the output
concatenates. A traced network becomes a `Network`: the same with absolute channels and resolutions, so that both can be read
by one encoder. Kernel sides are numbers, not kinds: a 5x5 convolution is read by an encoder that has seen 1x1 and 3x3.

Messages are GraphConv layers of torch_geometric (the extra ``graph``), one along the edges and one against them; the official
code of both papers has one along them and reads out the mean only. Where features hold no graphs, an architecture is one node
that holds its numbers, and the encoder a perceptron, which needs no extra.

Morris et al., Weisfeiler and Leman Go Neural: Higher-order Graph Neural Networks, AAAI 2019.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from netwright.core.errors import MissingExtra, NetwrightError
from netwright.core.graph import VIEWS, Graph, Node
from netwright.estimate.tables.cell import JOINS, Cell
from netwright.estimate.tables.features import Array, Features, kernel

ATTRIBUTES = ("side", "channels", "resolution")
TOTALS = ("work", "nodes", "weighted nodes", "edges", "longest path", "mean path", "widest")
CLIP = 4.0
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Network(Cell):
    """A traced network; one node an operation, in execution order, views and constants left out.

    Attributes:
        sides: of the kernels, [n].
        channels: of what each node gives, [n]; of sequences the last axis.
        resolution: the root of the number of places, pixels or tokens, of what each node gives, [n].
        macs: multiply-accumulates of the whole network.
    """

    sides: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()
    resolution: tuple[float, ...] = ()
    macs: int = 0


def _operation(node: Node, graph: Graph) -> tuple[str, int]:
    """Name and kernel side; convolutions and poolings are called as in cells (``conv3x3``)."""
    if node.op.endswith(("conv2d", "pool2d")) and (side := node.attrs.get("kernel")) is None and "weight" in node.weights:
        side = graph.params[node.weights["weight"]].shape[-2:]
    elif not node.op.endswith("pool2d"):
        return node.op, 1
    if not side:
        return "pool", 1
    name = "pool" if node.op.endswith("pool2d") else node.op.removesuffix("2d")
    if name.endswith("conv") and int(node.attrs.get("groups", 1)) > 1:
        name = f"grouped-{name}"
    return f"{name}{side[0]}x{side[-1]}", max(int(s) for s in side)


def _places(shape: Sequence[int], flat: bool) -> tuple[int, float]:
    """Channels and root of the number of places of a tensor with batch 1 in front."""
    if len(shape) == 4:
        return shape[1], float(np.sqrt(shape[2] * shape[3]))
    return (shape[-1] if len(shape) > 1 else 1), 1.0 if flat else float(np.sqrt(np.prod(shape[1:-1])))


def network(graph: Graph) -> Network:
    """A traced network as a graph of operations.

    Raises:
        NetwrightError: it has no input, or nothing but inputs.
    """
    kept = [n for n in graph.nodes if n.op not in VIEWS]
    if not graph.inputs or not kept:
        raise NetwrightError("a network needs an input and operations to be read as a graph. Trace it with an example input.")
    start = graph[graph.inputs[0]]
    at = dict.fromkeys(graph.inputs, 0) | {n.name: i for i, n in enumerate(kept, 1)}
    for node in graph.nodes:
        if node.op in VIEWS and node.inputs:
            at[node.name] = at.get(node.inputs[0], -1)
    counts = np.zeros((len(kept) + 2,) * 2, np.int64)
    ends = [(at.get(s, -1), at[n.name]) for n in kept for s in n.inputs]
    for u, v in [*ends, *((at.get(o, -1), len(kept) + 1) for o in graph.outputs)]:
        if u >= 0:
            counts[u, v] += 1
    named = [("input", 1), *(_operation(n, graph) for n in kept), ("output", 1)]
    shapes = [start.spec.shape, *(n.spec.shape for n in kept), graph[graph.outputs[0]].spec.shape]
    places = [_places(s, len(s) < 3) for s in shapes]
    return Network(
        tuple(name for name, _ in named), tuple(tuple(int(c) for c in row) for row in counts), JOINS[0],
        tuple(side for _, side in named), tuple(max(1, c) for c, _ in places), tuple(max(1.0, r) for _, r in places), graph.macs,
    )  # fmt: skip


def networks(graphs: Sequence[Graph]) -> Features:
    """Features of traced networks: the graphs, and their totals as the block ``totals``."""
    found = tuple(network(g) for g in graphs)
    return Features({"totals": np.stack([read(n).totals for n in found])}, {"totals": TOTALS}, found)


def kind(operation: str) -> str:
    """An operation's name without the side of its kernel."""
    return re.sub(r"\d+x\d+$", "", operation)


@dataclass(frozen=True)
class Read:
    """Kinds of the nodes [n], their attributes [n, 3], edges with multiplicity [E, 3], and totals of the graph [7]."""

    kinds: tuple[str, ...]
    attributes: Array
    ends: NDArray[np.int64]
    totals: Array


@lru_cache(maxsize=1 << 16)
def read(cell: Cell) -> Read:
    """What a graph looks like; its work counts 1x1 convolutions of full width, or 10^9 MACs of a traced network."""
    names, m = cell.operations, np.array(cell.counts)
    n = len(names)
    weighted = np.array([i not in (0, n - 1) and "pool" not in name for i, name in enumerate(names)])
    if isinstance(cell, Network):
        weighted = np.array([any(part in name for part in ("conv", "linear", "lstm", "gru", "rnn")) for name in names])
        side, channels = np.array(cell.sides, float), np.array(cell.channels, float)
        resolution, work = np.array(cell.resolution), cell.macs / 1e9
    else:
        side, channels, resolution = np.array([float(kernel(o)) for o in names]), np.ones(n), np.ones(n)
        if cell.join == JOINS[1]:
            share = 1 / max(1, int((m[1:-1, -1] > 0).sum()))
            for v in range(n - 2, 0, -1):
                later = channels[1:-1][m[v, 1:-1] > 0]
                channels[v] = max([share] * bool(m[v, -1]) + later.tolist(), default=1.0)
        work = float((weighted * side**2 * channels**2).sum())
    longest, mean, ways = np.full(n, -np.inf), np.zeros(n), np.zeros(n)
    longest[0] = 0
    ways[0] = 1
    for v in range(1, n):
        before = np.flatnonzero(m[:, v])
        if len(before) and (total := float((weight := m[before, v] * ways[before]).sum())) > 0:
            step = float(v < n - 1)
            longest[v], mean[v] = longest[before].max() + step, (weight @ mean[before]) / total + step
            ways[v] = min(total, 1e200)
    totals = [np.log1p(work), np.log(n), np.log1p(weighted.sum()), np.log1p(m.sum()), max(longest[-1], -1), mean[-1]]
    attributes = np.stack([side, np.log2(channels), np.log2(resolution)], 1)
    ends = np.column_stack([*np.nonzero(m), m[np.nonzero(m)]])
    return Read(tuple(map(kind, names)), attributes, ends, np.array([*totals, np.log2(channels.max())]))


@dataclass(frozen=True)
class Batch:
    """Some graphs, side by side: nodes [V, columns], edges [2, E] with weights [E], the graph of each node [V], last nodes."""

    nodes: Tensor
    edges: Tensor
    weights: Tensor
    owner: Tensor
    last: Tensor

    def pool(self, h: Tensor) -> Tensor:
        """Graphs [N, 2 hidden] of nodes [V, hidden]: the mean and the last node."""
        size = torch.bincount(self.owner, minlength=len(self.last)).unsqueeze(1)
        return torch.cat([torch.zeros(len(self.last), h.shape[1]).index_add(0, self.owner, h) / size, h[self.last]], 1)


def _spans(start: Rows, rows: Rows) -> tuple[Rows, Rows]:
    """Places of the items of some rows, one after the other, and how many each row has."""
    sizes = start[rows + 1] - start[rows]
    return np.repeat(start[rows] - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum()), sizes


@dataclass(frozen=True)
class Graphs:
    """Many graphs, packed.

    Attributes:
        nodes: attributes of all nodes [V, columns].
        starts: first node of each graph, and V, [N + 1].
        ends: of all edges, numbered within their graph, and their multiplicity, [E, 3].
        edge_starts: first edge of each graph, and E, [N + 1].
        totals: of each graph [N, 7]; of no columns where there are no graphs.
        work: of each graph [N], see `Reader`.
    """

    nodes: NDArray[np.float32]
    starts: Rows
    ends: NDArray[np.int64]
    edge_starts: Rows
    totals: Array
    work: Array

    def __len__(self) -> int:
        return len(self.starts) - 1

    def batch(self, rows: Rows) -> Batch:
        places, sizes = _spans(self.starts, rows)
        links, each = _spans(self.edge_starts, rows)
        first = np.cumsum(sizes) - sizes
        edges = self.ends[links, :2] + np.repeat(first, each)[:, None]
        return Batch(
            torch.from_numpy(self.nodes[places]),
            torch.from_numpy(np.ascontiguousarray(edges.T)),
            torch.from_numpy(self.ends[links, 2].astype(np.float32)),
            torch.from_numpy(np.repeat(np.arange(len(rows)), sizes)),
            torch.from_numpy(first + sizes - 1),
        )

    def over(self, function: Callable[[Batch], Tensor], size: int = 1024) -> Array:
        """A function of graphs, without gradients, on all of them, [N, ...]."""
        with torch.no_grad():
            parts = [function(self.batch(np.arange(i, min(i + size, len(self))))) for i in range(0, len(self), size)]
        return np.asarray(torch.cat(parts).double().numpy())


@dataclass(frozen=True)
class Reader:
    """How features are read as graphs: the kinds of operations with a column of their own, centre and width of the numbers.

    An operation that is not among the kinds has none of them and keeps its attributes.
    """

    kinds: tuple[str, ...]
    centre: Array
    width: Array

    @classmethod
    def of(cls, sources: Iterable[Features]) -> Reader:
        """Fitted to what is to be read.

        Raises:
            NetwrightError: some features hold graphs and others do not.
        """
        sources = list(sources)
        if len({bool(x.cells) for x in sources}) > 1:
            raise NetwrightError("some features hold graphs and others none. Describe all of them with graphs, or none.")
        found = [read(c) for x in sources for c in dict.fromkeys(x.cells)]
        kinds = {name for r in found for name in r.kinds}
        numbers = np.concatenate([r.attributes for r in found] or [x.numbers for x in sources])
        width = numbers.std(0)
        return cls(tuple(sorted(kinds)), numbers.mean(0), np.where(width > 1e-9, width, 1.0))

    @property
    def columns(self) -> int:
        return len(self.kinds) + len(self.centre)

    def _scaled(self, numbers: Array) -> Array:
        return np.clip((numbers - self.centre) / self.width, -CLIP, CLIP)

    def __call__(self, x: Features) -> Graphs:
        """Read features.

        Raises:
            NetwrightError: the reader was fitted to graphs, and these hold none.
        """
        if self.kinds and not x.cells:
            raise NetwrightError("these features hold no graphs, as those before did. Describe cells, or trace networks.")
        if not self.kinds:
            n = len(x)
            none = np.zeros((0, 3), np.int64), np.zeros(n + 1, np.intp)
            return Graphs(self._scaled(x.numbers).astype(np.float32), np.arange(n + 1), *none, np.zeros((n, 0)), np.zeros(n))
        at = {name: i for i, name in enumerate(self.kinds)}
        distinct = {cell: i for i, cell in enumerate(dict.fromkeys(x.cells))}
        found = [read(cell) for cell in distinct]
        of = np.array([at.get(name, -1) for r in found for name in r.kinds])
        scaled = self._scaled(np.concatenate([r.attributes for r in found]))
        nodes = np.concatenate([of[:, None] == np.arange(len(at)), scaled], 1).astype(np.float32)
        rows = np.array([distinct[cell] for cell in x.cells])
        starts = np.concatenate([[0], np.cumsum([len(r.kinds) for r in found])])
        edge_starts = np.concatenate([[0], np.cumsum([len(r.ends) for r in found])])
        (places, sizes), (links, each) = _spans(starts, rows), _spans(edge_starts, rows)
        starts, edge_starts = (np.concatenate([[0], np.cumsum(s)]) for s in (sizes, each))
        totals = np.stack([r.totals for r in found])[rows]
        ends = np.concatenate([r.ends for r in found])[links]
        return Graphs(nodes[places], starts, ends, edge_starts, totals, np.expm1(totals[:, 0]))


class Alone(nn.Module):
    """The layer of graphs without edges."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.own = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor, edges: Tensor, weights: Tensor) -> Tensor:
        return self.own(x)


def convolution(graphs: bool) -> Callable[[int, int], nn.Module]:
    """The layer (inputs, outputs) that passes messages.

    Raises:
        MissingExtra: torch_geometric is not installed.
    """
    if not graphs:
        return Alone
    try:
        from torch_geometric.nn import GraphConv
    except ImportError:
        raise MissingExtra("a predictor that reads graphs", "graph") from None
    return GraphConv


class Encoder(nn.Module):
    """A k-GNN with messages along the edges and against them.

    Args:
        reader: what the nodes look like.
        hidden: width of a layer.
        layers: number of layers.
        beside: columns of another encoder's layer that each layer reads too (an adapter has `hidden`).
    """

    def __init__(self, reader: Reader, hidden: int, layers: int, beside: int = 0):
        super().__init__()
        layer = convolution(bool(reader.kinds))
        widths = [reader.columns + beside, *[hidden + beside] * (layers - 1)]
        self.ahead = nn.ModuleList(layer(w, hidden) for w in widths)
        self.behind = nn.ModuleList(layer(w, hidden) for w in widths)

    def forward(self, batch: Batch, beside: Sequence[Tensor] = ()) -> list[Tensor]:
        """What each layer gives, [V, hidden] each."""
        h, found, back = batch.nodes, [], batch.edges.flip(0)
        for i, (ahead, behind) in enumerate(zip(self.ahead, self.behind, strict=True)):
            h = torch.cat([beside[i], h], 1) if beside else h
            h = torch.tanh(ahead(h, batch.edges, batch.weights) + behind(h, back, batch.weights))
            found.append(h)
        return found

    def graphs(self, batch: Batch) -> Tensor:
        """Graphs [N, 2 hidden]."""
        return batch.pool(self(batch)[-1])


def perceptron(inputs: int, hidden: int) -> nn.Sequential:
    """A head with one number at its end."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, 1))


def descend(
    parameters: Iterable[nn.Parameter], loss: Callable[[Rows], Tensor], count: int, *,
    steps: int, passes: int, batch: int, rate: float, decay: float, rng: np.random.Generator,
) -> None:  # fmt: skip
    """Minimise a loss of rows by AdamW with a cosine schedule, in `steps` steps, or as many as `passes` over all rows take.

    Every row comes once before one comes again.
    """
    learned, size = list(parameters), min(batch, count)
    steps = max(steps, passes * count // size)
    optimiser = torch.optim.AdamW(learned, lr=rate, weight_decay=decay, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    order = np.zeros(0, np.intp)
    for _ in range(steps):
        if len(order) < size:
            order = rng.permutation(count)
        rows, order = order[:size], order[size:]
        optimiser.zero_grad()
        loss(rows).backward()
        optimiser.step()
        schedule.step()
