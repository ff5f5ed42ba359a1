"""Patches: a part of a network computed strip by strip, so that its large tensors never exist as a whole.

The first layers of a network for images, and the wide layers between tokens of a transformer, hold the peak of the arena. A
*segment* is a set of nodes of which only the last is read from outside; its output is made in strips of rows (of pixels, or
of tokens). For output rows [r0, r1) each node computes the rows that the strip needs,

    convolution and pooling:  [r0 s - p, (r1 - 1) s - p + (k - 1) d + 1),      everything else: [r0, r1),

cut at the border, where only then there is padding. Values are those of the whole network; rows that two strips need are
computed twice, which is reported. The strips are written where their concatenation lies.

Patches are from MCUNetV2 (Lin et al., 2021); MCUFormer uses them for the patch embedding and lets tokens overwrite each other
in wide layers, which strips of tokens do here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from netwright.core.errors import NetwrightError
from netwright.core.graph import ACTIVATIONS, Graph, Node
from netwright.core.paper import Paper

paper = Paper(
    "liang2023mcuformer", "MCUFormer: Deploying Vision Transformers on Microcontrollers with Limited Memory",
    "Liang, Yinan and Wang, Ziwei and Xu, Xiuwei and Tang, Yansong and Zhou, Jie and Lu, Jiwen", "NeurIPS", 2023,
    "https://arxiv.org/abs/2310.16898", "S053",
)  # fmt: skip

CONVOLUTIONS = frozenset({"conv2d", "qconv2d", "bconv2d"})
POOLS = frozenset({"max_pool2d", "avg_pool2d"})
ROWWISE = ACTIVATIONS | frozenset(
    "batch_norm affine prelu quantize dequantize requantize qprelu lut add sub mul div".split()
    + "maximum minimum qadd qmul abs sqrt exp".split()
)
TOKENS = ROWWISE - {"batch_norm", "affine", "prelu"} | {"linear", "qlinear", "layer_norm"}
MAKERS = frozenset("conv2d linear layer_norm add sub mul matmul sdpa gelu relu silu".split())  # their results are new tensors
STRIPS = (2, 3, 4, 6, 8, 12, 16)
LONGEST = 16  # nodes of a segment
Rows = tuple[int, int]


@dataclass(frozen=True)
class Segment:
    """Nodes first..last of a graph, by position; only `last` is read from outside."""

    first: int
    last: int


def _axis(node: Node) -> int:
    """The dimension of the rows: height of an image, or the number of the token."""
    return {4: 2, 3: 1}.get(len(node.spec.shape), -1)


def _local(graph: Graph, node: Node) -> bool:
    """Rows of the result come from rows of the inputs."""
    rank, axis = len(node.spec.shape), _axis(node)
    if axis < 0 or node.spec.shape[0] != 1 or node.spec.steps != 1 or len(graph[node.inputs[0]].spec.shape) != rank:
        return False
    if node.op in CONVOLUTIONS and rank == 4:
        return True
    if node.op in POOLS and rank == 4:
        return not node.attrs.get("ceil", False) and not any(node.attrs["padding"])
    if node.op not in (ROWWISE if rank == 4 else TOKENS) or (node.op == "layer_norm" and len(node.attrs["shape"]) != 1):
        return False
    shapes = [graph[i].spec.shape for i in node.inputs]
    constants = [graph.params[key].shape for role, key in node.weights.items() if role == "other"]
    along = [s[axis - rank] for s in constants if len(s) >= rank - axis]
    same = node.op in ("linear", "qlinear") or all(s == node.spec.shape for s in shapes)
    return same and all(n == 1 for n in along)


def segments(graph: Graph) -> Iterator[Segment]:
    """All segments of neighbouring nodes, the shortest last nodes first."""
    place = {n.name: i for i, n in enumerate(graph.nodes)}
    ends = [max([place[r.name] for r in readers], default=-1) for readers in graph.consumers().values()]
    ends = [len(graph.nodes) if n.name in graph.outputs else end for n, end in zip(graph.nodes, ends, strict=True)]
    local = [bool(n.inputs) and _local(graph, n) for n in graph.nodes]
    for last in range(len(graph.nodes)):
        first, furthest = last, -1
        while first >= 0 and local[first] and last - first < LONGEST:
            if first < last:
                furthest = max(furthest, ends[first])
            worth = first < last or graph.nodes[last].op in CONVOLUTIONS
            if worth and furthest <= last and _axis(graph.nodes[first]) == _axis(graph.nodes[last]):
                yield Segment(first, last)
            first -= 1


def _needs(node: Node, rows: Rows, height: int) -> tuple[Rows, int, int]:
    """Rows of the input that `rows` of the output need, and the rows of padding above and below them."""
    a = node.attrs
    if node.op in CONVOLUTIONS:
        top, kernel, dilation = a["pads"][0], a["kernel"], a["dilation"][0]
    elif node.op in POOLS:
        top, kernel, dilation = a["padding"][0], a["kernel"][0], 1
    else:
        return rows, 0, 0
    stride = a["stride"][0]
    start, stop = rows[0] * stride - top, (rows[1] - 1) * stride - top + (kernel - 1) * dilation + 1
    return (max(0, start), min(height, stop)), max(0, -start), max(0, stop - height)


class _Rewriter:
    """Writes the graph with one segment in strips."""

    def __init__(self, graph: Graph, segment: Segment, strips: int):
        self.graph, self.strips, self.by_name = graph, strips, graph.by_name
        self.inner = {n.name: n for n in graph.nodes[segment.first : segment.last + 1]}
        self.end = graph.nodes[segment.last]
        self.axis = _axis(self.end)
        self.nodes: list[Node] = []
        self.onto = self._overwritten()

    def _overwritten(self) -> str:
        """The tensor whose rows the strips may overwrite: the segment ends by adding to it, nothing else reads it, and no strip
        needs the rows of another. "" where there is none."""
        halo = any(n.op in CONVOLUTIONS | POOLS for n in self.inner.values())
        if halo or self.end.op != "add" or len(set(self.end.inputs)) != 2:
            return ""
        readers = self.graph.consumers()
        for name in self.end.inputs:
            alone = name not in self.graph.outputs and all(r.name in self.inner for r in readers[name])
            if alone and name not in self.inner and self.by_name[name].op in MAKERS:
                return name
        return ""

    def height(self, name: str) -> int:
        return self.by_name[name].spec.shape[self.axis]

    def kernel(self, node: Node) -> Node:
        """A convolution with the height of its kernel among its attributes."""
        if node.op not in CONVOLUTIONS:
            return node
        return replace(node, attrs={**node.attrs, "kernel": self.graph.params[node.weights["weight"]].shape[2]})

    def write(self) -> Graph:
        for node in self.graph:
            if node.name not in self.inner:
                self.nodes.append(node)
            elif node.name == self.end.name:
                total = self.height(node.name)
                bounds = [total * i // self.strips for i in range(self.strips + 1)]
                parts = [self.strip(i, (bounds[i], bounds[i + 1])) for i in range(self.strips)]
                attrs = {"dim": self.axis}
                self.nodes.append(Node(node.name, "cat", tuple(parts), node.spec, attrs, {}, 0, node.path, node.line))
        return self.graph.replace(self.nodes)

    def strip(self, number: int, rows: Rows) -> str:
        """The nodes of one strip; the name of its result."""
        wanted: dict[str, Rows] = {self.end.name: rows}
        for node in reversed(self.inner.values()):
            for source in node.inputs:
                need, _, _ = _needs(self.kernel(node), wanted[node.name], self.height(source))
                old = wanted.get(source, need)
                wanted[source] = (min(old[0], need[0]), max(old[1], need[1]))
        made: dict[tuple[str, Rows], str] = {}

        def rows_of(source: str, need: Rows) -> str:
            """The name of these rows of a tensor."""
            inside = source in self.inner
            if need == (wanted[source] if inside else (0, self.height(source))):
                return f"{source}@{number}" if inside else source
            if (source, need) not in made:
                start = wanted[source][0] if inside else 0
                name = f"{source}@{number}[{need[0]}:{need[1]}]"
                attrs = {"dim": self.axis, "start": need[0] - start, "end": need[1] - start, "step": 1}
                of = self.by_name[source]
                spec = replace(of.spec, shape=self.cut(of, need))
                self.nodes.append(Node(name, "slice", (rows_of(source, wanted[source]) if inside else source,), spec, attrs,
                                       {}, 0, of.path, of.line))  # fmt: skip
                made[source, need] = name
            return made[source, need]

        for node in self.inner.values():
            need, above, below = _needs(self.kernel(node), wanted[node.name], self.height(node.inputs[0]))
            inputs = tuple(rows_of(i, need) for i in node.inputs)
            attrs = dict(node.attrs)
            if node is self.end and self.onto:
                attrs["in_place"] = True
                inputs = tuple(sorted(inputs, key=lambda i: not i.startswith(f"{self.onto}@")))
            if node.op in CONVOLUTIONS:
                attrs["pads"] = [above, attrs["pads"][1], below, attrs["pads"][3]]
            shape = self.cut(node, wanted[node.name])
            macs = -(-node.macs * math.prod(shape) // node.spec.elements)
            spec = replace(node.spec, shape=shape)
            self.nodes.append(replace(node, name=f"{node.name}@{number}", inputs=inputs, attrs=attrs, spec=spec, macs=macs))
        return f"{self.end.name}@{number}"

    def cut(self, node: Node, rows: Rows) -> tuple[int, ...]:
        shape = list(node.spec.shape)
        shape[self.axis] = rows[1] - rows[0]
        return tuple(shape)


def in_strips(graph: Graph, segment: Segment, strips: int) -> Graph:
    """The same network with one segment in strips.

    Raises:
        NetwrightError: the segment's result has fewer rows than strips.
    """
    end = graph.nodes[segment.last]
    if end.spec.shape[_axis(end)] < strips:
        raise NetwrightError(f"{end.name} has {end.spec.shape[_axis(end)]} rows; it cannot be computed in {strips} strips.")
    return _Rewriter(graph, segment, strips).write()


def _frame(by_name: Mapping[str, Node], node: Node) -> int:
    """Bytes of the padded copy that a convolution makes of its input."""
    if node.op not in ("conv2d", "qconv2d") or not any(node.attrs["pads"]):
        return 0
    of, (top, left, bottom, right) = by_name[node.inputs[0]].spec, node.attrs["pads"]
    _, channels, height, width = of.shape
    return channels * (height + top + bottom) * (width + left + right) * of.bits // 8


def _peak(graph: Graph) -> tuple[int, int]:
    """Bytes alive at the busiest node, and its position: tensors, frames, and images turned to channels last. Modelled on what
    `emit` does."""
    readers, by_name = graph.consumers(), graph.by_name
    owner = {n.name: n.name for n in graph}
    for node in graph:
        onto = node.attrs.get("in_place") or (node.op in ACTIVATIONS and len(readers[node.inputs[0]]) == 1)
        together = node.op == "cat" and all(by_name[i].attrs.get("in_place") for i in node.inputs)
        view = node.op == "reshape" or (node.op == "slice" and by_name[node.inputs[0]].op != "input")
        if view or onto or together:
            owner[node.name] = owner[node.inputs[0]]
        elif node.op == "cat":
            owner |= dict.fromkeys(node.inputs, node.name)
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for i, node in enumerate(graph.nodes):
        for name in (node.name, *node.inputs):
            first.setdefault(owner[name], i)
            last[owner[name]] = i
    free = {n.name for n in graph if n.op == "constant"} | set(graph.outputs)
    size = {n.name: 0 if n.name in free else n.spec.bytes for n in graph}
    for node in graph:
        turned = len(node.spec.shape) == 4 and node.spec.shape[1] > 1
        if node.op == "input":
            size[node.name] *= turned and any(r.op != "slice" for r in readers[node.name])
        elif node.op == "slice" and by_name[node.inputs[0]].op == "input":
            size[node.name] *= 2 if turned else 1
    alive = [_frame(by_name, n) + sum(size[k] for k in first if first[k] <= i <= last[k]) for i, n in enumerate(graph.nodes)]
    most = max(alive)
    return most, alive.index(most)


@dataclass(frozen=True)
class Patched:
    """A network whose arena was made smaller: its graph, and the share of multiply-accumulates that it does twice."""

    graph: Graph
    repeated: float
    segments: Mapping[str, int]  # last node of each -> strips


def patched(graph: Graph, most_repeated: float = 0.3, rounds: int = 4) -> Patched:
    """Put the segments that hold the peak of memory into strips, one after another, while that makes the peak smaller.

    Args:
        graph: as `emit` takes it, folded already.
        most_repeated: largest share of multiply-accumulates that may be done twice.
        rounds: of the search; each puts one segment into strips.
    """
    macs, found = max(graph.macs, 1), dict[str, int]()
    for _ in range(rounds):
        peak, at = _peak(graph)
        best: tuple[int, int, Graph, str, int] | None = None
        for segment in segments(graph):
            if not segment.first <= at <= segment.last:
                continue
            for strips in STRIPS:
                end = graph.nodes[segment.last]
                if end.spec.shape[_axis(end)] < strips or "@" in end.name:
                    continue
                tried = in_strips(graph, segment, strips)
                if tried.macs > (1 + most_repeated) * macs:
                    continue
                score = (_peak(tried)[0], tried.macs)
                if best is None or score < best[:2]:
                    best = (*score, tried, end.name, strips)
        if best is None or best[0] > 0.97 * peak:  # not worth more calls
            break
        graph, found = best[2], {**found, best[3]: best[4]}
    return Patched(graph, graph.macs / macs - 1, found)
