"""Cell: an architecture as a graph of operations, reduced to what it computes, and the class of its isomorphic twins.

A cell has one input and one output. It is read from what tables print: operations on nodes (adjacency matrix and list, as
NAS-Bench-101), operations on edges (as NAS-Bench-201 and SpikeNAS-Bench), or a JSON graph. Reduction makes them comparable:

    sum and skip nodes v   m(u, w) += m(u, v) m(v, w), then v goes        m(u, v): number of edges from u to v
    none, and nodes that no path from the input to the output crosses     go

What remains are the operations that hold weights, pool or fire, in topological order, and how many edges join them. Two cells
with the same `key` are isomorphic for practical purposes: the key is the multiset of labels after n rounds of directed
Weisfeiler-Lehman refinement (hashes of 64 bits), the identity that NAS-Bench-101 uses (Ying et al., 2019).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np

from netwright.core.errors import DataError

ALIASES = {
    "nor_conv_3x3": "conv3x3", "nor_conv_1x1": "conv1x1", "avg_pool_3x3": "pool3x3", "max_pool_3x3": "pool3x3",
    "maxpool3x3": "pool3x3", "avgpool3x3": "pool3x3", "conv3x3-bn-relu": "conv3x3", "conv1x1-bn-relu": "conv1x1",
    "skip_connect": "skip", "identity": "skip", "zero": "none", "zeroize": "none", "concat": "sum", "add": "sum",
}  # fmt: skip
JOINS = ("sum", "concat")
_EDGES = re.compile(r"([\w.+-]+)~(\d+)")


@lru_cache(maxsize=1 << 18)
def _label(*parts: Any) -> str:
    return blake2b(repr(parts).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Cell:
    """A reduced cell.

    Attributes:
        operations: of the nodes in topological order; the first is ``input``, the last ``output``.
        counts: counts[u][v] edges lead from node u to node v > u.
        join: what the output does with its inputs: ``sum`` keeps the channels, ``concat`` shares them out.
    """

    operations: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    join: str = "sum"

    @classmethod
    def reduced(cls, operations: Sequence[str], counts: Any, join: str = "sum") -> Cell:
        """Reduce a graph [n, n] of edge counts whose nodes stand in topological order, input first, output last.

        Raises:
            DataError: not square, not upper triangular, of another length than `operations`, or an unknown `join`.
        """
        m, names = np.array(counts, dtype=np.int64), [ALIASES.get(o.lower(), o.lower()) for o in operations]
        n = len(names)
        if m.shape != (n, n) or n < 2 or np.tril(m).any() or (m < 0).any() or join not in JOINS:
            found = f"got shape {m.shape}, {n} operations, join {join!r}. Order the nodes from the input to the output."
            raise DataError(
                f"a cell needs an upper triangular matrix of edge counts, a row an operation, and a join of {JOINS}; {found}"
            )
        names[0], names[-1] = "input", "output"
        for v in range(1, n - 1):
            if names[v] in ("skip", "sum"):
                m += np.outer(m[:, v], m[v])
            if names[v] in ("skip", "sum", "none"):
                m[v], m[:, v] = 0, 0
        ahead, behind = np.arange(n) == 0, np.arange(n) == n - 1
        for v in range(1, n):
            ahead[v] = m[ahead, v].any()
        for v in range(n - 2, -1, -1):
            behind[v] = m[v, behind].any()
        kept = [v for v in range(n) if v in (0, n - 1) or (ahead[v] and behind[v])]
        m = m[np.ix_(kept, kept)]
        return cls(tuple(names[v] for v in kept), tuple(tuple(int(e) for e in row) for row in m), join)

    @classmethod
    def from_edges(cls, edges: Mapping[tuple[int, int], str]) -> Cell:
        """A cell of states that sum their inputs: (from, to) -> operation; state 0 is the input, the largest the output."""
        states = max(b for _, b in edges) + 1
        names, at = ["input"], {0: 0}
        links: list[tuple[int, int]] = []
        for b in range(1, states):
            into = [(a, operation) for (a, to), operation in sorted(edges.items()) if to == b]
            first = len(names)
            names += [operation for _, operation in into] + ["sum"]
            at[b] = len(names) - 1
            links += [(at[a], first + i) for i, (a, _) in enumerate(into)] + [(first + i, at[b]) for i in range(len(into))]
        counts = np.zeros((len(names), len(names)), np.int64)
        for u, v in links:
            counts[u, v] += 1
        return cls.reduced(names, counts)

    @classmethod
    def parse(cls, text: str) -> Cell:
        """Read ``|op~0|+|op~0|op~1|`` (NAS-Bench-201), or JSON: ``operations`` with ``adjacency`` or ``edges``, or ``edge_ops``.

        JSON: ``{"operations": ["input", ..., "output"], "edges": [[0, 1], ...], "join": "sum"}``, with ``adjacency`` (rows)
        instead of ``edges`` where that is at hand, or ``{"edge_ops": {"0-1": "conv3x3", ...}}``.

        Raises:
            DataError: neither of these.
        """
        text = text.strip()
        if text.startswith("|") and "~" in text:
            groups = [_EDGES.findall(part) for part in re.split(r"\|\+\|", text)]
            return cls.from_edges({(int(a), b + 1): operation for b, group in enumerate(groups) for operation, a in group})
        try:
            graph = json.loads(text)
            if "edge_ops" in graph:
                ends = {tuple(int(i) for i in key.split("-")): operation for key, operation in graph["edge_ops"].items()}
                return cls.from_edges({(a, b): operation for (a, b), operation in ends.items()})
            names = graph["operations"]
            counts = np.zeros((len(names), len(names)), np.int64) if "edges" in graph else np.array(graph["adjacency"])
            for u, v in graph.get("edges", ()):
                counts[u, v] += 1
            return cls.reduced(names, counts, graph.get("join", "sum"))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            ask = "Give |op~0|+|op~0|op~1|, or a JSON graph with 'operations' and 'edges' or 'adjacency', or with 'edge_ops'."
            raise DataError(f"{text[:60]!r} is not a cell ({error!r}). {ask}") from error

    def neighbours(self, v: int, ahead: bool) -> list[tuple[int, int]]:
        """(node, number of edges) of the successors of `v`, or of its predecessors."""
        row = self.counts[v] if ahead else [r[v] for r in self.counts]
        return [(u, c) for u, c in enumerate(row) if c]

    def refinements(self, ahead: bool, behind: bool) -> Iterator[list[str]]:
        """Labels of the nodes after 1, 2, ... rounds in which each takes in the labels of its neighbours."""
        sides = [s for s, wanted in ((True, ahead), (False, behind)) if wanted]
        near = [[self.neighbours(v, side) for side in sides] for v in range(len(self.operations))]
        labels = list(self.operations)
        while True:
            labels = [
                _label(labels[v], *(tuple(sorted((labels[u], c) for u, c in side)) for side in near[v])) for v in range(len(near))
            ]
            yield labels

    @cached_property
    def key(self) -> str:
        """Equal for isomorphic cells."""
        for rounds, labels in enumerate(self.refinements(True, True), 2):
            if rounds >= len(self.operations):
                return _label(self.join, *sorted(labels))
        raise AssertionError

    def words(self, rounds: int = 2) -> dict[str, int]:
        """How often each label occurs: operations, and `rounds` of refinement along the edges and against them."""
        found: dict[str, int] = {}
        ahead, behind = self.refinements(True, False), self.refinements(False, True)
        for labels in [list(self.operations), *(next(side) for _ in range(rounds) for side in (ahead, behind))]:
            for label in labels:
                found[label] = found.get(label, 0) + 1
        return found
