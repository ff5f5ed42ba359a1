"""Attention in whole numbers: what the methods for transformers share.

    o = softmax(q k' * scale + mask) v

is written out, so that both products are operations of one bit: the graph quantises q, k and v, multiplies their signs
(`bmatmul`, 32-bit sums) and turns the sums into floats with a learnt factor a head; mask and softmax stay in float.

The gate of binary attention, B = [A >= theta * max A] for A = softmax(s) (Softmax-aware binarisation, BiViT), needs no softmax:

    A >= theta * max A   <=>   s - max s - ln theta >= 0

and a sum over B in {0, 1} is one of signs: ``sum B v = (sum (2B - 1) v + sum v) / 2``, a product of one bit with a row of ones
below 2B - 1 for the sum over v.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netwright.compress.binarise.binariser import Binariser
from netwright.compress.binarise.estimators import ClippedSign, SignThrough
from netwright.compress.coded import signs
from netwright.compress.plan import merge_pads
from netwright.compress.trainee import Trainee
from netwright.core.graph import Graph, Node, Spec
from netwright.design.execute import GraphModule
from netwright.design.trace import trace

FAR = -1e4  # what a mask adds where attention is not allowed
TOP = 127  # the codes of -1 and +1
SAMPLES = 64  # calibration inputs from which factors are fitted
THROUGH = frozenset({"reshape", "permute", "slice"})


@dataclass(frozen=True)
class Attention:
    """One attention of a float graph.

    Attributes:
        node: the sdpa node, output [N, heads..., T, D].
        shapes: of q, k and v.
        scale: of the scores.
        mask: what is added to the scores, constant, [..., T, S]; None without one.
        source: the node from which q, k and v are projected, [N, T, C]; None where there is no single one.
    """

    node: Node
    shapes: tuple[tuple[int, ...], ...]
    scale: float
    mask: np.ndarray | None
    source: str | None

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def scores(self) -> tuple[int, ...]:
        """Shape of the scores."""
        return (*self.shapes[0][:-1], self.shapes[1][-2])

    @property
    def a_head(self) -> tuple[int, ...]:
        """Shape of a factor for each head."""
        rank = len(self.shapes[0])
        return (1, self.shapes[0][1], 1, 1) if rank == 4 else (1,) * rank

    @property
    def turn(self) -> list[int]:
        """The permutation that exchanges the last two dimensions."""
        rank = len(self.shapes[0])
        return [*range(rank - 2), rank - 1, rank - 2]


def gathered(graph: Graph) -> Graph:
    """matmul, scale, softmax, matmul written out become one sdpa node."""
    by_name, readers = graph.by_name, graph.consumers()
    nodes = {n.name: n for n in graph}

    def alone(name: str) -> bool:
        return len(readers[name]) == 1 and name not in graph.outputs

    for node in graph:
        rank = len(node.spec.shape)
        if node.op != "softmax" or node.attrs["dim"] % rank != rank - 1 or not alone(node.name):
            continue
        product, at, scale, weights = readers[node.name][0], by_name[node.inputs[0]], 1.0, {}
        between = [node]
        if at.op == "add" and len(at.inputs) == 1 and "other" in at.weights:
            weights = {"mask": at.weights["other"]}
            between.append(at)
            at = by_name[at.inputs[0]]
        if at.op in ("mul", "div") and "scalar" in at.attrs and not at.attrs.get("reverse"):
            scale = float(at.attrs["scalar"]) ** (1 if at.op == "mul" else -1)
            between.append(at)
            at = by_name[at.inputs[0]]
        between.append(at)
        if product.op != "matmul" or product.inputs[0] != node.name or len(product.inputs) != 2:
            continue
        if at.op != "matmul" or len(at.inputs) != 2 or not all(alone(n.name) for n in between):
            continue
        turned = by_name[at.inputs[1]]
        if turned.op != "permute" or list(turned.attrs["dims"]) != [*range(rank - 2), rank - 1, rank - 2]:
            continue
        inputs = (at.inputs[0], turned.inputs[0], product.inputs[1])
        macs = at.macs + product.macs
        nodes[product.name] = replace(product, op="sdpa", inputs=inputs, attrs={"scale": scale}, weights=weights, macs=macs)
        for dead in (*between, *([turned] if alone(turned.name) else [])):
            del nodes[dead.name]
    return graph.replace(nodes.values())


def batch_first(graph: Graph) -> Graph:
    """q, k and v cut from [3, N, ...], a permutation of [N, ..., 3, ...], are cut in front of it: codes keep their batch axis."""
    readers, nodes = graph.consumers(), {n.name: n for n in graph}
    for node in graph:
        if node.op != "permute" or (dims := list(node.attrs["dims"]))[0] == 0 or dims[1] != 0:
            continue
        (source,), axis = node.inputs, dims[0]
        cuts = [(cut, readers[cut.name]) for cut in readers[node.name]]
        if node.name in graph.outputs or not all(
            cut.op == "slice" and cut.attrs["dim"] == 0 and cut.spec.shape[0] == 1 and cut.name not in graph.outputs
            and len(after) == 1 and after[0].op == "reshape" and after[0].spec.shape == cut.spec.shape[1:]
            for cut, after in cuts
        ):  # fmt: skip
            continue
        del nodes[node.name]
        shape = graph[source].spec.shape
        for cut, (after,) in cuts:
            kept = tuple(1 if d == axis else size for d, size in enumerate(shape))
            flat = replace(cut.spec, shape=tuple(size for d, size in enumerate(shape) if d != axis))
            turn = {"dims": [d - (d > axis) for d in dims[1:]]}
            attrs = {**cut.attrs, "dim": axis}
            nodes[cut.name] = replace(cut, inputs=(source,), attrs=attrs, spec=replace(cut.spec, shape=kept))
            nodes[after.name] = replace(after, op="permute", inputs=(f"{cut.name}_flat",), attrs=turn)
            nodes[f"{cut.name}_flat"] = Node(f"{cut.name}_flat", "reshape", (cut.name,), flat, path=cut.path)
    new = set(nodes) - {n.name for n in graph}
    order = [name for n in graph if n.name in nodes for name in (n.name, f"{n.name}_flat") if name in {n.name} | new]
    return graph.replace([nodes[name] for name in order])


def _origin(graph: Graph, name: str) -> Node:
    """The first node before `name` that does more than to move elements."""
    node = graph[name]
    while node.op in THROUGH:
        node = graph[node.inputs[0]]
    return node


def attentions(graph: Graph) -> list[Attention]:
    """The attentions that can be written out: heads of one layout in q, k and v, a constant mask or none."""
    found = []
    for node in graph:
        if node.op != "sdpa" or len(node.inputs) != 3:
            continue
        shapes = tuple(graph[i].spec.shape for i in node.inputs)
        if len({(len(s), *s[:-2]) for s in shapes}) != 1 or not 3 <= len(shapes[0]) <= 4 or shapes[0][0] != 1:
            continue
        size = shapes[0][-2], shapes[1][-2]
        mask = np.triu(np.full(size, FAR, np.float32), 1) if node.attrs.get("causal") else None
        if "mask" in node.weights:
            given = graph.value(node, "mask")
            mask = np.where(given, 0.0, FAR) if given.dtype == bool else np.maximum(given, FAR)
        if mask is not None:
            mask = mask.astype(np.float32).reshape(*[1] * (len(shapes[0]) - mask.ndim), *mask.shape)
            if mask.ndim != len(shapes[0]) or mask.shape[0] != 1:
                continue
        scale = node.attrs.get("scale")
        scale = 1 / math.sqrt(shapes[0][-1]) if scale is None else float(scale)
        sources = {o.inputs[0] for i in node.inputs if (o := _origin(graph, i)).op == "linear"}
        source = next(iter(sources)) if len(sources) == 1 and all(_origin(graph, i).op == "linear" for i in node.inputs) else None
        found.append(Attention(node, shapes, scale, mask, source))
    return found


def projections(graph: Graph) -> set[str]:
    """The linear layers that make q, k and v, and those that read what attention gives."""
    readers = graph.consumers()
    found: set[str] = set()
    for a in attentions(graph):
        found |= {n.name for i in a.node.inputs if (n := _origin(graph, i)).op == "linear"}
        waiting = [a.node]
        while waiting:
            for reader in readers[waiting.pop().name]:
                if reader.op in THROUGH:
                    waiting.append(reader)
                elif reader.op == "linear":
                    found.add(reader.name)
    return found


class Sketch:
    """A graph in the making: nodes with their parameters, one after the other."""

    def __init__(self, graph: Graph):
        self.graph, self.nodes = graph, list[Node]()
        self.params, self.values = dict(graph.params), dict(graph.values)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.path, self.stem = "", ""

    def place(self, node: Node) -> None:
        """A node as it is."""
        self.nodes.append(node)
        self.shapes[node.name] = node.spec.shape

    def add(self, name: str, op: str, inputs: Iterable[str], shape: tuple[int, ...], attrs: Mapping[str, Any] | None = None,
            macs: int = 0, **weights: np.ndarray | float) -> str:  # fmt: skip
        """Append a node called `name` behind the stem ("" for the stem itself); weights are learnt."""
        name = f"{self.stem}_{name}" if name else self.stem
        keys = {}
        for role, value in weights.items():
            array = np.asarray(value, np.float32)
            keys[role] = f"constant.{name}" if op == "constant" else f"{name}.{role}"
            self.params[keys[role]], self.values[keys[role]] = Spec(array.shape), array
        self.place(Node(name, op, tuple(inputs), Spec(shape), attrs or {}, keys, macs, self.path))
        return name

    def constant(self, name: str, value: np.ndarray) -> str:
        """A tensor that training leaves alone."""
        return self.add(name, "constant", (), value.shape, value=value)

    def product(self, name: str, a: str, b: str, kind: str | None) -> str:
        """a @ b: of `signs`, of `codes`, or in float (None)."""
        shape = (*self.shapes[a][:-1], self.shapes[b][-1])
        macs = math.prod(shape) * self.shapes[a][-1]
        return self.add(name, "matmul", (a, b), shape, {"product": kind} if kind else {}, macs)

    def turned(self, name: str, x: str) -> str:
        """The last two dimensions exchanged."""
        shape = self.shapes[x]
        rank = len(shape)
        dims = [*range(rank - 2), rank - 1, rank - 2]
        return self.add(name, "permute", (x,), (*shape[:-2], shape[-1], shape[-2]), {"dims": dims})

    def scores(self, a: Attention) -> str:
        """sign(q) sign(k)' times a learnt factor a head."""
        q, k, _ = a.node.inputs
        product = self.product("scores", q, self.turned("turned", k), "signs")
        return self.add("scale", "mul", (product,), a.scores, other=np.full(a.a_head, a.scale))

    def masked(self, a: Attention, scores: str) -> str:
        if a.mask is None:
            return scores
        return self.add("masked", "add", (scores, self.constant("mask", a.mask)), a.scores)

    def gate(self, a: Attention, scores: str, threshold: float) -> str:
        """``s - max s - ln threshold`` between -1 and 1; codes >= 0 are B = 1. Half a code is for rounding to the nearest."""
        last, flat = [len(a.scores) - 1], (*a.scores[:-1], 1)
        peak = self.add("peak", "amax", (scores,), flat, {"dims": last, "keepdim": True})
        below = self.add("below", "sub", (scores, peak), a.scores)
        above = self.add("above", "add", (below,), a.scores, {"scalar": -math.log(threshold) - 0.5 / TOP})
        return self.add("gate", "hardtanh", (above,), a.scores, {"min": -1.0, "max": 1.0})

    def gated(self, a: Attention, gate: str, name: str = "") -> str:
        """sum B sign(v) times a learnt factor a head."""
        v = a.node.inputs[2]
        rank, (*lead, rows, size) = len(a.scores), a.scores
        ones = self.constant("ones", np.ones((*lead, 1, size)))
        both = self.add("rows", "cat", (gate, ones), (*lead, rows + 1, size), {"dim": rank - 2})
        product = self.product("values", both, v, "signs")
        sums = self.add("half", "mul", (product,), self.shapes[product], {"scalar": 0.5})
        width = self.shapes[v][-1]
        parts = []
        for part, start, end in (("inner", 0, rows), ("total", rows, rows + 1)):
            attrs = {"dim": rank - 2, "start": start, "end": end, "step": 1}
            parts.append(self.add(part, "slice", (sums,), (*lead, end - start, width), attrs))
        added = self.add("gathered", "add", parts, a.node.spec.shape)
        return self.add(name, "mul", (added,), a.node.spec.shape, other=np.ones(a.a_head))


