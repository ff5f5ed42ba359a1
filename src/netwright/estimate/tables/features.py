"""Features of cells: one function for every space, so that what is learnt in one can be used in another.

For a reduced cell with edge counts m(u, v), operations with kernel side k(v) and a weight or not, node 0 the input:

    paths        P(v) = sum_u m(u, v) P(u),  P(0) = 1                     how many ways lead to v
    lengths      of all paths, in operations, convolutions, receptive field (k-1)/2, and operations of each kind:
                 mean, deviation, largest, smallest, and the number of nodes
    shares       the same mean and deviation with each path weighted by the share of the signal's variance that it brings:
                 a normalised convolution has variance 1, a pooling half of what comes in, sums add
    flow         log(1 + G(out)),  G(v) = g(v) sum_u m(u, v) G(u)         path products, g = k^2 for convolutions and 1 else
    channels     c(v) = 1 for `sum`; for `concat` 1/inputs of the output, and the most that a successor has
    parameters   log(1 + sum_v k(v)^2 c(v)^2 + projections)               of a cell of width 1
    degrees      edges, nodes, inputs of the output, outputs of the input, edges from input to output, edges by kind of ends
    spectrum     the four largest eigenvalues of the graph's Laplacian

All cells go through at once. Words (`Cell.words`) are counts of substructures, kept where a share of the cells has them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netwright.core.errors import DataError
from netwright.estimate.tables.cell import JOINS, Cell

Array = NDArray[np.float64]
FAR = 1e3
RARE = 0.002


@dataclass(frozen=True)
class Features:
    """What predictors read: blocks of columns [N, columns] by name, and the columns' names.

    The block ``words`` holds counts of substructures, every other block plain numbers. Where the architectures are graphs, they
    stand in `cells` themselves, for predictors that read graphs.
    """

    blocks: Mapping[str, Array]
    names: Mapping[str, tuple[str, ...]]
    cells: tuple[Cell, ...] = ()

    @classmethod
    def of(cls, numbers: Array, name: str = "numbers") -> Features:
        """One block of plain numbers [N, columns]."""
        numbers = np.asarray(numbers, dtype=np.float64)
        return cls({name: numbers}, {name: tuple(f"{name}{i}" for i in range(numbers.shape[1]))})

    def __len__(self) -> int:
        return len(next(iter(self.blocks.values())))

    def __getitem__(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Features:
        picked = tuple(self.cells[i] for i in np.arange(len(self))[rows]) if self.cells else ()
        return Features({k: v[rows] for k, v in self.blocks.items()}, self.names, picked)

    def __or__(self, other: Features) -> Features:
        """The blocks of both, for the same architectures."""
        if len(self) != len(other):
            raise DataError(f"features of {len(self)} and of {len(other)} architectures cannot stand side by side.")
        return Features({**self.blocks, **other.blocks}, {**self.names, **other.names}, self.cells or other.cells)

    def only(self, *blocks: str) -> Features:
        return Features({k: self.blocks[k] for k in blocks}, {k: self.names[k] for k in blocks}, self.cells)

    @property
    def numbers(self) -> Array:
        """All plain numbers [N, columns]; counts where there is nothing else."""
        found = [v for k, v in self.blocks.items() if k != "words"] or list(self.blocks.values())
        return np.concatenate(found, 1)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `numbers`."""
        found = [v for k, v in self.names.items() if k != "words"] or list(self.names.values())
        return tuple(name for names in found for name in names)


def kernel(operation: str) -> int:
    """Side of the kernel in an operation's name (``conv3x3``: 3), 1 where there is none."""
    found = re.search(r"(\d+)x\1", operation)
    return int(found.group(1)) if found else 1


