"""Stitched: several trained networks and the layers that lead from one into the next; every way through is a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from netwright.compress.stitch.cuts import Cut, stages
from netwright.core.errors import DataError, NetwrightError
from netwright.core.graph import Graph, Node, Spec
from netwright.design.execute import GraphModule
from netwright.design.trace import trace

ROWS = 32768  # positions that a least-squares fit looks at


@dataclass(frozen=True)
class Stitch:
    """One way through: anchor `front` up to its node `leaves`, the stitching layer `layer`, anchor `end` behind its node
    `enters`. An anchor by itself has `front == end` and no layer."""

    front: int
    end: int
    leaves: str = ""
    enters: str = ""
    layer: str = ""


@dataclass(frozen=True)
class Seam:
    """A pair of cuts that a stitching layer joins; seams with the same `layer` share its weights."""

    front: int
    end: int
    leaves: Cut
    enters: Cut
    layer: str


Start = Callable[[Seam], tuple[Tensor, Tensor]]


def windows(front: int, end: int, kernel: int, stride: int) -> list[tuple[int, list[tuple[int, int]]]]:
    """Window number and its (front cut, end cut) pairs, for stages with `front` and `end` cuts.

    The window slides over the deeper stage; the cuts of the shallower one are repeated to its length (nearest from
    above: p * shallow // deep). A pair that lies in two windows belongs to the first.
    """
    depth = max(front, end)
    found: list[tuple[int, list[tuple[int, int]]]] = []
    seen: set[tuple[int, int]] = set()
    for number, start in enumerate(range(0, max(depth - kernel, 0) + 1, stride)):
        inside = range(start, min(start + kernel, depth))
        pairs = {(p * front // depth, q * end // depth) for p in inside for q in inside} - seen
        seen |= pairs
        if pairs:
            found.append((number, sorted(pairs)))
    return found


def seams(graphs: Sequence[Graph], kernel: int, stride: int) -> list[Seam]:
    """All seams between neighbours of `graphs`, which stand in the order of their MACs.

    Raises:
        NetwrightError: two neighbours are never cut at the same places.
    """
    found = []
    for i, (a, b) in enumerate(pairwise(graphs)):
        from_, to = stages(a), stages(b)
        common = [places for places in from_ if places in to]
        if not common:
            said = [", ".join("x".join(map(str, p)) or "one vector" for p in s) or "no cut" for s in (from_, to)]
            raise NetwrightError(
                f"Anchors {i} and {i + 1} cannot be stitched: everything flows through one tensor at {said[0]} in the one and at "
                f"{said[1]} in the other. Take networks of one family, traced with the same input, with stages of the same size."
            )
        for number, places in enumerate(common):
            for window, pairs in windows(len(from_[places]), len(to[places]), kernel, stride):
                layer = f"{i}-{i + 1}/{number}/{window}"
                found += [Seam(i, i + 1, from_[places][p], to[places][q], layer) for p, q in pairs]
    return found


def outputs(network: GraphModule, names: Sequence[str], x: Tensor) -> tuple[Any, dict[str, Tensor]]:
    """The result of a network and, by name, what some of its nodes gave on the way."""
    seen: dict[str, Tensor] = {}
    wanted = set(names)

    def visit(node: Node, out: Tensor) -> None:
        if node.name in wanted:
            seen[node.name] = out

    return network(x, visit=visit), seen


def rows(x: Tensor, axis: int) -> Tensor:
    """[N, ..., C, ...] -> [places of all examples, C], at most `ROWS` of them, evenly taken."""
    flat = x.movedim(axis, -1).flatten(0, -2)
    return flat[:: max(1, len(flat) // ROWS)]


def least_squares(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(W [O, I], bias [O]) with the smallest ||a W^T + bias - b||, for a [P, I] and b [P, O]: [W bias]^T = pinv([a 1]) b."""
    a, b = a.double(), b.double()
    a = torch.cat([a, torch.ones_like(a[:, :1])], 1)
    solution = torch.linalg.lstsq(a, b, driver="gelsd").solution  # also where channels are dead or the same
    return solution[:-1].T.float().contiguous(), solution[-1].float().contiguous()


@torch.no_grad()
def estimate(network: GraphModule, x: Tensor) -> None:
    """Set the batch statistics of a network to those of `x`, each with the batch's own statistics before it."""
    if not any(node.op == "batch_norm" for node in network.graph):
        return
    readers = network.graph.consumers()
    seen: list[tuple[Node, Tensor, Tensor]] = []

    def visit(node: Node, out: Tensor) -> None:
        for reader in readers[node.name]:
            if reader.op == "batch_norm":
                dims = [d for d in range(out.dim()) if d != 1]
                seen.append((reader, out.mean(dims), out.var(dims)))

    training = network.training
    network.train()
    network(x, visit=visit)
    network.train(training)
    for node, mean, var in seen:
        weights = network.weights(node)
        weights["mean"].copy_(mean)
        weights["var"].copy_(var)


class Stitched(nn.Module):
    """Anchors and stitching layers as one set of shared weights: [N, ...] -> logits.

    In training mode every call takes a way drawn at random (global generator), so that `train.fit` trains all ways
    together; ``fit(stitched, data, recipe, teacher=large)`` adds the distillation. In eval mode the way `active` is
    taken, at first the middle one by MACs. Parameters belong to this module and are shared by all ways; batch statistics
    belong to each way, are estimated on the calibration data and are no part of the state.

    Args:
        anchors: trained modules with the same input and output; they are copied and put in the order of their MACs.
        calibration: inputs [N, ...] of the training split, N >= 2.
        kernel, stride: of the window that slides over the cuts of a stage.
        start: Seam -> (weight [O, I], bias [O]) of its layer; layers of several seams start with the mean. Least squares
            on the calibration data when None.

    Raises:
        NetwrightError: fewer than two anchors, other outputs, or no common cut.
        DataError: too little calibration data.
        TraceError: an anchor cannot be traced.
    """

    def __init__(
        self, anchors: Sequence[nn.Module], calibration: Tensor, kernel: int = 2, stride: int = 1, start: Start | None = None
    ):
        super().__init__()
        if len(anchors) < 2:
            raise NetwrightError(f"Stitching joins at least two trained networks; got {len(anchors)}.")
        if kernel < 1 or stride < 1:
            raise NetwrightError(f"The window has kernel {kernel} and stride {stride}; both must be at least 1.")
        if len(calibration) < 2:
            raise DataError(f"Stitching layers are fitted to calibration data: {len(calibration)} inputs are too few, give 2.")
        self.graphs = sorted((trace(a, calibration[:1]) for a in anchors), key=lambda g: g.macs)
        shapes = {tuple(g[name].spec.shape for name in g.outputs) for g in self.graphs}
        if len(shapes) > 1:
            raise NetwrightError(f"The anchors must have outputs of one shape to share a head's task; found {sorted(shapes)}.")
        self.calibration = calibration.detach()
        self._networks: dict[Stitch, GraphModule] = {}  # no submodules: their parameters are this module's
        for i in range(len(self.graphs)):
            self._add(Stitch(i, i), self._alone(i), {})
        found = seams(self.graphs, kernel, stride)
        layers = self._layers(found, start or self._fitted(found))
        for seam in found:
            stitch = Stitch(seam.front, seam.end, seam.leaves.node, seam.enters.node, seam.layer)
            graph = self._joined(seam)
            if graph.macs < self.graphs[seam.end].macs:  # a way that costs more than the anchor it leads to serves nobody
                self._add(stitch, graph, layers)
        self._order = sorted(self._networks, key=self.macs)
        self._active = self._order[len(self._order) // 2]
        for network in self._networks.values():
            estimate(network, self.calibration)

    def stitches(self) -> list[Stitch]:
        """All ways, the anchors among them, in the order of their MACs."""
        return list(self._order)

    def macs(self, stitch: Stitch) -> int:
        """Multiply-accumulates of one pass at batch 1."""
        return self._way(stitch).graph.macs

    def network(self, stitch: Stitch) -> GraphModule:
        """The network of one way, in eval mode, with batch statistics of the present weights.

        It shares its parameters with all others; ``to_graph()`` and `trace` give a copy that can be deployed.

        Raises:
            NetwrightError: a way that this object does not have.
        """
        network = self._way(stitch)
        estimate(network, self.calibration)
        return network.eval()

    @property
    def active(self) -> Stitch:
        """The way that is taken in eval mode; setting it brings its batch statistics up to the present weights."""
        return self._active

    @active.setter
    def active(self, stitch: Stitch) -> None:
        estimate(self._way(stitch), self.calibration)
        self._active = stitch

    def forward(self, x: Tensor) -> Any:
        chosen = self._order[int(torch.randint(len(self._order), ()))] if self.training else self.active
        return self._way(chosen).train(self.training)(x)

    def train(self, mode: bool = True) -> Stitched:
        super().train(mode)
        if not mode:
            self.active = self._active
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Stitched:
        super()._apply(fn, recurse)
        self.calibration = fn(self.calibration)
        for network in self._networks.values():
            network._apply(fn)
            self._tie(network)
        return self

    def _way(self, stitch: Stitch) -> GraphModule:
        if stitch not in self._networks:
            raise NetwrightError(f"There is no way {stitch}; `stitches()` lists the {len(self._networks)} there are.")
        return self._networks[stitch]

    def _add(self, stitch: Stitch, graph: Graph, values: Mapping[str, Any]) -> None:
        known: dict[str, Any] = {}
        for i in {stitch.front, stitch.end}:
            known |= {f"anchor{i}.{key}": value for key, value in self.graphs[i].values.items()}
        network = GraphModule(graph.replace(graph.nodes, values={**known, **values}))
        self._tie(network)
        self._networks[stitch] = network

    def _tie(self, network: GraphModule) -> None:
        """Give a network this module's parameters; one that is new here becomes this module's."""
        for name, parameter in list(network.named_parameters()):
            if name in self._parameters:
                network.register_parameter(name, self._parameters[name])
            else:
                self.register_parameter(name, parameter)

    def _part(self, i: int, nodes: Sequence[Node], prefix: str = "", table: Mapping[str, str] | None = None) -> list[Node]:
        """Nodes of anchor i under names of their own; `table` renames what they read."""
        names = {n.name: prefix + n.name for n in self.graphs[i]} | dict(table or {})
        return [
            replace(
                n,
                name=prefix + n.name,
                inputs=tuple(names[s] for s in n.inputs),
                weights={role: f"anchor{i}.{key}" for role, key in n.weights.items()},
            )
            for n in nodes
        ]

    def _params(self, *indices: int) -> dict[str, Spec]:
        return {f"anchor{i}.{key}": spec for i in indices for key, spec in self.graphs[i].params.items()}

    def _alone(self, i: int) -> Graph:
        return Graph(tuple(self._part(i, self.graphs[i].nodes)), self.graphs[i].outputs, self._params(i))

    def _joined(self, seam: Seam) -> Graph:
        a, b = self.graphs[seam.front], self.graphs[seam.end]
        front = self._part(seam.front, _needed(a, (seam.leaves.node,), ""), "front_")
        channels, axis, shape = seam.enters.channels, seam.leaves.axis, list(seam.leaves.shape)
        shape[axis] = channels
        conv = axis == 1 and len(shape) == 4
        size = (channels, seam.leaves.channels, 1, 1) if conv else (channels, seam.leaves.channels)
        weights = {"weight": f"stitch.{seam.layer}.weight", "bias": f"stitch.{seam.layer}.bias"}
        attrs = {"stride": [1, 1], "pads": [0, 0, 0, 0], "dilation": [1, 1], "groups": 1} if conv else {}
        spec = Spec(tuple(shape))
        macs = spec.elements * seam.leaves.channels
        layer = Node(
            "stitch", "conv2d" if conv else "linear", ("front_" + seam.leaves.node,), spec, attrs, weights, macs, "stitch"
        )
        joint, nodes = layer, [layer]
        if axis != seam.enters.axis:  # one family writes channels first, the other last
            dims = [0, 2, 3, 1] if conv else [0, 3, 1, 2]
            joint = Node("stitch_turned", "permute", (layer.name,), Spec(seam.enters.shape), {"dims": dims}, path="stitch")
            nodes = [layer, joint]
        rest = [n for n in _needed(b, b.outputs, seam.enters.node) if n.name != seam.enters.node]
        end = self._part(seam.end, rest, "end_", {seam.enters.node: joint.name})
        params = self._params(seam.front, seam.end) | {weights["weight"]: Spec(size), weights["bias"]: Spec((channels,))}
        graph = Graph((*front, *nodes, *end), tuple("end_" + name for name in b.outputs), params)
        return graph.replace(graph.nodes)

    def _fitted(self, found: Sequence[Seam]) -> Start:
        """Least squares between what the two anchors compute at a seam's cuts."""
        wanted = [{s.leaves.node for s in found if s.front == i} | {s.enters.node for s in found if s.end == i}
                  for i in range(len(self.graphs))]  # fmt: skip
        with torch.no_grad():
            seen = [
                outputs(self._networks[Stitch(i, i)].eval(), sorted(names), self.calibration)[1] for i, names in enumerate(wanted)
            ]

        def start(seam: Seam) -> tuple[Tensor, Tensor]:
            a = rows(seen[seam.front][seam.leaves.node], seam.leaves.axis)
            return least_squares(a, rows(seen[seam.end][seam.enters.node], seam.enters.axis))

        return start

    @staticmethod
    def _layers(found: Sequence[Seam], start: Start) -> dict[str, Any]:
        """Values of the stitching layers, the mean over the seams of each."""
        values: dict[str, Any] = {}
        for layer in dict.fromkeys(s.layer for s in found):
            own = [s for s in found if s.layer == layer]
            weights, biases = zip(*(start(s) for s in own), strict=True)
            weight = torch.stack(weights).mean(0)
            if own[0].leaves.axis == 1 and len(own[0].leaves.shape) == 4:
                weight = weight[:, :, None, None]
            values[f"stitch.{layer}.weight"] = weight.numpy()
            values[f"stitch.{layer}.bias"] = torch.stack(biases).mean(0).numpy()
        return values


def _needed(graph: Graph, names: Sequence[str], stop: str) -> list[Node]:
    """The nodes that `names` come from, without what lies before `stop`, in execution order."""
    wanted = set(names)
    for node in reversed(graph.nodes):
        if node.name in wanted and node.name != stop:
            wanted.update(node.inputs)
    return [n for n in graph if n.name in wanted]