def written_out(graph: Graph, write: Callable[[Sketch, Attention], str]) -> Graph:
    """Every attention in nodes of its own: `write` must give the last of them the name of the sdpa node."""
    found = {a.name: a for a in attentions(graph)}
    sketch = Sketch(graph)
    for node in graph:
        if node.name in found:
            sketch.path, sketch.stem = node.path, node.name
            write(sketch, found[node.name])
        else:
            sketch.place(node)
    return graph.replace(sketch.nodes, params=sketch.params, values=sketch.values)


class SoftmaxGate(torch.autograd.Function):
    """2B - 1 from t = s - max s - ln theta, as -1 and +1; the gradient for B passes straight to A = softmax(t) and from there
    to t: with g_B = 2g, ``A * (g_B - sum A g_B)``."""

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        ctx.save_for_backward(t)
        return signs(torch.round(t * TOP))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (t,) = ctx.saved_tensors
        a, gate = torch.softmax(t, -1), 2 * g
        return a * (gate - (a * gate).sum(-1, keepdim=True))


class Gate(nn.Module):
    """Stands for the clip in front of the gate's codes: -1 and +1 already, with the gradient of softmax."""

    def forward(self, t: Tensor) -> Tensor:
        return SoftmaxGate.apply(t)


class SignProduct(nn.Module):
    """sign(a) @ sign(b); the gradient ``g * [|x| <= 1]``, or g alone for the first `whole` operands: -1 and +1 already."""

    def __init__(self, whole: int = 0):
        super().__init__()
        self.left, self.right = (SignThrough if whole > i else ClippedSign for i in (0, 1))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.left.apply(a) @ self.right.apply(b)


