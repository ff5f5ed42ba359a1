"""Plan: how a float graph falls into integer steps.

A *step* is one operation with the per-channel affine chain and the clip that follow it; it reads code tensors and writes
one. Training with simulated quantisation and the integer graph read the same plan, so that what is trained is what runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from netwright.core.errors import Unsupported
from netwright.core.graph import ACTIVATIONS, Graph, Node

CLIPS = frozenset({"relu", "relu6", "hardtanh"})
ON_CODES = frozenset({"max_pool2d", "reshape", "slice", "permute"})  # act on codes as on values
ARITHMETIC = frozenset({"add", "sub", "mul", "div"})
POINTWISE = ACTIVATIONS
WEIGHTED = frozenset({"conv2d", "linear"})
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
        return tuple(n for n in ((self.head, *self.chain) if self.head.op not in WEIGHTED else self.chain) if n.op not in CLIPS)


@dataclass(frozen=True)
class Plan:
    """Steps in execution order; `root` maps every code tensor to the node whose range it shares; `positive` nodes are >= 0.

    `finals` maps the end of each weighted step whose 32-bit sums are an output to that output. `tail` are the nodes behind the
    outputs of `graph` that stay in float: conditions, on which a dynamic network decides; `outputs` are those of both.
    """

    graph: Graph
    steps: tuple[Step, ...]
    root: dict[str, str]
    positive: frozenset[str]
    finals: dict[str, str]
    tail: tuple[Node, ...] = ()
    outputs: tuple[str, ...] = ()

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


def per_channel(graph: Graph, node: Node) -> np.ndarray | None:
    """The constant operand of an arithmetic node as a scalar or a vector [C] along axis 1; None if it is neither."""
    if "other" not in node.weights:
        return np.asarray(node.attrs["scalar"], np.float64) if "scalar" in node.attrs else None
    value = np.asarray(graph.values[node.weights["other"]], np.float64)
    rank, channels = len(node.spec.shape), node.spec.shape[1] if len(node.spec.shape) > 1 else 0
    if value.size == 1:
        return value.reshape(())
    shape = (1,) * (rank - value.ndim) + value.shape
    return value.reshape(-1) if len(shape) == rank and shape == (1, channels, *[1] * (rank - 2)) else None


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
    table = {"add": (one, c), "sub": (-one, c) if reverse else (one, -c), "mul": (c, zero), "div": (1 / c, zero)}
    a, b = table[node.op]
    return np.asarray(a), np.asarray(b)


def compose(graph: Graph, nodes: tuple[Node, ...], channels: int) -> tuple[np.ndarray, np.ndarray]:
    """``a[c]*x + b[c]`` of a chain of affine nodes, float64 [channels]."""
    a, b = np.ones(channels), np.zeros(channels)
    for node in nodes:
        ka, kb = affine_of(graph, node)
        a, b = a * ka, b * ka + kb
    return a, b


def fuse(graph: Graph) -> Iterator[Step]:
    """Each node with the affine chain and the clip that only it feeds."""
    readers = graph.consumers()
    taken: set[str] = set()
    for node in graph:
        if node.name in taken:
            continue
        chain: list[Node] = []
        affine = node.op in WEIGHTED or is_affine(graph, node)
        clips = affine or (node.op in ("add", "sub", "mul") and len(node.inputs) == 2)
        at = node
        while len(readers[at.name]) == 1 and at.name not in graph.outputs:
            after = readers[at.name][0]
            if not (affine and is_affine(graph, after)) and not (clips and after.op in CLIPS):
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
            node.op in ("relu", "relu6", "sigmoid", "hardsigmoid")
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

    if node.op == "linear":
        return None if rank == 2 else no("A linear layer must read [N, features]; use a 1x1 convolution on feature maps.")
    if node.op == "mean":
        return None if tuple(node.attrs["dims"]) == (2, 3) else no("Only the mean over height and width is integer.")
    if node.op == "avg_pool2d":
        a = node.attrs
        exact = a.get("count_include_pad", True) or not any(a["padding"])
        return None if exact and not a.get("ceil") else no("Use count_include_pad=True and ceil_mode=False.")
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
    known = {"input", "conv2d", "affine", "cat"} | ON_CODES | POINTWISE
    return None if node.op in known else no()


def _body(graph: Graph) -> tuple[Graph, tuple[Node, ...]]:
    """The graph without the tail, and the tail: what only computes conditions (outputs of one element) and has no weights."""
    readers = graph.consumers()
    tail: dict[str, Node] = {}
    for node in reversed(graph.nodes):
        condition = node.name in graph.outputs and node.spec.elements == 1 and not readers[node.name]
        inner = bool(readers[node.name]) and node.name not in graph.outputs and all(r.name in tail for r in readers[node.name])
        if len(graph.outputs) > 1 and (condition or inner) and node.op not in WEIGHTED | {"input"} and not is_affine(graph, node):
            tail[node.name] = node
    if not tail:
        return graph, ()
    after = tuple(reversed(tail.values()))
    outputs = [o for o in graph.outputs if o not in tail]
    outputs += [i for n in after for i in n.inputs if i not in tail]
    kept = [n for n in graph if n.name not in tail]
    return graph.replace(kept, tuple(dict.fromkeys(outputs))), after


def refusals(graph: Graph) -> list[Unsupported]:
    """Every node that the integer form cannot take."""
    graph, _ = _body(merge_pads(graph))
    found = [e for n in graph if (e := _refusal(graph, n)) is not None]
    if len(graph.inputs) != 1:
        found.append(Unsupported(WHO, "several inputs", "", "Give a module with one input."))
    return found


def _finals(graph: Graph, steps: tuple[Step, ...]) -> dict[str, str]:
    """The weighted steps whose sums are an output and nothing else, directly or through a reshape of [N, C, 1, 1]."""
    ends, readers = {s.end.name: s for s in steps}, graph.consumers()
    found = {}
    for name in graph.outputs:
        out = source = graph[name]
        if out.op == "reshape" and (before := graph[out.inputs[0]]).spec.shape[:2] == (*out.spec.shape[:1], out.spec.elements):
            source = before if len(readers[before.name]) == 1 and before.name not in graph.outputs else out
        step = ends.get(source.name)
        if step is not None and step.head.op in WEIGHTED and step.clip is None and not readers[name]:
            found[source.name] = name
    return found


def plan(graph: Graph, input_positive: bool = False) -> Plan:
    """The steps of a float graph.

    Raises:
        Unsupported: an operation that the integer form does not have, with the module it comes from.
    """
    if found := refusals(graph):
        raise found[0]
    outputs = graph.outputs
    graph, tail = _body(merge_pads(graph))
    steps = tuple(fuse(graph))
    readers, ends = graph.consumers(), {s.end.name: s for s in steps}
    root: dict[str, str] = {}
    for step in steps:
        name = step.end.name
        root[name] = root[step.head.inputs[0]] if step.head.op in ON_CODES else name
    for step in steps:
        if step.head.op == "cat":  # what only a concatenation reads is written at its range at once
            for source in step.head.inputs:
                if source in ends and root[source] == source and len(readers[source]) == 1:
                    root[source] = step.end.name
    for name in root:
        while root[root[name]] != root[name]:
            root[name] = root[root[name]]
    finals = _finals(graph, steps)
    for name in (*finals, *finals.values()):
        root.pop(name, None)
    return Plan(graph, steps, root, positive(graph, input_positive), finals, tail, outputs)
