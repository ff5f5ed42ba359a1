"""Quantised: a float network as whole numbers in every layer, what an exact spiking network is equal to.

A layer with step size q sends counts n = 0..L, each worth q. The sum z that it reads is whole in one unit s a channel, which
all terms of a region share (residual branches, shortcuts), so that nothing is rescaled on the way:

    s[o]  = max |w q_in| / 127,     W = rint(w q_in / s) int8,     b = rint(bias / s),     theta = rint(q / s)
    n     = clip(floor((sum W n_in + b + floor(theta / 2)) / theta), 0, L)        that is clip(rint(z / q), 0, L)

Backward, rint and floor pass the gradient on and the clip keeps it inside 0..L: of y = q n that leaves LSQ's gradients,
dy/dz = 1 inside, dy/dq = n - z/q inside, L above, 0 below (Esser et al. 2020, equation 3).

The float sums of a forward pass are exact below 2^24 (an L of 15 and 8,000 inputs a neuron), so training sees what the
graph of `Quantised.write` computes, number for number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from netwright.core.graph import Graph, Node, Spec
from netwright.design.execute import GraphModule, nw
from netwright.spike.convert.lower import INT32
from netwright.spike.convert.program import Neuron, Program, Region, View
from netwright.spike.neurons.neuron import channelwise

GRID = 32  # candidates of a step size: 1/32..1 of the largest activation, over L
SAMPLES = 4096  # positions (image and pixel) that the error of a candidate is estimated on


def rint(x: Tensor) -> Tensor:
    """The nearest whole number, gradient 1."""
    return x + (x.round() - x).detach()


@dataclass(frozen=True, eq=False)
class Whole:
    """A region in whole numbers: weights (a term each), bias [O], and the unit `scale` [O] of its sums."""

    weights: list[Tensor]
    bias: Tensor
    scale: Tensor


def in_units(weights: list[Tensor], bias: Tensor) -> Whole:
    """Weights [O, ...] that are multiplied by what their inputs are worth, and their bias [O], in the unit that they share."""
    with torch.no_grad():
        largest = torch.stack([w.abs().flatten(1).amax(1) for w in weights]).amax(0)
        top = float(largest.max())
        silent = (bias.abs() / 127).clamp(min=top * 1e-6 or 1.0)  # a channel without weights: any unit will do
        scale = torch.where(largest <= 1e-12 * top, silent, largest / 127)
    units = [scale.reshape(-1, *[1] * (w.dim() - 1)) for w in weights]
    return Whole([rint(w / u) for w, u in zip(weights, units, strict=True)], rint(bias / scale), scale)


def fire(z: Tensor, theta: Tensor, levels: int) -> Tensor:
    """``clip(floor((z + floor(theta/2)) / theta), 0, levels)`` for sums z [N, C, ...] and theta [C]."""
    t = channelwise(theta, z).to(z.dtype)
    soft = (z / t).clamp(0, levels)
    with torch.no_grad():
        n = torch.div(z + (t / 2).floor(), t, rounding_mode="floor").clamp_(0, levels)
    return soft + (n - soft).detach()


class Quantised(nn.Module):
    """Counts in place of activations: x [N, ...] -> logits, with trainable weights, biases and step sizes.

    Args:
        program: a network without linear points, which would have negative values.
        levels: L, the highest count.
        code: scale, lowest and highest code of the input.
    """

    def __init__(self, program: Program, levels: int, code: tuple[float, int, int]):
        super().__init__()
        self.program, self.levels, self.code = program, levels, code
        regions = [*(n.region for n in program.neurons), program.head]
        self.at = {id(region): i for i, region in enumerate(regions)}
        self.weights = nn.ModuleList(nn.ParameterList(t.weight.float().clone() for t in r.terms) for r in regions)
        self.biases = nn.ParameterList(r.bias.float().clone() for r in regions)
        self.log_steps = nn.ParameterList(torch.zeros(n.region.shape[1]) for n in program.neurons)

    def whole(self, region: Region, worth: Mapping[str, Tensor]) -> Whole:
        """The region for sources whose counts are worth `worth` [C] each, with gradients to its parameters and to `worth`."""
        i = self.at[id(region)]
        weights = [
            replace(t, weight=w.double()).fed_by(worth[t.source]).weight
            for t, w in zip(region.terms, cast(nn.ParameterList, self.weights[i]), strict=True)
        ]
        return in_units(weights, self.biases[i].double())

    def theta(self, region: Region, scale: Tensor) -> Tensor:
        """Thresholds [C] in the unit `scale`: what one count is worth."""
        return rint((self.log_steps[self.at[id(region)]].double().exp() / scale).clamp(1, 2**30))

    @staticmethod
    def current(region: Region, held: Whole, counts: Mapping[str, Tensor]) -> Tensor:
        """The sums of a region, whole numbers."""
        terms = tuple(replace(t, weight=w) for t, w in zip(region.terms, held.weights, strict=True))
        return replace(region, terms=terms, bias=held.bias)(counts)

    def forward(self, x: Tensor, before: Callable[[Neuron, Tensor, Tensor], Tensor] | None = None) -> Tensor:
        """`before(neuron, z, scale)` sees the sums of a layer before it fires, may set its step sizes, and returns the sums."""
        scale, lo, hi = self.code
        name = self.program.input.name
        counts = {name: nw.quantize(x.detach(), scale, lo, hi).to(torch.float32)}
        worth = {name: torch.full((x.shape[1],), scale, dtype=torch.float64)}
        for step in self.program.steps:
            if isinstance(step, Neuron):
                held = self.whole(step.region, worth)
                z = self.current(step.region, held, counts)
                if before is not None:
                    z = before(step, z, held.scale)
                theta = self.theta(step.region, held.scale)
                counts[step.name], worth[step.name] = fire(z, theta, self.levels), theta * held.scale
            else:
                counts[step.name] = step(*(counts[s] for s in step.sources))
                worth[step.name] = step.worth(*(worth[s] for s in step.sources))
        held = self.whole(self.program.head, worth)
        z = self.current(self.program.head, held, counts)
        return z * channelwise(held.scale, z).to(z.dtype)

    @torch.no_grad()
    def calibrate(self, images: Tensor, targets: Mapping[str, Tensor], rounds: int = 2,
                  seen: Callable[[int], None] | None = None) -> None:  # fmt: skip
        """Step sizes and biases from data, one layer after the other on the counts that the layers before it really send.

        For each channel q = argmin of mean (q n - a)^2 over a grid, a the float network's activation (`targets`, by layer);
        then ``bias += mean(a - q n)``, `rounds` times, kept where it lowers the error.
        """
        done = 0

        def settle(layer: Neuron, z: Tensor, scale: Tensor) -> Tensor:
            nonlocal done
            i = self.at[id(layer.region)]
            real, a = _positions(z, scale), _positions(targets[layer.name], torch.ones_like(scale))
            q, shift = fit_steps(real, a, self.levels, scale.float(), rounds)
            before = (self.biases[i].double() / scale).round()
            self.log_steps[i].data = q.log()
            self.biases[i].data += shift
            done += 1
            if seen is not None:
                seen(done)
            return z + channelwise((self.biases[i].double() / scale).round() - before, z).to(z.dtype)

        self(images, settle)

    @torch.no_grad()
    def write(self, images: Tensor) -> tuple[Graph, dict[str, Tensor]]:
        """The integer graph, and what a count of each layer is worth [C].

        One step, burst neurons (s = clip(floor(v / theta), 0, L)), biases in the initial potentials; its readout gives the
        logits as integers. `images` give the share of neurons that send something.
        """
        writer = _Writer(self)
        graph = writer.graph()
        return described(graph, images), {layer.name: writer.worth[layer.name] for layer in self.program.neurons}


def _positions(x: Tensor, scale: Tensor) -> Tensor:
    """[N, C, ...] -> [P, C], at most `SAMPLES` positions spread evenly, times `scale` [C]."""
    flat = x.movedim(1, -1).reshape(-1, x.shape[1])
    return flat[:: max(1, len(flat) // SAMPLES)].float() * scale.float()


def fit_steps(z: Tensor, a: Tensor, limit: int, floor: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """Step sizes and bias corrections, each [C], for sums z [P, C] and activations a [P, C]."""

    def error(q: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        difference = a - q * ((z + shift) / q + 0.5).floor().clamp(0, limit)
        return difference.square().mean(0), difference.mean(0)

    largest = a.amax(0)
    largest = torch.where(largest > 0, largest, largest.max()).clamp(min=1e-6)
    candidates = [torch.maximum(largest / limit * (k / GRID), floor) for k in range(1, GRID + 1)]
    none = torch.zeros_like(floor)
    errors = torch.stack([error(q, none)[0] for q in candidates])
    q = torch.stack(candidates).gather(0, errors.argmin(0, keepdim=True))[0]
    shift, (least, mean) = none, error(q, none)
    for _ in range(rounds):
        tried = shift + mean
        found, means = error(q, tried)
        better = found < least
        shift, least = torch.where(better, tried, shift), torch.where(better, found, least)
        mean = torch.where(better, means, mean / 2)
    return q, shift


class _Writer:
    """Writes the nodes of a quantised network."""

    def __init__(self, net: Quantised):
        self.net = net
        self.nodes: list[Node] = []
        self.params: dict[str, Spec] = {}
        self.values: dict[str, np.ndarray] = {}
        self.worth: dict[str, Tensor] = {}
        self.largest: dict[str, int] = {}  # count (or code of the input) that a source can have
        self.shape: dict[str, tuple[int, ...]] = {}
        self.codes = ""

    def emit(self, name: str, op: str, inputs: tuple[str, ...], shape: tuple[int, ...], attrs: Mapping[str, Any] | None = None, *,
             weights: Mapping[str, Tensor] | None = None, path: str = "", macs: int = 0) -> str:  # fmt: skip
        keys = {role: f"{name}.{role}" for role in weights or {}}
        for role, value in (weights or {}).items():
            array = value.numpy()
            self.values[keys[role]] = array
            self.params[keys[role]] = Spec(tuple(array.shape), array.itemsize * 8, "float" if array.dtype.kind == "f" else "int")
        inputs = tuple(self.codes if i == self.net.program.input.name and op != "quantize" else i for i in inputs)
        self.nodes.append(Node(name, op, inputs, Spec(shape), attrs or {}, keys, macs, path))
        return name

    def region(self, name: str, region: Region, held: Whole) -> str:
        inner, total = region.inner or region.shape, ""
        for i, (term, weight) in enumerate(zip(region.terms, held.weights, strict=True)):
            attrs = {**term.attrs, **INT32, "bits": 8} if term.op == "conv2d" else {**INT32, "bits": 8}
            wire = self.emit(f"{name}_i{i}", f"q{term.op}", (term.source,), inner, attrs, path=term.path,
                             weights={"weight": weight.to(torch.int8)}, macs=math.prod(inner) * weight[0].numel())  # fmt: skip
            both = {"a_steps": 1, "b_steps": 1}
            total = self.emit(f"{name}_s{i}", "iadd", (total, wire), inner, both, path=region.path) if i else wire
        for i, node in enumerate(region.post):
            total = self.emit(f"{name}_p{i}", node.op, (total,), node.spec.shape, node.attrs, path=node.path)
        return total

    def view(self, view: View) -> None:
        """A view; sums of windows are a convolution of ones, in int8 where they fit: (2 v + 1) >> 1 = v."""
        op, attrs, macs = view.op, dict(view.attrs), 0
        weights = {role: torch.from_numpy(value) for role, value in view.weights.items()}
        largest = max(self.largest[s] for s in view.sources)
        if op == "isum":
            largest *= math.prod(self.shape[view.sources[0]][2:])
        if op == "sum_pool":
            kernel, pad, c = attrs["kernel"], attrs["padding"], view.shape[1]
            largest, macs = largest * math.prod(kernel), math.prod(view.shape) * math.prod(kernel)
            weights = {"weight": torch.ones(c, 1, *kernel, dtype=torch.int8)}
            op, attrs = "qconv2d", {"stride": attrs["stride"], "pads": [*pad, *pad], "dilation": [1, 1], "groups": c, "bits": 8}
            attrs |= {"lo": -127, "hi": 127} if largest <= 127 else INT32
            if largest <= 127:
                weights |= {role: torch.full((c,), v, dtype=torch.int32) for role, v in (("mult", 2), ("shift", 1))}
        self.emit(view.name, op, view.sources, view.shape, attrs, weights=weights, path=view.path, macs=macs)
        self.largest[view.name], self.shape[view.name] = largest, view.shape
        self.worth[view.name] = view.worth(*(self.worth[s] for s in view.sources))

    def neuron(self, layer: Neuron) -> None:
        held = self.net.whole(layer.region, self.worth)
        theta = self.net.theta(layer.region, held.scale)
        weights = {"theta": theta.to(torch.int32), "v0": ((theta / 2).floor() + held.bias).to(torch.int32)}
        attrs = {"steps": 1, "current_steps": 1, "rule": "burst", "limit": self.net.levels}
        self.emit(layer.name, "integrate", (self.region(layer.name, layer.region, held),), layer.region.shape, attrs,
                  weights=weights, path=layer.region.path)  # fmt: skip
        self.largest[layer.name], self.shape[layer.name] = self.net.levels, layer.region.shape
        self.worth[layer.name] = theta * held.scale

    def graph(self) -> Graph:
        net, given = self.net, self.net.program.input
        (scale, lo, hi), shape = net.code, given.spec.shape
        self.nodes.append(Node(given.name, "input", (), Spec(shape)))
        self.codes = self.emit(f"{given.name}_codes", "quantize", (given.name,), shape, {"scale": scale, "lo": lo, "hi": hi})
        self.largest[given.name], self.shape[given.name] = max(-lo, hi), shape
        self.worth[given.name] = torch.full((shape[1],), scale, dtype=torch.float64)
        for step in net.program.steps:
            if isinstance(step, Neuron):
                self.neuron(step)
            else:
                self.view(step)
        head = net.program.head
        held = net.whole(head, self.worth)
        total = self.emit("readout", "readout", (self.region("output", head, held),), head.shape,
                          {"steps": 1, "start": 0, "delay": 0}, weights={"v0": held.bias.to(torch.int32)})  # fmt: skip
        self.emit("logits", "dequantize", (total,), head.shape, weights={"scale": held.scale.to(torch.float32)})
        return Graph(tuple(self.nodes), ("logits",), self.params, self.values)


def described(graph: Graph, images: Tensor) -> Graph:
    """The graph with the storage of every tensor, and the share of non-zero spikes on `images`."""
    found: dict[str, Spec] = {}

    def visit(node: Node, out: Tensor) -> None:
        kind = "float" if out.is_floating_point() else "uint" if out.dtype == torch.uint8 else "int"
        spikes = node.op in ("integrate", "isum") or (out.dtype == torch.int8 and node.op != "quantize")
        share = round(float((out != 0).to(torch.float32).mean()), 6) if spikes else 1.0
        found[node.name] = replace(node.spec, bits=out.element_size() * 8, kind=kind, rate=share)

    with torch.no_grad():
        GraphModule(graph).eval()(images, visit=visit)
    return graph.replace([replace(n, spec=found[n.name]) for n in graph])
