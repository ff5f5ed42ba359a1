"""Layer dropping: residual branches whose output hardly differs from their input are left out.

    y = x + f(x):     importance = 1 - cos(x, y),  the mean over samples and positions of calibration data

The branches with the least importance are erased, y = x; attention layers are often among them. Nothing is trained.

Differs from the paper: any residual branch of the graph counts, those of convolutional networks too, as long as x and y
have the same shape and nothing else reads what lies inside the branch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.compress.calibrate import check
from netwright.compress.prune.pruner import Pruner
from netwright.core.errors import NetwrightError, UnknownName
from netwright.core.graph import Graph, Node
from netwright.core.paper import Paper
from netwright.design.execute import GraphModule

ATTENTION = frozenset({"sdpa", "softmax"})


@dataclass(frozen=True)
class Branch:
    """``total = source + f(source)``: names of the nodes; `inside` are those of f alone."""

    total: str
    source: str
    inside: frozenset[str]
    attention: bool


def branches(graph: Graph) -> list[Branch]:
    """The residual branches of a graph that can be left out, in order of execution."""
    by_name, readers = graph.by_name, graph.consumers()
    before: dict[str, set[str]] = {}
    for node in graph:
        before[node.name] = {node.name}.union(*(before[i] for i in node.inputs))
    found = []
    for node in graph:
        if node.op != "add" or len(node.inputs) != 2:
            continue
        for source, end in (node.inputs, node.inputs[::-1]):
            inside = before[end] - before[source]
            seen = {i for name in inside for i in by_name[name].inputs} - inside
            private = all(r.name in inside or r.name == node.name for name in inside for r in readers[name])
            alike = by_name[source].spec.shape == node.spec.shape
            if inside and source in before[end] and seen == {source} and private and alike and not inside & set(graph.outputs):
                kinds = {by_name[name].op for name in inside}
                found.append(Branch(node.name, source, frozenset(inside), bool(kinds & ATTENTION)))
    return found


def without(graph: Graph, branch: Branch) -> Graph:
    """The graph with ``total = source``."""
    gone, table = {branch.total, *branch.inside}, {branch.total: branch.source}
    nodes = [graph.rename_inputs(n, table) for n in graph if n.name not in gone]
    return graph.replace(nodes, [table.get(o, o) for o in graph.outputs])


@torch.no_grad()
def importance(graph: Graph, found: list[Branch], calibration: Tensor, batch: int = 64) -> dict[str, float]:
    """``1 - cos(x, y)`` of each branch, by the name of its sum: over the channels of each position, then the mean."""
    network = GraphModule(graph).eval()
    parts = [(len(x), _similarities(network, found, x)) for x in calibration.split(batch)]
    return {b.total: 1 - sum(n * part[b.total] for n, part in parts) / len(calibration) for b in found}


def _similarities(network: GraphModule, found: list[Branch], x: Tensor) -> dict[str, float]:
    source = {b.total: b.source for b in found}
    wanted, kept, similar = set(source.values()), dict[str, Tensor](), dict[str, float]()

    def visit(node: Node, out: Tensor) -> None:
        if node.name in source:
            axis = 1 if out.dim() == 4 else -1
            similar[node.name] = float(F.cosine_similarity(kept[source[node.name]], out, axis).mean())
        if node.name in wanted:
            kept[node.name] = out

    network(x, visit=visit)
    return similar


@dataclass(frozen=True)
class LayerDrop(Pruner):
    """Erases the residual branches that change their input least.

    Attributes:
        count: branches to erase; 0: the share `share` of those of the kind, rounded down.
        part: see `count`.
        kind: "attention", "other" (feed-forward and convolutional ones) or "all" (ranked together: joint layer drop).
    """

    count: int = 0
    part: float = 0.25
    kind: Literal["all", "attention", "other"] = "all"

    name: ClassVar[str] = "layer_drop"
    paper: ClassVar[Paper] = Paper(
        "he2024matters", "What Matters in Transformers? Not All Attention is Needed",
        "He, Shwai and Sun, Guoheng and Shen, Zheyu and Li, Ang", "arXiv", 2024, "https://arxiv.org/abs/2406.15786", "S153",
    )  # fmt: skip

    def __post_init__(self) -> None:
        self.share("part")
        if self.count < 0:
            raise NetwrightError(f"layer_drop was asked to erase count = {self.count} branches. Give 0 or more.")
        if self.kind not in ("all", "attention", "other"):
            raise UnknownName("kind of branch", self.kind, ["all", "attention", "other"])

    def finish(self, trainee: nn.Module, calibration: Tensor) -> GraphModule:
        """The network without the branches.

        Raises:
            NetwrightError: it has fewer branches of the kind than `count`.
        """
        check(calibration)
        assert isinstance(trainee, GraphModule)
        graph = trainee.to_graph()
        found = [b for b in branches(graph) if self.kind == "all" or b.attention == (self.kind == "attention")]
        count = self.count or int(self.part * len(found))
        if count > len(found):
            raise NetwrightError(
                f"layer_drop was asked to erase {count} residual branches of the kind {self.kind!r}; the network has "
                f"{len(found)}. Give count={len(found)} or less, or another kind."
            )
        scores = importance(graph, found, calibration)
        for branch in sorted(found, key=lambda b: scores[b.total])[:count]:
            present = {b.total: b for b in branches(graph)}  # a branch inside one that has gone is gone too
            if branch.total in present:
                graph = without(graph, present[branch.total])
        return GraphModule(graph).eval()
