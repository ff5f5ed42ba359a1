"""Program: a float convolution network seen as spiking neurons and the linear regions between them.

A *region* is a sum of weighted terms (convolution, matrix product, shortcut, average pooling) over tensors that spikes
carry, plus a bias a channel. A *neuron* stands behind each region: an integrate-and-fire neuron where the float network has
a rectifier, a bipolar one at a linear point (bottleneck output, residual sum without rectifier, depthwise convolution that
feeds a pointwise one). Batch norm, affine maps and constant factors fold into the weights of the region; max pooling moves
before the neuron, with which it commutes; channel slices, concatenations and sums over the image act on spikes.

`read.read` makes the program of a float Graph; a program runs in floating point with any rule in the place of its neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
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
    """slice, cat or reshape of spike tensors, or isum (their sum over the image)."""

    name: str
    op: str
    sources: tuple[str, ...]
    attrs: Mapping[str, Any]
    shape: tuple[int, ...]
    path: str

    def __call__(self, *xs: Tensor) -> Tensor:
        if self.op == "cat":
            return torch.cat(xs, 1)
        if self.op == "slice":
            return xs[0][:, self.attrs["start"] : self.attrs["end"] : self.attrs["step"]]
        if self.op == "isum":
            return xs[0].sum((2, 3), keepdim=True)
        return xs[0].reshape(xs[0].shape[0], *self.shape[1:])


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
        tensors = {self.input.name: x}
        for step in self.steps:
            if isinstance(step, Neuron):
                tensors[step.name] = neuron(step, step.region(tensors))
            else:
                tensors[step.name] = step(*(tensors[s] for s in step.sources))
        return self.head(tensors)