def graph_features(cells: Sequence[Cell], kinds: Sequence[str]) -> tuple[Array, tuple[str, ...]]:
    """Numbers [N, columns] and their names; an operation that is not among `kinds` counts as an operation of no kind."""
    count, n = len(cells), max(len(c.operations) for c in cells)
    a, kind = np.zeros((count, n, n)), np.full((count, n), -1)
    at, op = {k: i for i, k in enumerate(kinds)}, np.zeros((count, n))
    side, weighted = np.zeros((count, n)), np.zeros((count, n))
    for i, cell in enumerate(cells):
        places = [*range(len(cell.operations) - 1), n - 1]
        a[np.ix_([i], places, places)] = cell.counts
        for v, name in list(zip(places, cell.operations, strict=True))[1:-1]:
            kind[i, v], op[i, v], side[i, v], weighted[i, v] = at.get(name, -1), 1, kernel(name), "pool" not in name
    concat = np.array([c.join == JOINS[1] for c in cells], dtype=float)
    of = (kind[:, :, None] == np.arange(len(kinds))).astype(float)
    found: dict[str, NDArray[np.floating]] = {}

    ways, gain = np.zeros((count, n)), np.zeros((count, n))
    variance, incoming = np.zeros((count, n)), np.zeros((count, n))
    ways[:, 0] = gain[:, 0] = variance[:, 0] = 1
    growth = np.where(weighted > 0, side**2, 1.0)
    for v in range(1, n):
        ways[:, v], gain[:, v] = (a[:, :, v] * ways).sum(1), (a[:, :, v] * gain).sum(1) * growth[:, v]
        incoming[:, v] = (a[:, :, v] * variance).sum(1)
        variance[:, v] = np.where(weighted[:, v] > 0, incoming[:, v] > 0, incoming[:, v] * (0.5 if v < n - 1 else 1))
    alive = ways[:, -1] > 0
    share = a * variance[:, :, None] / np.maximum(incoming, 1e-12)[:, None, :]
    by_path = a * ways[:, :, None] / np.maximum((a * ways[:, :, None]).sum(1), 1e-12)[:, None, :]
    mass = np.zeros((count, n))
    mass[:, -1] = alive
    for v in range(n - 2, -1, -1):
        mass[:, v] = (share[:, v] * mass).sum(1)
    found |= {
        "paths": np.log1p(ways[:, -1]),
        "alive": alive * 1.0,
        "flow": np.log1p(gain[:, -1]),
        "variance": np.log1p(incoming[:, -1]),
    }

    lengths = {"operations": op, "convolutions": weighted, "field": np.where(op > 0, side - 1, 0) / 2}
    for name, w in [*lengths.items(), *((k, of[:, :, i]) for i, k in enumerate(kinds))]:
        for which, weight in (("", by_path), (" by share", share)):
            first, second = np.zeros((count, n)), np.zeros((count, n))
            for v in range(1, n):
                m, s = (weight[:, :, v] * first).sum(1), (weight[:, :, v] * second).sum(1)
                first[:, v], second[:, v] = m + w[:, v], s + 2 * w[:, v] * m + w[:, v] ** 2
            found[f"{name} mean{which}"] = first[:, -1]
            found[f"{name} deviation{which}"] = np.sqrt(np.maximum(second[:, -1] - first[:, -1] ** 2, 0))
        most, least = np.full((count, n), -FAR), np.full((count, n), FAR)
        most[:, 0] = least[:, 0] = 0
        for v in range(1, n):
            joined = a[:, :, v] > 0
            most[:, v] = np.where(joined, most, -FAR).max(1) + w[:, v]
            least[:, v] = np.where(joined, least, FAR).min(1) + w[:, v]
        found |= {f"{name} most": np.where(alive, most[:, -1], -1), f"{name} least": np.where(alive, least[:, -1], -1)}
        found[f"{name} nodes"] = w.sum(1)

    inner, ends = a[:, 1:-1, -1] > 0, a[:, 0] > 0
    channels = op.copy()
    split = np.zeros((count, n))
    for v in range(n - 2, 0, -1):
        own = (a[:, v, -1] > 0) / np.maximum(inner.sum(1), 1)
        split[:, v] = np.maximum(own, np.where(a[:, v] > 0, split, 0).max(1)) * op[:, v]
    channels = np.where(concat[:, None] > 0, split, channels)
    cost = weighted * side**2 * channels**2 + concat[:, None] * ends * channels
    found |= {"parameters": np.log1p(cost.sum(1) + concat * (a[:, 0, -1] > 0)), "parameters by share": (cost * mass).sum(1)}
    found |= {"width": channels.sum(1), "widest": channels.max(1), "weighted width": (weighted * channels).sum(1)}
    found |= {f"{k} width": (channels * of[:, :, i]).sum(1) for i, k in enumerate(kinds)}

    found |= {
        "inputs of output": a[:, :, -1].sum(1),
        "distinct inputs of output": inner.sum(1),
        "outputs of input": a[:, 0].sum(1),
    }
    found |= {
        "edges": a.sum((1, 2)),
        "distinct edges": (a > 0).sum((1, 2)),
        "direct": a[:, 0, -1],
        "direct share": share[:, 0, -1],
    }
    found["density"] = found["distinct edges"] / (op.sum(1) + 1)
    start, end = np.zeros((count, n)), np.zeros((count, n))
    start[:, 0], end[:, -1] = 1, 1
    nodes = {k: of[:, :, i] for i, k in enumerate(kinds)}
    for first_kind, x in {"input": start, **nodes}.items():
        for second_kind, y in {**nodes, "output": end}.items():
            found[f"{first_kind} > {second_kind}"] = ((x[:, None] @ a)[:, 0] * y).sum(1)
    joined = np.minimum(a + a.transpose(0, 2, 1), 1)
    laplacian = joined.sum(-1)[:, :, None] * np.eye(n) - joined
    spectrum = np.linalg.eigvalsh(laplacian)[:, ::-1]
    found |= {f"eigenvalue {i + 1}": spectrum[:, i] if i < n else np.zeros(count) for i in range(4)}
    return np.stack(list(found.values()), 1).astype(np.float64), tuple(found)


def describe(cells: Sequence[Cell], *, like: Features | None = None, kinds: Sequence[str] | None = None) -> Features:
    """Features of `cells`: the blocks ``graph`` and ``words``.

    Args:
        cells: of one space or of several.
        like: take its columns, to describe more cells for a predictor that was fitted before.
        kinds: operations with columns of their own (default: those of `cells`, or of `like`); name those of both spaces where
            a predictor shall cross from one to the other.

    Raises:
        DataError: no cells.
    """
    if not cells:
        raise DataError("there are no cells to describe.")
    if like is not None:
        kinds = [name.removesuffix(" nodes") for name in like.names["graph"] if name.endswith(" nodes")][3:]
    own = sorted({o for c in cells for o in c.operations[1:-1]}) if kinds is None else list(kinds)
    distinct = {cell: i for i, cell in enumerate(dict.fromkeys(cells))}
    rows = np.array([distinct[cell] for cell in cells])
    often = np.bincount(rows)
    numbers, names = graph_features(list(distinct), own)
    found = [c.words() for c in distinct]
    if like is None:
        spread: Counter[str] = Counter()
        for words, times in zip(found, often, strict=True):
            spread.update(dict.fromkeys(words, int(times)))
        kept = tuple(sorted(w for w, c in spread.items() if c >= RARE * len(cells)))
    else:
        kept = like.names["words"]
    at = {w: i for i, w in enumerate(kept)}
    counts = np.zeros((len(distinct), len(kept)))
    for i, words in enumerate(found):
        for word, c in words.items():
            if word in at:
                counts[i, at[word]] = c
    return Features({"graph": numbers[rows], "words": counts[rows]}, {"graph": names, "words": kept}, tuple(cells))
