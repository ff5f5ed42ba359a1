"""Read: a float Graph to a Program, and the reasons where it has none.

The graph is walked once; neurons are made on demand, so a rectifier that follows a sum gets the only neuron.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netwright.core.errors import Unsupported
from netwright.core.graph import Graph, Node
from netwright.spike.convert.program import Neuron, Program, Region, Term, View

WHO = "ANN-to-SNN conversion"
WAY_OUT = {
    "mul": "Products of two tensors (gates, attention) have no spiking form here: choose a block without gates.",
    "gelu": "Train with a rectifier (relu, relu6) in its place.",
    "silu": "Train with a rectifier (relu, relu6) in its place.",
    "hardswish": "Train with a rectifier (relu, relu6) in its place.",
    "sigmoid": "Gates have no spiking form here: choose a block without squeeze-and-excitation.",
    "layer_norm": "Its statistics depend on the input: train with batch norm, which folds into the weights.",
    "group_norm": "Its statistics depend on the input: train with batch norm, which folds into the weights.",
}
DEFAULT_WAY_OUT = (
    "Convertible are conv2d, linear, batch_norm, relu, relu6, hardtanh, add, sub, constant factors, mean over the image, "
    "avg_pool2d, max_pool2d, reshape, and slice and cat of channels."
)


# What a float node stands for while the graph is read. Equality is identity: one value, one set of neurons.
@dataclass(eq=False)
class _Spikes:
    """Channels of a spike tensor (or of the coded input), each worth `gain` times its amplitude."""

    source: str
    gain: Tensor
    shape: tuple[int, ...]


@dataclass(eq=False)
class _Sum:
    """A region, behind an activation unless `act` is None: (signed, cap)."""

    region: Region
    act: tuple[bool, float | None] | None = None
    shared: bool = False
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = self.region.shape


@dataclass(eq=False)
class _Parts:
    """Channels side by side that have not been joined yet."""

    values: list[Any]
    name: str
    path: str
    shape: tuple[int, ...]


class _Refused(Exception):
    pass


class _Reader:
    def __init__(self, graph: Graph, signed: bool):
        self.graph, self.signed = graph, signed
        self.steps: list[Neuron | View] = []
        self.made: dict[int, _Spikes] = {}
        self.keep: list[Any] = []  # values stay alive, so that id() stays unique
        self.names: set[str] = {n.name for n in graph if n.op == "input"}
        self.errors: list[Unsupported] = []
        self.node: Node = graph.nodes[0]

    # -- helpers of the walk ---------------------------------------------------------------------------------------
    def refuse(self, op: str = "", path: str | None = None, way_out: str = "") -> _Refused:
        op = op or self.node.op
        where = self.node.path or self.node.name if path is None else path
        self.errors.append(Unsupported(WHO, op, where, way_out or WAY_OUT.get(op, DEFAULT_WAY_OUT)))
        return _Refused()

    def name(self, base: str) -> str:
        name, i = base, 1
        while name in self.names:
            name, i = f"{base}_{i}", i + 1
        self.names.add(name)
        return name

    def vector(self, role: str) -> Tensor:
        return torch.from_numpy(np.array(self.graph.value(self.node, role), dtype=np.float64))

    def channels(self, value: Tensor, shape: tuple[int, ...]) -> Tensor:
        """A constant that broadcasts along channels only, as a vector [C]."""
        if value.numel() == 1:
            return value.reshape(1).expand(shape[1])
        aligned = (1,) * (len(shape) - value.dim()) + tuple(value.shape)
        if len(aligned) != len(shape) or any(d != 1 for i, d in enumerate(aligned) if i != 1):
            raise self.refuse(way_out="Constants must be numbers or one value a channel.")
        return value.reshape(-1)

    def view(self, op: str, sources: tuple[str, ...], attrs: Mapping[str, Any], shape: tuple[int, ...], gain: Tensor) -> _Spikes:
        name = self.name(self.node.name)
        self.steps.append(View(name, op, sources, attrs, shape, self.node.path))
        return _Spikes(name, gain, shape)

    def spikes(self, value: Any) -> _Spikes:
        """The spike tensor of a value; makes its neuron when it has none yet."""
        if isinstance(value, _Spikes):
            return value
        if id(value) not in self.made:
            self.keep.append(value)
            if isinstance(value, _Parts):
                parts = [self.spikes(v) for v in value.values]
                name = self.name(value.name)
                self.steps.append(View(name, "cat", tuple(p.source for p in parts), {"dim": 1}, value.shape, value.path))
                self.made[id(value)] = _Spikes(name, torch.cat([p.gain for p in parts]), value.shape)
            else:
                r = value.region
                signed, cap = value.act or (True, None)
                if signed and not self.signed:
                    way_out = "It has negative values; allow bipolar neurons (signed=True) or put a rectifier behind it."
                    raise self.refuse("linear point", r.path or r.name, way_out)
                name = self.name(r.name)
                self.steps.append(Neuron(name, r, signed, cap))
                self.made[id(value)] = _Spikes(name, torch.ones(r.shape[1], dtype=torch.float64), r.shape)
        return self.made[id(value)]

    def region(self, shape: tuple[int, ...], terms: tuple[Term, ...], bias: Tensor | None = None) -> Region:
        bias = torch.zeros(shape[1], dtype=torch.float64) if bias is None else bias
        return Region(self.node.name, self.node.path, shape, terms, bias)

    def shortcut(self, s: _Spikes) -> Term:
        if len(s.shape) == 2:
            return Term(s.source, "linear", torch.diag(s.gain), {}, self.node.path, skip=True)
        attrs = {"stride": [1, 1], "pads": [0] * 4, "dilation": [1, 1], "groups": s.shape[1]}
        return Term(s.source, "conv2d", s.gain.reshape(-1, 1, 1, 1), attrs, self.node.path, skip=True)

    def current(self, value: Any) -> Region:
        """A value as a region that may be scaled and added to; shared or pooled sums go through their neuron."""
        if isinstance(value, _Sum) and value.act is None and not value.shared and not value.region.post:
            return replace(value.region, name=self.node.name, path=self.node.path)
        s = self.spikes(value)
        return self.region(s.shape, (self.shortcut(s),))

    def affine(self, value: Any, scale: Tensor, offset: Tensor) -> Any:
        if isinstance(value, _Parts):
            starts = np.cumsum([0, *(v.shape[1] for v in value.values)])
            parts = [self.affine(v, scale[a:b], offset[a:b]) for v, a, b in zip(value.values, starts, starts[1:], strict=False)]
            return _Parts(parts, self.node.name, self.node.path, value.shape)
        if isinstance(value, _Spikes) and not offset.any():
            return _Spikes(value.source, value.gain * scale, value.shape)
        return _Sum(self.current(value).affine(scale, offset))

    # -- one method an operation -----------------------------------------------------------------------------------
    def read(self) -> Program | None:
        values: dict[str, Any] = {}
        readers = self.graph.consumers()
        for node in self.graph:
            self.node = node
            xs = [values[i] for i in node.inputs]
            if any(x is None for x in xs):
                values[node.name] = None
                continue
            try:
                method = getattr(self, f"op_{node.op}", None)
                if method is None:
                    raise self.refuse()
                value = method(node, *xs)
                if isinstance(value, _Sum) and len(readers[node.name]) > 1:
                    value.shared = True
            except _Refused:
                value = None
            values[node.name] = value
        self.node = self.graph[self.graph.outputs[0]]
        final = values[self.node.name]
        if final is None or self.errors:
            return None
        head = final.region if isinstance(final, _Sum) and final.act is None else None
        try:
            head = head or self.region(final.shape, (self.shortcut(self.spikes(final)),))
        except _Refused:
            return None
        return Program(self.graph[self.graph.inputs[0]], self._live(head), head)

    def _live(self, head: Region) -> tuple[Neuron | View, ...]:
        """The steps that the output depends on."""
        needed = {t.source for t in head.terms}
        live: list[Neuron | View] = []
        for step in reversed(self.steps):
            if step.name in needed:
                needed.update(step.sources if isinstance(step, View) else (t.source for t in step.region.terms))
                live.append(step)
        return tuple(reversed(live))

    def op_input(self, node: Node) -> Any:
        return _Spikes(node.name, torch.ones(node.spec.shape[1], dtype=torch.float64), node.spec.shape)

    def op_conv2d(self, node: Node, x: Any) -> Any:
        s = self.spikes(x)
        term = Term(s.source, "conv2d", self.vector("weight"), node.attrs, node.path).fed_by(s.gain)
        return _Sum(self.region(node.spec.shape, (term,), self.vector("bias") if "bias" in node.weights else None))

    def op_linear(self, node: Node, x: Any) -> Any:
        if len(node.spec.shape) != 2:
            raise self.refuse(way_out="Matrix products on sequences have no spiking form here; use 1x1 convolutions.")
        s = self.spikes(x)
        term = Term(s.source, "linear", self.vector("weight"), {}, node.path).fed_by(s.gain)
        return _Sum(self.region(node.spec.shape, (term,), self.vector("bias") if "bias" in node.weights else None))

    def op_batch_norm(self, node: Node, x: Any) -> Any:
        scale = torch.rsqrt(self.vector("var") + node.attrs["eps"])
        if "weight" in node.weights:
            scale = scale * self.vector("weight")
        offset = -self.vector("mean") * scale
        return self.affine(x, scale, offset + self.vector("bias") if "bias" in node.weights else offset)

    def op_affine(self, node: Node, x: Any) -> Any:
        return self.affine(x, self.vector("scale").reshape(-1), self.vector("bias").reshape(-1))

    def _constant(self, node: Node, x: Any) -> Tensor:
        scalar = torch.tensor(float(node.attrs.get("scalar", 0.0)), dtype=torch.float64)
        value = self.vector("other") if "other" in node.weights else scalar
        return self.channels(value, x.shape)

    def _sum(self, node: Node, a: Any, b: Any, sign: float) -> Any:
        if a.shape != b.shape or a.shape != node.spec.shape:
            raise self.refuse(way_out="Both tensors of an addition must have the same shape.")
        left, right = self.current(a), self.current(b).affine(*self._both(a.shape[1], sign, 0.0))
        terms: dict[Any, Term] = {}
        for term in (*left.terms, *right.terms):
            key = (term.source, term.op) if term.skip else id(term)
            known = terms.get(key)
            terms[key] = term if known is None else replace(term, weight=known.weight + term.weight)
        kept, bias = tuple(t for t in terms.values() if t.weight.any()), left.bias + right.bias
        if len(kept) == 1 and kept[0].skip and not bias.any():  # nothing was added: the spikes themselves
            weight = kept[0].weight
            return _Spikes(kept[0].source, weight.diagonal() if weight.dim() == 2 else weight.reshape(-1), node.spec.shape)
        return _Sum(self.region(node.spec.shape, kept, bias))

    @staticmethod
    def _both(channels: int, scale: float, offset: float) -> tuple[Tensor, Tensor]:
        return torch.full((channels,), scale, dtype=torch.float64), torch.full((channels,), offset, dtype=torch.float64)

    def op_add(self, node: Node, *xs: Any) -> Any:
        if len(xs) == 2:
            return self._sum(node, *xs, 1.0)
        constant = self._constant(node, xs[0])
        return self.affine(xs[0], torch.ones_like(constant), constant)

    def op_sub(self, node: Node, *xs: Any) -> Any:
        if len(xs) == 2:
            return self._sum(node, *xs, -1.0)
        constant = self._constant(node, xs[0])
        sign = -1.0 if node.attrs.get("reverse") else 1.0
        return self.affine(xs[0], torch.full_like(constant, sign), -sign * constant)

    def op_mul(self, node: Node, *xs: Any) -> Any:
        if len(xs) == 2:
            raise self.refuse()
        constant = self._constant(node, xs[0])
        return self.affine(xs[0], constant, torch.zeros_like(constant))

    def op_div(self, node: Node, *xs: Any) -> Any:
        if len(xs) == 2 or node.attrs.get("reverse"):
            raise self.refuse(way_out="Only divisions by a constant fold into the weights.")
        constant = 1.0 / self._constant(node, xs[0])
        return self.affine(xs[0], constant, torch.zeros_like(constant))

    def _activation(self, x: Any, signed: bool, cap: float | None) -> Any:
        if isinstance(x, _Parts):
            return _Parts([self._activation(v, signed, cap) for v in x.values], self.node.name, self.node.path, x.shape)
        if isinstance(x, _Sum) and x.act is None:
            return _Sum(replace(x.region, name=self.node.name, path=self.node.path), (signed, cap))
        if isinstance(x, _Sum) and x.act is not None:  # the second clip of a clipped value
            caps = [c for c in (x.act[1], cap) if c is not None]
            return _Sum(x.region, (x.act[0] and signed, min(caps) if caps else None))
        return _Sum(self.current(x), (signed, cap))

    def op_relu(self, node: Node, x: Any) -> Any:
        return self._activation(x, False, None)

    def op_relu6(self, node: Node, x: Any) -> Any:
        return self._activation(x, False, 6.0)

    def op_hardtanh(self, node: Node, x: Any) -> Any:
        low, high = node.attrs["min"], node.attrs["max"]
        if high <= 0 or low not in (0, -high):
            raise self.refuse(way_out=f"Its bounds are {low} and {high}; a neuron clips at 0 and theta, or at -theta and theta.")
        return self._activation(x, low != 0, float(high))

    def op_max_pool2d(self, node: Node, x: Any) -> Any:
        if isinstance(x, _Parts):
            x = self.spikes(x)
        if isinstance(x, _Sum):
            region = replace(x.region, name=node.name, path=node.path)
            return _Sum(region.then(node), x.act)
        return _Sum(self.current(x).then(node))

    def op_avg_pool2d(self, node: Node, x: Any) -> Any:
        a, s = node.attrs, self.spikes(x)
        pad = a["padding"]
        if any(pad) and not a.get("count_include_pad", True):
            raise self.refuse(way_out="Padding must count in the average (count_include_pad=True).")
        floor = [(n + 2 * p - k) // t + 1 for n, p, k, t in zip(s.shape[2:], pad, a["kernel"], a["stride"], strict=True)]
        if list(node.spec.shape[2:]) != floor:
            raise self.refuse(way_out="Use ceil_mode=False.")
        area = math.prod(a["kernel"])
        weight = (s.gain / area).reshape(-1, 1, 1, 1).expand(-1, 1, *a["kernel"])
        attrs = {"stride": list(a["stride"]), "pads": [*pad, *pad], "dilation": [1, 1], "groups": s.shape[1]}
        return _Sum(self.region(node.spec.shape, (Term(s.source, "conv2d", weight, attrs, node.path),)))

    def op_mean(self, node: Node, x: Any) -> Any:
        if len(x.shape) != 4 or node.attrs["dims"] != [2, 3]:
            raise self.refuse(way_out="Only means over height and width of [N, C, H, W] convert.")
        s = self.spikes(x)
        gain = s.gain / math.prod(s.shape[2:])
        s = self.view("isum", (s.source,), {}, (*s.shape[:2], 1, 1), gain)
        return s if node.attrs["keepdim"] else self.view("reshape", (s.source,), {}, node.spec.shape, gain)

    def op_reshape(self, node: Node, x: Any) -> Any:
        shape = node.spec.shape
        if len(shape) < 2 or len(x.shape) < 2:
            raise self.refuse(way_out="The batch must stay the first dimension.")
        kept = shape[1] == x.shape[1] and math.prod(shape[2:]) == math.prod(x.shape[2:])
        if kept and isinstance(x, _Sum) and math.prod(x.shape[2:]) == 1:
            return _Sum(x.region.then(node), x.act)
        s = self.spikes(x)
        if kept:
            return self.view("reshape", (s.source,), {}, shape, s.gain)
        if len(shape) != 2:
            raise self.refuse(way_out="Only flattening converts.")
        return self.view("reshape", (s.source,), {}, shape, s.gain.repeat_interleave(math.prod(s.shape[2:])))

    def op_slice(self, node: Node, x: Any) -> Any:
        if node.attrs["dim"] != 1:
            raise self.refuse(way_out="Only slices of channels convert.")
        s, a = self.spikes(x), {"step": 1, **node.attrs}
        return self.view("slice", (s.source,), a, node.spec.shape, s.gain[a["start"] : a["end"] : a["step"]])

    def op_cat(self, node: Node, *xs: Any) -> Any:
        if node.attrs["dim"] != 1:
            raise self.refuse(way_out="Only concatenations of channels convert.")
        return _Parts(list(xs), node.name, node.path, node.spec.shape)


def read(graph: Graph, signed: bool = True) -> Program:
    """The program of a float graph with one input [N, C, H, W] or [N, C]; `signed` allows bipolar neurons at linear points.

    Raises:
        Unsupported: the first operation that cannot become spikes, with its module's path.
    """
    reader = _Reader(graph, signed)
    program = reader.read()
    if program is None:
        raise reader.errors[0]
    return program


def unsupported(graph: Graph, signed: bool = True) -> list[str]:
    """Why `graph` cannot be converted: one sentence for each operation that stands in the way, none where it can be."""
    if not graph.values and graph.params:
        graph = graph.replace(graph.nodes, values={k: np.ones(s.shape, np.float32) for k, s in graph.params.items()})
    reader = _Reader(graph, signed)
    reader.read()
    return [str(error) for error in reader.errors]
