"""Plan: how a float graph falls into integer steps.

A *step* is one operation with the per-channel affine chain and the clip that follow it; it reads code tensors and writes
one. Training with simulated quantisation and the integer graph read the same plan, so that what is trained is what runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from netwright.core.errors import Unsupported
from netwright.core.graph import ACTIVATIONS, VIEWS, Graph, Node
from netwright.design.execute import RUN

CLIPS = frozenset({"relu", "relu6", "hardtanh"})
ON_CODES = frozenset({"max_pool2d", "reshape", "slice", "permute"})  # act on codes as on values
ARITHMETIC = frozenset({"add", "sub", "mul", "div"})
POINTWISE = ACTIVATIONS
WEIGHTED = frozenset({"conv2d", "linear"})
RUNS = frozenset(RUN) | {"input", "batch_norm"}
WHO = "The integer form"


@dataclass(frozen=True)
class Step:
    """`head` and what is fused behind it; `end` is the node whose output the step writes."""

    head: Node
    chain: tuple[Node, ...] = ()

    @property
    def end(self) -> Node:
        return self.chain[-1] if self.chain else self.head

    @property
    def clip(self) -> Node | None:
        return self.end if self.chain and self.end.op in CLIPS else None

    @property
    def affine(self) -> tuple[Node, ...]:
        """The nodes whose composition is ``a[c] * x + b[c]``; the head too where it is one of them."""
        heavy = self.head.op in WEIGHTED or is_product(self.head)
        return tuple(n for n in (self.chain if heavy else (self.head, *self.chain)) if n.op not in CLIPS)

    @property
    def prelu(self) -> int | None:
        """Where in `affine` a prelu stands, if there is one."""
        return next((i for i, n in enumerate(self.affine) if n.op == "prelu"), None)


@dataclass(frozen=True)
class Plan:
    """Steps in execution order; `root` maps every code tensor to the node whose range it shares; `positive` nodes are >= 0.

    `finals` maps the end of each weighted step whose 32-bit sums become floats (an output, or what float nodes read) to the
    node that holds those floats. `floats` are the nodes that stay in float; each is a step of its own.
    """

    graph: Graph
    steps: tuple[Step, ...]
    root: dict[str, str]
    positive: frozenset[str]
    finals: dict[str, str]
    floats: frozenset[str] = frozenset()

    @property
    def points(self) -> dict[str, bool]:
        """Nodes whose outputs are quantised at a range of their own -> signed."""
        return {r: r not in self.positive for r in dict.fromkeys(self.root.values())}


def merge_pads(graph: Graph) -> Graph:
    """Zero padding in front of convolutions becomes their own."""
    readers = graph.consumers()
    merged = {
        n.name: n
        for n in graph
        if n.op == "pad" and n.attrs.get("value", 0.0) == 0 and len(n.attrs["pad"]) <= 4 and n.name not in graph.outputs
        and all(r.op == "conv2d" for r in readers[n.name])
    }  # fmt: skip
    nodes = []
    for node in graph:
        if node.name in merged:
            continue
        if node.inputs and (pad := merged.get(node.inputs[0])):
            left, right, top, bottom = [*pad.attrs["pad"], 0, 0, 0, 0][:4]
            pads = [a + b for a, b in zip(node.attrs["pads"], (top, left, bottom, right), strict=True)]
            node = replace(node, inputs=pad.inputs, attrs={**node.attrs, "pads": pads})
        nodes.append(node)
    return graph.replace(nodes)


def as_tokens(graph: Graph) -> Graph:
    """Linear layers on feature maps [N, H, W, C] read tokens [N, H*W, C], so that channels are where integer operators look."""
    nodes: list[Node] = []
    renamed: dict[str, str] = {}
    for node in graph:
        node = graph.rename_inputs(node, renamed)
        if node.op != "linear" or len(node.spec.shape) < 4:
            nodes.append(node)
            continue
        n, *middle, out = node.spec.shape
        count, features = math.prod(middle), graph.params[node.weights["weight"]].shape[1]
        before, after = f"{node.name}_tokens", f"{node.name}_map"
        nodes += [
            Node(before, "reshape", node.inputs, replace(node.spec, shape=(n, count, features)), path=node.path),
            replace(node, inputs=(before,), spec=replace(node.spec, shape=(n, count, out))),
            Node(after, "reshape", (node.name,), node.spec, path=node.path),
        ]
        renamed[node.name] = after
    return graph.replace(nodes, [renamed.get(o, o) for o in graph.outputs])


def channel_axis(rank: int) -> int:
    """Where the channels of a tensor stand: axis 1 of images, else the last, as for the integer operators."""
    return 1 if rank == 4 else rank - 1


def channels(node: Node) -> int:
    """Number of channels of what a node writes."""
    return node.spec.shape[channel_axis(len(node.spec.shape))]


def per_channel(graph: Graph, node: Node) -> np.ndarray | None:
    """The constant operand of an arithmetic node as a scalar or a vector [C] along the channels; None if it is neither."""
    if "other" not in node.weights:
        return np.asarray(node.attrs["scalar"], np.float64) if "scalar" in node.attrs else None
    value = np.asarray(graph.values[node.weights["other"]], np.float64)
    rank = len(node.spec.shape)
    if value.size == 1:
        return value.reshape(())
    shape = (1,) * (rank - value.ndim) + value.shape
    wanted = [1] * rank
    wanted[channel_axis(rank)] = channels(node)
    return value.reshape(-1) if rank > 1 and list(shape) == wanted else None


def is_affine(graph: Graph, node: Node) -> bool:
    """A node that computes ``a[c]*x + b[c]`` with constants."""
    if node.op in ("batch_norm", "affine"):
        return True
    if node.op not in ARITHMETIC or len(node.inputs) != 1 or (node.op == "div" and node.attrs.get("reverse")):
        return False
    return per_channel(graph, node) is not None


def affine_of(graph: Graph, node: Node) -> tuple[np.ndarray, np.ndarray]:
    """(a, b) of an affine node, float64, scalars or [C]; batch norm: ``a = gamma/sqrt(var+eps), b = beta - a*mean``."""
    one, zero = np.float64(1.0), np.float64(0.0)
    if node.op == "batch_norm":
        value = {role: np.asarray(graph.values[key], np.float64) for role, key in node.weights.items()}
        a = value.get("weight", one) / np.sqrt(value["var"] + node.attrs["eps"])
        return np.asarray(a), np.asarray(value.get("bias", zero) - a * value["mean"])
    if node.op == "affine":
        return graph.value(node, "scale").astype(np.float64).reshape(-1), graph.value(node, "bias").astype(np.float64).reshape(-1)
    c = per_channel(graph, node)
    assert c is not None
    reverse = node.attrs.get("reverse", False)
    if node.op == "div":
        return np.asarray(1 / c), np.asarray(zero)
    a, b = {"add": (one, c), "sub": (-one, c) if reverse else (one, -c), "mul": (c, zero)}[node.op]
    return np.asarray(a), np.asarray(b)


def compose(graph: Graph, nodes: tuple[Node, ...], count: int) -> tuple[np.ndarray, np.ndarray]:
    """``a[c]*x + b[c]`` of a chain of affine nodes, float64 [count]."""
    a, b = np.ones(count), np.zeros(count)
    for node in nodes:
        ka, kb = affine_of(graph, node)
        a, b = a * ka, b * ka + kb
    return a, b


def is_product(node: Node) -> bool:
    """A product of two computed tensors in whole numbers: of the signs of both, or of their codes, as its attribute says."""
    return node.op == "matmul" and "product" in node.attrs


def sums_of(graph: Graph) -> frozenset[str]:
    """Integer products and the constant factors behind them, which dequantising their sums multiplies with."""
    found: set[str] = set()
    readers = graph.consumers()
    for node in graph:
        behind = node.op == "mul" and is_affine(graph, node) and node.inputs[0] in found and len(readers[node.inputs[0]]) == 1
        if is_product(node) or behind:
            found.add(node.name)
    return frozenset(found)


def fuse(graph: Graph, floats: frozenset[str] = frozenset()) -> Iterator[Step]:
    """Each node with the affine chain and the clip that only it feeds; nodes of `floats` stand alone."""
    readers = graph.consumers()
    taken: set[str] = set()
    for node in graph:
        if node.name in taken:
            continue
        chain: list[Node] = []
        affine = node.op in WEIGHTED | {"prelu"} or is_affine(graph, node) or is_product(node)
        clips = affine or (node.op in ("add", "sub", "mul") and len(node.inputs) == 2)
        at = node
        while len(readers[at.name]) == 1 and at.name not in graph.outputs and node.name not in floats:
            after = readers[at.name][0]
            if after.name in floats:
                break
            bends = after.op == "prelu" and is_affine(graph, node) and all(n.op != "prelu" for n in chain)
            if not bends and not (affine and is_affine(graph, after)) and not (clips and after.op in CLIPS):
                break
            chain.append(after)
            at = after
            if after.op in CLIPS:
                break
        taken.update(n.name for n in chain)
        yield Step(node, tuple(chain))


def positive(graph: Graph, input_positive: bool = False) -> frozenset[str]:
    """Nodes that are never negative, whatever the weights."""
    found: set[str] = set()
    for node in graph:
        sources = [i in found for i in node.inputs]
        if (
            node.op in ("relu", "relu6", "sigmoid", "hardsigmoid", "softmax")
            or (node.op == "hardtanh" and node.attrs["min"] >= 0)
            or (node.op == "input" and input_positive)
            or (node.op in ON_CODES | {"mean", "avg_pool2d", "cat"} and all(sources))
            or (node.op in ("add", "mul") and len(sources) == 2 and all(sources))
        ):
            found.add(node.name)
    return frozenset(found)


def _refusal(graph: Graph, node: Node) -> Unsupported | None:
    """Why a node cannot be taken, or None."""
    rank = len(node.spec.shape)
    table = "Use batch_norm for normalisation, relu, or another pointwise activation, or keep this network in float."

    def no(way_out: str = table, op: str = node.op) -> Unsupported:
        return Unsupported(WHO, op, node.path or node.name, way_out)

    if node.op == "mean":
        return None if tuple(node.attrs["dims"]) == (2, 3) else no("Only the mean over height and width is integer.")
    if node.op == "avg_pool2d":
        a = node.attrs
        exact = a.get("count_include_pad", True) or not any(a["padding"])
        return None if exact and not a.get("ceil") else no("Use count_include_pad=True and ceil_mode=False.")
    if node.op == "prelu":
        return None if rank in (2, 4) else no("prelu must act on [N, C] or [N, C, H, W].")
    if node.op == "batch_norm":
        return None if rank in (2, 4) else no("batch_norm must act on [N, C] or [N, C, H, W].")
    if node.op in ARITHMETIC:
        shapes = [graph[i].spec.shape for i in node.inputs]
        if is_affine(graph, node):
            return None
        if node.op in ("add", "sub") and len(shapes) == 2 and shapes[0] == shapes[1]:
            return None
        if node.op == "mul" and len(shapes) == 2 and (shapes[0] == node.spec.shape or shapes[1] == node.spec.shape):
            return None
        return no("Its operands must be two feature maps of one shape, or a feature map and a constant a channel.")
    if (node.op == "slice" and node.attrs["dim"] == 0) or (node.op == "permute" and node.attrs["dims"][0] != 0):
        return no("The batch axis must stay as it is.")
    if is_product(node):
        return None
    known = {"input", "conv2d", "linear", "cat"} | ({"affine"} if rank == 4 else set()) | ON_CODES | POINTWISE
    return None if node.op in known else no()


def refusals(graph: Graph) -> list[Unsupported]:
    """Every node that the integer form cannot take."""
    graph = as_tokens(merge_pads(graph))
    found = [e for n in graph if (e := _refusal(graph, n)) is not None]
    if len(graph.inputs) != 1:
        found.append(Unsupported(WHO, "several inputs", "", "Give a module with one input."))
    return found


def in_float(graph: Graph) -> frozenset[str]:
    """Nodes that stay in float: those without an integer form, what depends on them, and what only they read.

    Weighted layers and products are integer wherever they stand; codes are made in front of them. The sums of a product
    become floats.
    """
    refused = {n.name for n in graph if _refusal(graph, n) is not None}
    sums = sums_of(graph)
    if not refused and not sums:
        return frozenset()
    found: set[str] = set()
    whole = sums | {n.name for n in graph if n.op in WEIGHTED}
    for node in graph:
        if node.name in refused or (node.name not in whole and any(i in found or i in sums for i in node.inputs)):
            found.add(node.name)
    readers = graph.consumers()
    for node in reversed(graph.nodes):
        reads = [r.name in found for r in readers[node.name]]
        only = any(reads) if node.op == "input" else all(reads)
        if node.name not in whole and only:
            found.add(node.name)
    return frozenset(found)


def kept(graph: Graph) -> dict[str, str]:
    """Why nodes that compute something stay in float: name -> reason. Views and constants are not among them."""
    graph = as_tokens(merge_pads(graph))
    refused = {n.name for n in graph if _refusal(graph, n) is not None}
    return {
        n.name: "It has no integer form." if n.name in refused else "It stands between operations in float."
        for n in graph
        if n.name in in_float(graph) and n.op not in VIEWS
    }


def _enter(graph: Graph, floats: frozenset[str]) -> Graph:
    """A node of its own for the codes of every float tensor that an integer node reads."""
    sums = sums_of(graph)
    fused = {n.name for n in graph if n.name in sums and n.inputs[0] in sums and not is_product(n)}
    entries: dict[str, str] = {}
    nodes: list[Node] = []
    taken = {n.name for n in graph}
    by_name = graph.by_name
    for node in graph:
        if node.name not in floats and node.name not in fused:
            for source in node.inputs:
                if source in floats | sums and source not in entries:
                    name = f"{source}_codes"
                    while name in taken:
                        name += "_"
                    taken.add(name)
                    entries[source] = name
                    like = by_name[source]
                    nodes.append(Node(name, "reshape", (source,), like.spec, path=node.path))
            node = graph.rename_inputs(node, entries)
        nodes.append(node)
    return graph.replace(nodes)


def _finals(graph: Graph, steps: tuple[Step, ...], floats: frozenset[str]) -> dict[str, str]:
    """Steps whose sums become floats: products; weighted ones that float nodes alone read, or an output, perhaps reshaped."""
    ends, readers = {s.end.name: s for s in steps if s.head.op in WEIGHTED and s.clip is None}, graph.consumers()
    found = {}
    for name in graph.outputs:
        out = source = graph[name]
        if out.op == "reshape" and (before := graph[out.inputs[0]]).spec.shape[:2] == (*out.spec.shape[:1], out.spec.elements):
            source = before if len(readers[before.name]) == 1 and before.name not in graph.outputs else out
        if source.name in ends and name not in floats and all(r.name in floats for r in readers[name]):
            found[source.name] = name
    for name in ends:
        if readers[name] and all(r.name in floats for r in readers[name]):
            found[name] = name
    return found | {s.end.name: s.end.name for s in steps if is_product(s.head)}


def plan(graph: Graph, input_positive: bool = False) -> Plan:
    """The steps of a float graph. What has no integer form stays in float (`kept` says why).

    Raises:
        Unsupported: no weighted layer at all, several inputs, or an operation that cannot be carried out in float either.
    """
    graph = as_tokens(merge_pads(graph))
    if len(graph.inputs) != 1:
        raise Unsupported(WHO, "several inputs", "", "Give a module with one input.")
    if strange := [n for n in graph if n.op not in RUNS]:
        raise Unsupported(
            WHO, strange[0].op, strange[0].origin, "Nor can it stay in float: replace the module by known operations."
        )
    if not any(n.op in WEIGHTED for n in graph):
        first = next((e for n in graph if (e := _refusal(graph, n)) is not None), None)
        raise first or Unsupported(WHO, "no layer with weights", "", "Give a network with a convolution or a linear layer.")
    floats = in_float(graph)
    graph = _enter(graph, floats)
    steps = tuple(fuse(graph, floats))
    readers, ends = graph.consumers(), {s.end.name: s for s in steps}
    root: dict[str, str] = {}
    for step in steps:
        name = step.end.name
        if name not in floats and not is_product(step.head):
            root[name] = root.get(step.head.inputs[0], name) if step.head.op in ON_CODES else name
    for step in steps:
        if step.head.op == "cat" and step.head.name not in floats:
            for source in step.head.inputs:  # what only a concatenation reads is written at its range at once
                if source in ends and root[source] == source and len(readers[source]) == 1:
                    root[source] = step.end.name
    for name in root:
        while root[root[name]] != root[name]:
            root[name] = root[root[name]]
    finals = _finals(graph, steps, floats)
    for name in (*finals, *finals.values()):
        root.pop(name, None)
    return Plan(graph, steps, root, positive(graph, input_positive), finals, floats)
