"""Fuse: what a layer does at its end, before its result is stored.

A residual block's addition and rectifier happen in registers: the sum never travels to memory and back. Whole blocks in one
kernel (Lavin's block fusion) go further; here the layers of a block are kernels of their own, and what stands between them is
fused.
"""

from __future__ import annotations

from dataclasses import dataclass

from netwright.core.graph import Graph, Node
from netwright.core.paper import Paper
from netwright.deploy.c99.gates import find_gates

paper = Paper(
    "lavin2024efficiency", "On the Efficiency of Convolutional Neural Networks", "Lavin, Andrew", "arXiv", 2024,
    "https://arxiv.org/abs/2404.03617", "S057",
)  # fmt: skip


@dataclass(frozen=True)
class Fusion:
    """What a convolution does at its end: adds the tensor `residual`, then a rectifier; its result is `output`. Channels whose
    `gate` is zero are zero instead, and are not computed."""

    output: str
    residual: str | None = None
    relu: bool = False
    gate: str | None = None


def find_fusions(graph: Graph) -> dict[str, Fusion]:
    """Convolutions and linear layers whose only reader is an addition of an earlier tensor, or a rectifier, or that have a gate
    that is known before them."""
    gates, readers, place = find_gates(graph), graph.consumers(), {n.name: i for i, n in enumerate(graph.nodes)}
    taken: set[str] = set()  # additions and rectifiers that belong to a layer already

    def only_reader(end: Node) -> Node | None:
        after = readers[end.name]
        free = len(after) == 1 and end.name not in graph.outputs and after[0].name not in taken
        return after[0] if free else None

    found: dict[str, Fusion] = {}
    for node in graph:
        after = only_reader(node)
        if node.op in ("qconv2d", "bconv2d") and after is not None and after.op == "qadd":
            other = _added_codes(graph, node, after)
            if other and place[other] < place[node.name]:
                found[node.name] = Fusion(after.name, other)
                taken.add(after.name)
        if node.op not in ("conv2d", "linear") or (node.op == "conv2d" and node.spec.shape[0] != 1):
            continue
        end, residual, relu, gate = node, None, False, None
        if after is not None and after.op == "add" and len(set(after.inputs)) == 2 and not after.attrs.get("in_place"):
            other = next(i for i in after.inputs if i != end.name)
            if graph[other].spec.shape == node.spec.shape and place[other] < place[node.name]:
                residual, end = other, after
                taken.add(end.name)
                after = only_reader(end)
        if after is not None and after.op == "relu":
            relu, end = True, after
            taken.add(end.name)
        if node.name in gates and place[gates[node.name][1]] < place[node.name]:
            product, gate = gates[node.name]
            after = only_reader(end)
            if after is not None and after.name == product:  # else the multiplication stays, behind what is in between
                end = after
        if end is not node or gate:
            found[node.name] = Fusion(end.name, residual, relu, gate)
    return found


def _added_codes(graph: Graph, node: Node, end: Node) -> str | None:
    """The other summand of an addition of codes that a convolution can do at its end in 32 bits."""
    others = [i for i in end.inputs if i != node.name]
    if len(others) != 1 or "mult" not in node.weights or graph.value(node, "weight").shape[1] == 1:
        return None
    other, a = graph[others[0]], end.attrs
    factors = (a["ma"], a["mb"]) if end.inputs[0] == node.name else (a["mb"], a["ma"])
    codes = max(abs(node.attrs["lo"]), abs(node.attrs["hi"]), 1)
    fits = codes * abs(factors[0]) + 255 * abs(factors[1]) + 2 ** (a["shift"] - 1) < 2**31 and a["shift"] < 32
    return other.name if fits and other.spec.shape == node.spec.shape and other.spec.bits == 8 else None


def between(graph: Graph, start: str, end: str) -> set[str]:
    """Nodes after `start` on its single path to `end`."""
    readers, found, name = graph.consumers(), set(), start
    while name != end:
        name = readers[name][0].name
        found.add(name)
    return found
