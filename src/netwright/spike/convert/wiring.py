"""Wiring: how values of the float graph become spikes, regions and layers of neurons; the operations are read in `read`.

Neurons are made on demand, so a rectifier that follows a sum gets the only neuron. A value whose order is not that of its
neurons (`Moved`) is put in order in `places`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netwright.core.errors import Unsupported
from netwright.core.graph import Graph, Node, Spec
from netwright.spike.convert.program import Neuron, Region, Term, View

WHO = "ANN-to-SNN conversion"
APPROXIMATE = "Let `approximate` put rectifiers in its place (it needs calibration data), or train with a rectifier."
ATTENTION = "Attention multiplies and normalises what it computes from the input: choose convolutions, or a spiking transformer."
STATISTICS = "Its statistics depend on the input: train with batch norm, which folds into the weights."
RECURRENT = (
    "A recurrent cell must settle on each element of a sequence before the next: quantise it (`QuantisedRNN`) and convert that "
    "with RNN-Morph."
)
WAY_OUT = {
    **dict.fromkeys(
        "gelu silu hardswish hardsigmoid sigmoid tanh leaky_relu prelu elu softplus mish hardtanh maximum minimum abs exp "
        "sqrt rsqrt log sin cos erf pow where gt ge lt le".split(), APPROXIMATE,
    ),
    "mul": "Products of two tensors need `approximate`, which makes squares of rectifiers of them, or a block without gates.",
    "div": "Only divisions by a constant fold into the weights.",
    "layer_norm": STATISTICS, "group_norm": STATISTICS, "aten.batch_norm": STATISTICS,
    "constant": "A tensor of the program itself joins computed ones; only constants added to or multiplied with channels fit.",
    "sdpa": ATTENTION, "softmax": f"{ATTENTION} Behind the logits it may be left out: the answer is the same.",
    "matmul": "Both factors depend on the input. " + ATTENTION,
    **dict.fromkeys(("rnn", "gru", "lstm"), RECURRENT),
    "adaptive_avg_pool2d": "Its windows differ in size: choose an input size that the output size divides.",
    "aten.max_pool2d": "Max pooling with dilation has no kernel here; use plain max pooling.",
}  # fmt: skip
DEFAULT_WAY_OUT = (
    "Convertible are conv2d, conv_transpose2d, linear, batch_norm, relu, relu6, hardtanh, add, sub, constant factors, mean, "
    "sum and pooling over the image, upsampling by whole factors, padding with zeros, cat, and what moves channels or pixels."
)
SYNAPSES = 2  # times as many at most, where two linear layers become one


# What a float node stands for while the graph is read. Equality is identity: one value, one set of neurons.
@dataclass(eq=False)
class Spikes:
    """Spikes (or the coded input): channel p of `source` adds gain[p] times its amplitude to channel index[p] of the value."""

    source: str
    gain: Tensor
    index: Tensor
    shape: tuple[int, ...]
    signed: bool

    @property
    def fan(self) -> int:
        """Channels of the source that make one of the value, where they stand side by side in equal numbers; else 0."""
        fan = len(self.index) // self.shape[1]
        return fan if torch.equal(self.index, torch.arange(self.shape[1]).repeat_interleave(fan)) else 0


@dataclass(eq=False)
class Sum:
    """A region, behind an activation unless `act` is None: (signed, cap)."""

    region: Region
    act: tuple[bool, float | None] | None = None
    shared: bool = False
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = self.region.shape

    @property
    def free(self) -> bool:
        """A sum that nothing else reads and that may become part of another."""
        return self.act is None and not self.shared and not self.region.post


@dataclass(eq=False)
class Parts:
    """Channels side by side that have not been joined yet."""

    values: list[Any]
    name: str
    path: str
    shape: tuple[int, ...]


@dataclass(eq=False)
class Moved:
    """Values elsewhere: element i of the result is element at[i] of `base`, both without the batch."""

    base: Any
    at: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, *self.at.shape)


class Refused(Exception):
    pass


def places_of(shape: tuple[int, ...]) -> NDArray[np.int64]:
    return np.arange(math.prod(shape[1:])).reshape(shape[1:])


class Wiring(ABC):
    """What has been made so far: neurons and views in order, and the reasons for which there will be no program."""

    def __init__(self, graph: Graph, signed: bool):
        self.graph, self.signed = graph, signed
        self.steps: list[Neuron | View] = []
        self.made: dict[int, Any] = {}
        self.keep: list[Any] = []  # values stay alive, so that id() stays unique
        self.names: set[str] = {n.name for n in graph if n.op == "input"}
        self.shapes: dict[str, tuple[int, ...]] = {n.name: n.spec.shape for n in graph if n.op == "input"}
        self.negative: set[str] = set(self.names)  # sources that may send negative spikes; of the input nothing is known
        self.still: set[str] = set(self.names)  # the coded input and its views: one value for all time steps
        self.errors: list[Unsupported] = []
        self.node: Node = graph.nodes[0]

    @abstractmethod
    def settled(self, x: Moved) -> Any:
        """A moved value in the order that neurons have."""

    # -- helpers of the walk ---------------------------------------------------------------------------------------
    def refuse(self, op: str = "", where: str = "", way_out: str = "") -> Refused:
        op = op or self.node.op
        self.errors.append(Unsupported(WHO, op, where or self.node.origin, way_out or WAY_OUT.get(op, DEFAULT_WAY_OUT)))
        return Refused()

    def name(self, base: str) -> str:
        name, i = base, 1
        while name in self.names:
            name, i = f"{base}_{i}", i + 1
        self.names.add(name)
        return name

    def vector(self, role: str) -> Tensor:
        return torch.from_numpy(np.array(self.graph.value(self.node, role), dtype=np.float64))

    def made_of(self, op: str, shape: tuple[int, ...], attrs: Mapping[str, Any]) -> Node:
        """A node that the float graph spells in another way."""
        return Node(self.node.name, op, (), Spec(shape), attrs, path=self.node.path)

    def channels(self, value: Tensor, x: Any) -> Tensor:
        """A constant that broadcasts along channels only, as a vector [C]."""
        if isinstance(x, Moved):
            channels = x.base.shape[1]
            owner = x.at.reshape(-1) // math.prod(x.base.shape[2:])
            if value.dim() > len(x.shape) or (value.dim() == len(x.shape) and value.shape[0] != 1):
                raise self.refuse(way_out="Constants must be numbers or one value a channel.")
            each = value.expand(x.shape).reshape(-1)
            vector = torch.zeros(channels, dtype=torch.float64)
            vector[torch.from_numpy(owner)] = each
            if not torch.equal(vector[torch.from_numpy(owner)], each):
                raise self.refuse(way_out="Constants must be numbers or one value a channel.")
            return vector
        if value.numel() == 1:
            return value.reshape(1).expand(x.shape[1])
        if value.dim() == len(x.shape) > 1:
            each = value[(slice(0, 1), slice(None), *(slice(0, 1) for _ in x.shape[2:]))]
            value = each if torch.equal(each.expand_as(value), value) else value
        aligned = (1,) * (len(x.shape) - value.dim()) + tuple(value.shape)
        if len(aligned) != len(x.shape) or any(d != 1 for i, d in enumerate(aligned) if i != 1):
            raise self.refuse(way_out="Constants must be numbers or one value a channel.")
        return value.reshape(-1)

    def bias(self) -> Tensor | None:
        return self.vector("bias") if "bias" in self.node.weights else None

    def opaque(self, name: str, shape: tuple[int, ...]) -> Spikes:
        shape = shape if len(shape) > 1 else (1, 1)
        self.shapes[name] = shape
        return Spikes(name, torch.ones(shape[1], dtype=torch.float64), torch.arange(shape[1]), shape, True)

    def given(self, node: Node, inputs: Sequence[Any]) -> Any:
        """The result of a node as if it came from outside, in the order of an input of its shape."""
        for x in inputs:
            if isinstance(x, Moved) and x.shape == node.spec.shape:
                return Moved(self.opaque(node.name, x.base.shape), x.at)
        return self.opaque(node.name, node.spec.shape)

    # -- from values to spikes -------------------------------------------------------------------------------------
    def view(self, op: str, sources: Sequence[str], attrs: Mapping[str, Any], shape: tuple[int, ...],
             weights: Mapping[str, NDArray[Any]] | None = None) -> str:  # fmt: skip
        name = self.name(self.node.name)
        self.steps.append(View(name, op, tuple(sources), attrs, shape, self.node.path, weights or {}))
        return self.known(name, sources, shape)

    def known(self, name: str, sources: Sequence[str], shape: tuple[int, ...]) -> str:
        self.shapes[name] = shape
        if any(s in self.negative for s in sources):
            self.negative.add(name)
        if all(s in self.still for s in sources):
            self.still.add(name)
        return name

    def viewed(self, s: Spikes, op: str, attrs: Mapping[str, Any], shape: tuple[int, ...], **weights: NDArray[Any]) -> Spikes:
        """A view that leaves the channels alone; `shape` is the value's."""
        name = self.view(op, (s.source,), attrs, (1, len(s.gain), *shape[2:]), weights)
        return replace(s, source=name, shape=shape)

    def positive(self, region: Region) -> bool:
        terms = all(t.source not in self.negative and bool((t.weight >= 0).all()) for t in region.terms)
        return terms and bool((region.bias >= 0).all())

    def spikes(self, value: Any) -> Spikes:
        """The spike tensor of a value; makes its neuron when it has none yet."""
        value = self.plain(value)
        if isinstance(value, Spikes):
            return value
        if id(value) not in self.made:
            self.keep.append(value)
            self.made[id(value)] = self.joined(value) if isinstance(value, Parts) else self.neuron(value)
        made: Spikes = self.made[id(value)]
        return made

    def neuron(self, value: Sum) -> Spikes:
        r = value.region
        signed, cap = value.act or (not self.positive(r), None)
        if signed and not self.signed:
            way_out = "It has negative values; allow bipolar neurons (signed=True) or put a rectifier behind it."
            raise self.refuse("linear point", r.path or r.name, way_out)
        name, channels = self.name(r.name), r.shape[1]
        self.steps.append(Neuron(name, r, signed, cap))
        self.shapes[name] = r.shape
        if signed:
            self.negative.add(name)
        return Spikes(name, torch.ones(channels, dtype=torch.float64), torch.arange(channels), r.shape, signed)

    def joined(self, value: Parts) -> Spikes:
        parts = [self.spikes(v) for v in value.values]
        if any(p.source not in self.still for p in parts):
            parts = [self.held(p) if p.source in self.still else p for p in parts]
        shape = (1, sum(len(p.gain) for p in parts), *value.shape[2:])
        sources = tuple(p.source for p in parts)
        name = self.known(self.name(value.name), sources, shape)
        self.steps.append(View(name, "cat", sources, {"dim": 1}, shape, value.path))
        starts = np.cumsum([0, *(v.shape[1] for v in value.values)])
        index = torch.cat([p.index + int(start) for p, start in zip(parts, starts, strict=False)])
        return Spikes(name, torch.cat([p.gain for p in parts]), index, value.shape, any(p.signed for p in parts))

    def plain(self, x: Any) -> Any:
        """A value in the order that its neurons, and those of its readers, have.

        Raises:
            Refused: channels, each with its own threshold, would mix with places.
        """
        if not isinstance(x, Moved):
            return x
        if id(x) not in self.made:
            self.keep.append(x)
            self.made[id(x)] = self.settled(x)
        return self.made[id(x)]

    # -- from spikes to regions ------------------------------------------------------------------------------------
    def region(self, shape: tuple[int, ...], terms: tuple[Term, ...], bias: Tensor | None = None) -> Region:
        bias = torch.zeros(shape[1], dtype=torch.float64) if bias is None else bias
        return Region(self.node.name, self.node.path, shape, terms, bias)

    def term(self, s: Spikes, weight: Tensor, attrs: Mapping[str, Any] | None = None, skip: bool = False) -> Term:
        """Weights [O, I, ...] on the channels of a value, as weights on the channels of its source."""
        if attrs is None or attrs["groups"] == 1:
            weight = weight[:, s.index]
        elif s.fan:
            weight = weight.repeat_interleave(s.fan, 1)
        else:
            return self.term(self.held(s), weight, attrs, skip)
        return Term(s.source, "linear" if attrs is None else "conv2d", weight, attrs or {}, self.node.path, skip).fed_by(s.gain)

    def held(self, s: Spikes) -> Spikes:
        """A layer of neurons that takes the value as its own channels."""
        if id(s) not in self.made:
            self.keep.append(s)
            self.made[id(s)] = self.neuron(Sum(self.region(s.shape, (self.shortcut(s),))))
        made: Spikes = self.made[id(s)]
        return made

    def shortcut(self, s: Spikes) -> Term:
        channels = s.shape[1]
        if len(s.shape) == 2:
            return self.term(s, torch.eye(channels, dtype=torch.float64), skip=True)
        attrs = {"stride": [1, 1], "pads": [0] * 4, "dilation": [1, 1], "groups": channels if s.fan else 1}
        each = torch.ones(channels, 1, dtype=torch.float64) if s.fan else torch.eye(channels, dtype=torch.float64)
        return self.term(s, each[:, :, None, None], attrs, skip=True)

    def current(self, value: Any) -> Region:
        """A value as a region that may be scaled and added to; shared or pooled sums go through their neuron."""
        value = self.plain(value)
        if isinstance(value, Sum) and value.free:
            return replace(value.region, name=self.node.name, path=self.node.path)
        s = self.spikes(value)
        if len(s.shape) in (2, 4):
            return self.region(s.shape, (self.shortcut(s),))
        image = self.viewed(s, "reshape", {}, (*s.shape[:2], math.prod(s.shape[2:]), 1))
        return self.region(image.shape, (self.shortcut(image),)).then(self.made_of("reshape", s.shape, {}))

    def affine(self, value: Any, scale: Tensor, offset: Tensor) -> Any:
        if isinstance(value, Moved):
            return Moved(self.affine(value.base, scale, offset), value.at)
        if isinstance(value, Parts):
            starts = np.cumsum([0, *(v.shape[1] for v in value.values)])
            parts = [self.affine(v, scale[a:b], offset[a:b]) for v, a, b in zip(value.values, starts, starts[1:], strict=False)]
            return Parts(parts, self.node.name, self.node.path, value.shape)
        if not offset.any() and (isinstance(value, Spikes) or value.act is not None):
            s = self.spikes(value)
            return replace(s, gain=s.gain * scale[s.index], signed=s.signed or bool((scale < 0).any()))
        return Sum(self.current(value).affine(scale, offset))

    def image(self, x: Any) -> Spikes:
        s = self.spikes(x)
        return s if len(s.shape) in (2, 4) else self.viewed(s, "reshape", {}, (*s.shape[:2], math.prod(s.shape[2:]), 1))

    @staticmethod
    def both(channels: int, scale: float, offset: float) -> tuple[Tensor, Tensor]:
        return torch.full((channels,), scale, dtype=torch.float64), torch.full((channels,), offset, dtype=torch.float64)

    # -- two linear layers as one ----------------------------------------------------------------------------------
    def folded(self, x: Any, weight: Tensor, attrs: Mapping[str, Any] | None) -> tuple[tuple[Term, ...], Tensor] | None:
        """Terms and bias of a layer on a sum of scaled spikes, which then needs no neurons of its own; None where something
        else stands before the layer or it would cost too many synapses."""
        if not isinstance(x, Sum) or not x.free or any(not t.skip for t in x.region.terms):
            return None
        bias, terms = x.region.bias, []
        for term in x.region.terms:
            if attrs is None:
                terms.append(replace(term, weight=weight @ term.weight, path=self.node.path, skip=False))
            elif term.attrs["groups"] == len(term.weight):
                wide = weight.repeat_interleave(term.weight.shape[1], 1)
                terms.append(Term(term.source, "conv2d", wide, attrs, self.node.path).fed_by(term.weight.reshape(-1)))
            else:
                return None
        framed = attrs is not None and any(attrs["pads"])  # beyond the border there is no bias
        if sum(t.weight.numel() for t in terms) > SYNAPSES * weight.numel() or (framed and bias.any()):
            return None
        if attrs is None:
            return tuple(terms), weight @ bias
        per_group = bias.reshape(attrs["groups"], 1, -1).expand(-1, len(weight) // attrs["groups"], -1)
        return tuple(terms), (weight.sum((2, 3)) * per_group.reshape(len(weight), -1)).sum(1)

    def averaged(self, x: Any, kernel: Sequence[int], stride: Sequence[int], shape: tuple[int, ...]) -> Region | None:
        """Average pooling behind convolutions that nothing rectifies: convolutions with a wider kernel and stride."""
        if not isinstance(x, Sum) or not x.free or any(t.op != "conv2d" for t in x.region.terms):
            return None
        terms = []
        for term in x.region.terms:
            (sh, sw), (eh, ew), w = term.attrs["stride"], term.attrs["dilation"], term.weight
            sides = [(n - 1) * e + 1 + (k - 1) * s for n, e, k, s in zip(w.shape[2:], (eh, ew), kernel, (sh, sw), strict=True)]
            wide = torch.zeros(*w.shape[:2], *sides, dtype=w.dtype)
            for u in range(kernel[0]):
                for v in range(kernel[1]):
                    rows = slice(u * sh, u * sh + (w.shape[2] - 1) * eh + 1, eh)
                    wide[:, :, rows, v * sw : v * sw + (w.shape[3] - 1) * ew + 1 : ew] += w / math.prod(kernel)
            if math.prod(sides) > SYNAPSES * math.prod(stride) * math.prod(w.shape[2:]):
                return None
            made = {**term.attrs, "stride": [sh * stride[0], sw * stride[1]], "dilation": [1, 1]}
            terms.append(replace(term, weight=wide, attrs=made, skip=False))
        return replace(x.region, name=self.node.name, path=self.node.path, shape=shape, terms=tuple(terms))

    def conv(self, x: Any, weight: Tensor, attrs: Mapping[str, Any], bias: Tensor | None, shape: tuple[int, ...]) -> Any:
        return self.layer(self.plain(x), weight, attrs, bias, shape)

    def layer(self, x: Any, weight: Tensor, attrs: Mapping[str, Any] | None, bias: Tensor | None, shape: tuple[int, ...]) -> Any:
        folded = self.folded(x, weight, attrs)
        if folded is None:
            return Sum(self.region(shape, (self.term(self.spikes(x), weight, attrs),), bias))
        return Sum(self.region(shape, folded[0], folded[1] if bias is None else folded[1] + bias))

    def spread(self, x: Any, weight: Tensor, stride: Sequence[int], padding: Sequence[int], output_padding: Sequence[int],
               dilation: Sequence[int], groups: int, bias: Tensor | None, shape: tuple[int, ...]) -> Any:  # fmt: skip
        """Transposed convolution [I, O/groups, kh, kw]: zeros between the pixels, then a convolution with the turned kernel."""
        s, (sh, sw) = self.spikes(x), stride
        h, w = s.shape[2:]
        if sh > 1 or sw > 1:
            s = self.viewed(s, "reshape", {}, (*s.shape[:2], h, 1, w, 1))
            s = self.viewed(s, "pad", {"pad": [0, sw - 1, 0, 0, 0, sh - 1]}, (*s.shape[:2], h, sh, w, sw))
            s = self.viewed(s, "reshape", {}, (*s.shape[:2], h * sh, w * sw))
        reach = [e * (k - 1) for e, k in zip(dilation, weight.shape[2:], strict=True)]
        first = [r - p for r, p in zip(reach, padding, strict=True)]
        last = [r - p + o - t + 1 for r, p, o, t in zip(reach, padding, output_padding, stride, strict=True)]
        for dim, (before, after) in enumerate(zip(first, last, strict=True)):
            if before < 0 or after < 0:  # more padding than the kernel reaches
                size = s.shape[2 + dim]
                a = {"dim": 2 + dim, "start": max(0, -before), "end": size - max(0, -after), "step": 1}
                kept = (*s.shape[: 2 + dim], a["end"] - a["start"], *s.shape[3 + dim :])
                s = self.viewed(s, "slice", a, kept)
        pads = [max(0, n) for n in (*first, *last)]
        i, o, kh, kw = weight.shape
        turned = (
            weight.reshape(groups, i // groups, o, kh, kw).transpose(1, 2).reshape(groups * o, i // groups, kh, kw).flip(2, 3)
        )
        attrs = {"stride": [1, 1], "pads": pads, "dilation": list(dilation), "groups": groups}
        return Sum(self.region(shape, (self.term(s, turned, attrs),), bias))