@dataclass(frozen=True)
class Seen:
    """What the float network had in one attention: q, k, v and the output [N, heads..., T, D], and their source [N, T, C]."""

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    source: Tensor | None = None


@torch.no_grad()
def seen(graph: Graph, calibration: Tensor) -> dict[str, Seen]:
    """The tensors around every attention of a float graph on some of the calibration data."""
    wanted = {name for a in attentions(graph) for name in (a.name, a.source, *a.node.inputs)}
    kept: dict[str, Tensor] = {}

    def visit(node: Node, out: Tensor) -> None:
        if node.name in wanted:
            kept[node.name] = out

    GraphModule(graph).eval()(calibration[:SAMPLES], visit=visit)
    found = {}
    for a in attentions(graph):
        q, k, v = (kept[i] for i in a.node.inputs)
        found[a.name] = Seen(q, k, v, kept[a.name], kept[a.source] if a.source else None)
    return found


def best_factor(wanted: Tensor, given: Tensor, a: Attention) -> Tensor:
    """The factor a head with the least squared error of ``factor * given`` from `wanted`."""
    dims = [d for d, size in enumerate(a.a_head) if size == 1]
    over = (wanted * given).sum(dims, keepdim=True) / (given**2).sum(dims, keepdim=True).clamp(min=1e-12)
    return torch.where(over.abs() > 1e-6, over, torch.full_like(over, 1e-6))


