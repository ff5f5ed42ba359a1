"""Memory over one inference: which tensors are alive while each operation runs.

    live(i) = the tensors written at or before operation i that operation i, a later one or the caller reads
    peak    = max over i of  sum over live(i) of bytes

Activations only, at batch 1 and at their own bit width; weights and constants lie elsewhere (``weight_bytes``). A view keeps
its source alive and adds nothing. No buffer is written in place and none is split, so an engine that overwrites an
activation function's input, or one that fuses operations, stays below; an allocator that cannot move tensors stays above.
"""

from __future__ import annotations

from dataclasses import dataclass

from netwright.core.graph import VIEWS, Graph


@dataclass(frozen=True)
class Moment:
    """While `node` (of module `path`) runs: bytes alive, and the bytes of each living tensor, the largest first."""

    node: str
    op: str
    path: str
    bytes: int
    live: tuple[tuple[str, int], ...]


def timeline(graph: Graph) -> list[Moment]:
    """One moment an operation, views and constants left out; the largest `bytes` is `Graph.peak_bytes`."""
    owner: dict[str, str] = {}
    last: dict[str, int] = {}
    for i, node in enumerate(graph):
        owner[node.name] = owner[node.inputs[0]] if node.op in VIEWS and node.inputs else node.name
        last.update({owner[source]: i for source in node.inputs})
        last.setdefault(owner[node.name], i)
    last.update({owner[name]: len(graph.nodes) for name in graph.outputs})
    size = {n.name: n.spec.bytes for n in graph if n.op != "constant" and owner[n.name] == n.name}
    moments, live = [], dict[str, int]()
    for i, node in enumerate(graph):
        if node.name in size:
            live[node.name] = size[node.name]
        if node.op not in VIEWS or node.op == "input":
            held = tuple(sorted(live.items(), key=lambda item: -item[1]))
            moments.append(Moment(node.name, node.op, node.path, sum(live.values()), held))
        live = {name: held for name, held in live.items() if last[name] > i}
    return moments


def peak(graph: Graph) -> Moment:
    """The moment of the largest need: what to shrink first."""
    return max(timeline(graph), key=lambda m: m.bytes)
