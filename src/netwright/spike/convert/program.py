"""Program: a float convolution network seen as spiking neurons and the linear regions between them.

A *region* is a sum of weighted terms (convolution, matrix product, shortcut, average pooling) over tensors that spikes
carry, plus a bias a channel. A *neuron* stands behind each region: an integrate-and-fire neuron where the float network has
a rectifier, a bipolar one at a linear point (bottleneck output, residual sum without rectifier, depthwise convolution that
feeds a pointwise one). Batch norm, affine maps and constant factors fold into the weights of the region, and so does average
pooling where that costs at most twice the synapses; max pooling moves before the neuron, with which it commutes; slices,
concatenations, choices of channels, rows and columns, and sums over the image act on spikes.

`read.read` makes the program of a float Graph; a program runs in floating point with any rule in the place of its neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from netwright.core.graph import Node


@dataclass(frozen=True, eq=False)
class Term:
    """One weighted path of a region: `weight` [O, I/groups, kh, kw] (conv2d) or [O, I] (linear) on the tensor `source`."""

    source: str
    op: str
    weight: Tensor
    attrs: Mapping[str, Any]
    path: str
    skip: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        w = self.weight.to(x.dtype)
        if self.op == "linear":
            return F.linear(x, w)
        a = self.attrs
        top, left, bottom, right = a["pads"]
        return F.conv2d(F.pad(x, (left, right, top, bottom)), w, None, a["stride"], 0, a["dilation"], a["groups"])

    def scaled(self, scale: Tensor) -> Term:
        """Every output channel multiplied by `scale` [O]."""
        return replace(self, weight=self.weight * scale.reshape(-1, *[1] * (self.weight.dim() - 1)))

    def fed_by(self, gain: Tensor) -> Term:
        """The term for a source whose channels are worth `gain` [I] each: w[o, i] * gain[i]."""
        if self.op == "linear":
            return replace(self, weight=self.weight * gain)
        groups = self.attrs["groups"]
        per_group = gain.reshape(groups, 1, -1).expand(groups, self.weight.shape[0] // groups, -1)
        return replace(self, weight=self.weight * per_group.reshape(self.weight.shape[0], -1, 1, 1))

    def rows(self, index: Tensor) -> Term | None:
        """The term of the output channels `index` [O']; None where they do not keep to the groups of the convolution."""
        if self.op == "linear" or self.attrs["groups"] == 1:
            return replace(self, weight=self.weight[index])
        groups, each = self.attrs["groups"], len(index) // self.attrs["groups"]
        owner = torch.div(index, len(self.weight) // groups, rounding_mode="floor")
        if len(index) % groups or not torch.equal(owner, torch.arange(groups).repeat_interleave(each)):
            return None
        return replace(self, weight=self.weight[index])


@dataclass(frozen=True, eq=False)
class Region:
    """``post(sum_i term_i + bias[c])``; `shape` with batch 1, `inner` before `post` (max pooling, reshape)."""

    name: str
    path: str
    shape: tuple[int, ...]
    terms: tuple[Term, ...]
    bias: Tensor
    post: tuple[Node, ...] = ()
    inner: tuple[int, ...] = ()

    def affine(self, scale: Tensor, offset: Tensor) -> Region:
        return replace(self, terms=tuple(t.scaled(scale) for t in self.terms), bias=self.bias * scale + offset)

    def rows(self, index: Tensor) -> Region | None:
        """The region of the output channels `index`, which may repeat; None where that cannot be had from these terms."""
        terms = [t.rows(index) for t in self.terms]
        if self.post or any(t is None for t in terms):
            return None
        shape = (self.shape[0], len(index), *self.shape[2:])
        return replace(self, shape=shape, terms=tuple(t for t in terms if t is not None), bias=self.bias[index])

    def then(self, node: Node) -> Region:
        return replace(self, shape=node.spec.shape, post=(*self.post, node), inner=self.inner or self.shape)

    def __call__(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The region in floating point on real-valued tensors (amplitude times spikes)."""
        z: Tensor | None = None
        for term in self.terms:
            y = term(tensors[term.source])
            z = y if z is None else z + y
        if z is None:
            batch = next(iter(tensors.values()))
            z = batch.new_zeros(batch.shape[0], *(self.inner or self.shape)[1:])
        z = z + self.bias.to(z.dtype).reshape(-1, *[1] * (z.dim() - 2))
        for node in self.post:
            if node.op == "max_pool2d":
                a = node.attrs
                z = F.max_pool2d(z, a["kernel"], a["stride"], a["padding"], ceil_mode=a.get("ceil", False))
            else:
                z = z.reshape(z.shape[0], *node.spec.shape[1:])
        return z


@dataclass(frozen=True, eq=False)
class Neuron:
    """A layer of neurons behind `region`: `signed` is bipolar (linear point), `cap` bounds the activation (relu6: 6)."""

    name: str
    region: Region
    signed: bool
    cap: float | None = None


@dataclass(frozen=True, eq=False)
class View:
    """Spikes elsewhere: slice, cat, reshape, take, expand or pad of spike tensors, or their sums: isum over the image, sum_pool
    over windows.

    `shape` with batch 1; `weights` holds the places that take reads (`index`).
    """

    name: str
    op: str
    sources: tuple[str, ...]
    attrs: Mapping[str, Any]
    shape: tuple[int, ...]
    path: str
    weights: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __call__(self, *xs: Tensor) -> Tensor:
        a, x = self.attrs, xs[0]
        if self.op == "cat":
            return torch.cat(xs, a["dim"])
        if self.op == "slice":
            return x[(slice(None),) * a["dim"] + (slice(a["start"], a["end"], a["step"]),)]
        if self.op == "take":
            return x.index_select(a["dim"], torch.from_numpy(self.weights["index"]))
        if self.op == "expand":
            return x.expand(x.shape[0], *self.shape[1:])
        if self.op == "pad":
            return F.pad(x, a["pad"])
        if self.op == "isum":
            return x.sum((2, 3), keepdim=True)
        if self.op == "sum_pool":
            return F.avg_pool2d(x, a["kernel"], a["stride"], a["padding"], divisor_override=1)
        return x.reshape(x.shape[0], *self.shape[1:])

    def worth(self, *sources: Tensor) -> Tensor:
        """What one spike of each channel is worth, from what it is worth in the sources: [C] each."""
        a, given = self.attrs, sources[0]
        if self.op == "cat":
            return torch.cat(sources)
        if self.op == "slice" and a["dim"] == 1:
            return given[a["start"] : a["end"] : a["step"]]
        if self.op == "take" and a["dim"] == 1:
            return given[torch.from_numpy(self.weights["index"])]
        if self.op == "reshape":
            return given.repeat_interleave(self.shape[1] // len(given))
        return given


@dataclass(frozen=True, eq=False)
class Program:
    """Neurons and views in execution order; `head` is the region whose currents are the network's output."""

    input: Node
    steps: tuple[Neuron | View, ...]
    head: Region

    @property
    def neurons(self) -> tuple[Neuron, ...]:
        return tuple(s for s in self.steps if isinstance(s, Neuron))

    def __call__(self, x: Tensor, neuron: Callable[[Neuron, Tensor], Tensor]) -> Tensor:
        """Run in floating point; `neuron(layer, z)` turns a region's sum into what the next regions see."""
        return self.head(self.values(x, neuron))

    def values(self, x: Tensor, neuron: Callable[[Neuron, Tensor], Tensor]) -> dict[str, Tensor]:
        """The input and what every neuron and view gives, as in `__call__`."""
        tensors = {self.input.name: x}
        for step in self.steps:
            if isinstance(step, Neuron):
                tensors[step.name] = neuron(step, step.region(tensors))
            else:
                tensors[step.name] = step(*(tensors[s] for s in step.sources))
        return tensors