@dataclass(frozen=True)
class AttentionBinariser(Binariser):
    """A binariser that writes attention out. Networks without attention are binarised like any other."""

    @abstractmethod
    def write(self, sketch: Sketch, a: Attention) -> str:
        """Append the nodes of one attention; the last has the name of the sdpa node."""

    def stand(self, name: str) -> dict[str, nn.Module]:
        """The layers of one written attention: node name -> layer."""
        return {
            f"{name}_scores": SignProduct(),
            f"{name}_gate": Gate(),
            f"{name}_values": SignProduct(whole=1),
        }

    @abstractmethod
    def fit_attention(self, a: Attention, tensors: Seen) -> dict[str, Tensor]:
        """First values of parameters (by key of the graph), from what the float network had."""

    def signed(self, graph: Graph, binary: set[str]) -> Graph:
        return super().signed(written_out(batch_first(gathered(graph)), self.write), binary)

    def prepare(self, module: nn.Module, example: Tensor, calibration: Tensor) -> Trainee:
        trainee = super().prepare(module, example, calibration)
        graph = gathered(merge_pads(trace(module, example)))
        if not (found := attentions(graph)):
            return trainee
        body = trainee.body
        tensors = seen(graph, calibration)
        live = {**dict(body.named_parameters()), **dict(body.named_buffers())}
        live |= {
            f"w_{name.removeprefix('layers.').replace('.', '/')}": v for name, v in live.items() if name.startswith("layers.")
        }
        for a in found:
            body.layers.update({k.replace(".", "/"): m for k, m in self.stand(a.name).items() if k in trainee.plan.graph.by_name})
            for key, value in self.fit_attention(a, tensors[a.name]).items():
                live[GraphModule._key(key)].data.copy_(value)
        trainee.calibrate(calibration)
        return trainee


@torch.no_grad()
def score_factor(a: Attention, tensors: Seen) -> tuple[Tensor, Tensor]:
    """The factor of the scores of signs, and those scores with it and the mask."""
    binary = signs(tensors.q) @ signs(tensors.k).mT
    real = tensors.q @ tensors.k.mT * a.scale
    mask = torch.zeros(1) if a.mask is None else torch.from_numpy(a.mask)
    allowed = (mask > FAR / 2).to(real)
    factor = best_factor(real * allowed, binary * allowed, a)
    return factor, binary * factor + mask


@torch.no_grad()
def gate_factor(a: Attention, tensors: Seen, scores: Tensor, threshold: float) -> Tensor:
    """The factor of what the gate lets through."""
    open_ = (scores >= scores.amax(-1, keepdim=True) + math.log(threshold)).to(scores)
    return best_factor(tensors.out, open_ @ signs(tensors.v), a)
