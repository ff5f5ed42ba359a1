"""Lower: a Program and thresholds to the integer spiking Graph, one layer after the other on real calibration spikes.

Units. The amplitude A_c of a source channel (what one spike, count or code is worth) is folded into the weights of the
regions that read it. All terms of a region share one scale a channel, s_o = max |w A| / 127, so that their int32 currents
add without rescaling; theta_int = round(theta / s_o), bias_int = round(b / s_o), and a spike of this layer is worth
A_o = theta_int s_o exactly, because that is what the soft reset takes off the membrane.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netwright.core.graph import Graph, Node, Spec
from netwright.design.execute import RUN
from netwright.spike.convert.program import Neuron, Program, Region, View

PART = 2**22  # elements of the largest input of a node that are computed at once
INT32 = {"lo": -(2**31), "hi": 2**31 - 1}


@dataclass(frozen=True, eq=False)
class Settings:
    """Of a layer of neurons: whole numbers [C] in the unit of its current; `bias` is added to the current of every step."""

    theta: Tensor
    v0: Tensor
    bias: Tensor
    rule: str = "if"
    limit: int = 0


@dataclass(frozen=True, eq=False)
class Wire:
    """A tensor of the graph being made: the worth of a unit in each channel, its steps, its value on the calibration data, and
    for spikes and their sums the largest magnitude that they can have."""

    node: Node
    amplitude: Tensor
    steps: int
    value: Tensor
    bound: int = 1

    def mean(self) -> Tensor:
        """What the wire carries on average over its steps, in the float network's units: [N, C, ...]."""
        time = self.value.reshape(self.steps, -1, *self.value.shape[1:]).sum(0, dtype=torch.float32)
        return time * (self.amplitude / self.steps).to(torch.float32).reshape(-1, *[1] * (self.value.dim() - 2))


Choose = Callable[[Neuron, Wire], Settings]
Refit = Callable[[Region, Mapping[str, Wire]], Region]
Watch = Callable[[Neuron, Wire, Settings, Wire], None]


def in_parts(node: Node, weights: Mapping[str, Tensor], inputs: tuple[Wire, ...]) -> Tensor:
    """What a node gives on the calibration images, some images at a time, so that what it makes on the way stays small."""
    run, steps = RUN[node.op], [w.steps for w in inputs]
    images = len(inputs[0].value) // steps[0]
    if any(len(w.value) != images * w.steps for w in inputs):
        return run(node, weights, *(w.value for w in inputs))
    size = max(1, PART // max(w.value[0].numel() * w.steps for w in inputs))
    made = []
    for i in range(0, images, size):
        parts = (w.value.unflatten(0, (w.steps, images))[:, i : i + size].flatten(0, 1) for w in inputs)
        out = run(node, weights, *parts)
        made.append(out.unflatten(0, (-1, min(size, images - i))))
    return torch.cat(made, 1).flatten(0, 1) if len(made) > 1 else made[0].flatten(0, 1)


class Lowering:
    """Makes the graph node by node and runs every node as it is made.

    Args:
        choose: (layer, its current, worth `amplitude` [C] a unit) -> theta, v0 and bias correction in that unit.
        refit: (region, the wires it reads) -> the region to use in its place.
        watch: called with a layer, its current, its settings and the spikes that it sends, when they are known.
    """

    def __init__(self, program: Program, steps: int, code: tuple[float, int, int], images: Tensor, choose: Choose,
                 refit: Refit | None = None, watch: Watch | None = None):  # fmt: skip
        self.program, self.steps, self.choose, self.refit, self.watch = program, steps, choose, refit, watch
        self.nodes: list[Node] = []
        self.params: dict[str, Spec] = {}
        self.values: dict[str, np.ndarray] = {}
        self.thresholds: dict[str, Tensor] = {}
        self.potentials: dict[str, Tensor] = {}
        self.operations = 0.0  # synaptic operations an image: additions that spikes cause
        self.images = images
        self.code = code

    def emit(self, name: str, op: str, inputs: tuple[Wire, ...], shape: tuple[int, ...], attrs: Mapping[str, Any], *,
             steps: int, amplitude: Tensor, path: str, weights: Mapping[str, np.ndarray] | None = None,
             macs: int = 0) -> Wire:  # fmt: skip
        keys = {role: f"{name}.{role}" for role in weights or {}}
        for role, array in (weights or {}).items():
            self.values[keys[role]] = array
            self.params[keys[role]] = Spec(tuple(array.shape), array.itemsize * 8, "float" if array.dtype.kind == "f" else "int")
        node = Node(name, op, tuple(w.node.name for w in inputs), Spec(shape, steps=steps), attrs, keys, macs, path)
        held = {role: torch.from_numpy(array) for role, array in (weights or {}).items()}
        value = in_parts(node, held, inputs)
        integer = not value.is_floating_point()
        kind = ("uint" if value.dtype == torch.uint8 else "int") if integer else "float"
        spikes = op in ("integrate", "isum") or (value.dtype == torch.int8 and op not in ("quantize", "input"))
        share = float((value != 0).to(torch.float32).mean()) if spikes and value.numel() else 1.0
        spec = Spec(shape, value.element_size() * 8, kind, round(share, 6), steps)
        node = Node(name, op, node.inputs, spec, attrs, keys, macs, path)
        self.nodes.append(node)
        return Wire(node, amplitude, steps, value)

    def region(self, region: Region, wires: Mapping[str, Wire], name: str) -> tuple[Wire, str]:
        """The int32 currents of a region, and the parameter that holds their bias."""
        if self.refit is not None:
            region = self.refit(region, wires)
        weights = [t.fed_by(wires[t.source].amplitude).weight for t in region.terms]
        largest = torch.stack([w.abs().flatten(1).amax(1) for w in weights]).amax(0)
        scale = largest / 127
        dead = scale <= 1e-12 * float(largest.max())
        scale = torch.where(dead, (region.bias.abs() / 127).clamp(min=float(largest.max()) * 1e-6 or 1.0), scale)
        bias = (region.bias / scale).round().to(torch.int32).numpy()
        total: Wire | None = None
        inner = region.inner or region.shape
        for i, (term, weight) in enumerate(zip(region.terms, weights, strict=True)):
            source = wires[term.source]
            codes = (weight / scale.reshape(-1, *[1] * (weight.dim() - 1))).round().clamp(-127, 127).to(torch.int8).numpy()
            held = {"weight": codes} if i else {"weight": codes, "bias": bias}
            attrs = {**term.attrs, **INT32, "bits": 8} if term.op == "conv2d" else {**INT32, "bits": 8}
            macs = math.prod(inner) * codes[0].size
            wire = self.emit(f"{name}_i{i}", f"q{term.op}", (source,), inner, attrs, weights=held, steps=source.steps,
                             amplitude=scale, path=term.path, macs=macs)  # fmt: skip
            if source.node.op != "quantize":  # the analog input's products are not caused by spikes
                events = float(source.value.abs().sum(dtype=torch.float64)) / len(self.images)
                self.operations += macs * events / source.node.spec.elements
            if total is None:
                total = wire
            else:
                steps = max(total.steps, wire.steps)
                attrs = {"a_steps": total.steps, "b_steps": wire.steps}
                total = self.emit(f"{name}_s{i}", "iadd", (total, wire), inner, attrs, steps=steps, amplitude=scale,
                                  path=region.path)  # fmt: skip
        assert total is not None
        for i, node in enumerate(region.post):
            total = self.emit(f"{name}_p{i}", node.op, (total,), node.spec.shape, node.attrs, steps=total.steps, amplitude=scale,
                              path=node.path)  # fmt: skip
        return total, f"{name}_i0.bias"

    def neuron(self, layer: Neuron, wires: Mapping[str, Wire]) -> Wire:
        current, key = self.region(layer.region, wires, layer.name)
        scale = current.amplitude
        new = self.choose(layer, current)
        if new.bias.any():  # the sum of codes is linear, and max pooling and reshape commute with a shift of the channel
            self.values[key] = (self.values[key] + new.bias.numpy()).astype(np.int32)
            moved = current.value + new.bias.to(torch.int32).reshape(-1, *[1] * (current.value.dim() - 2))
            current = Wire(current.node, scale, current.steps, moved)
        self.thresholds[layer.name], self.potentials[layer.name] = new.theta * scale, new.v0 * scale
        weights = {"theta": new.theta.to(torch.int32).numpy(), "v0": new.v0.to(torch.int32).numpy()}
        attrs = {"steps": self.steps, "current_steps": current.steps, "rule": new.rule, "limit": new.limit}
        spikes = self.emit(layer.name, "integrate", (current,), layer.region.shape, attrs, weights=weights, steps=self.steps,
                           amplitude=new.theta * scale, path=layer.region.path)  # fmt: skip
        spikes = replace(spikes, bound=new.limit if new.rule == "burst" else 1)
        if self.watch is not None:
            self.watch(layer, current, new, spikes)
        return spikes

    def view(self, view: View, wires: Mapping[str, Wire]) -> Wire:
        sources = tuple(wires[s] for s in view.sources)
        if view.op == "sum_pool":
            return self.pool(view, sources[0])
        amplitude = view.worth(*(w.amplitude for w in sources))
        wire = self.emit(view.name, view.op, sources, view.shape, view.attrs, steps=sources[0].steps, amplitude=amplitude,
                         path=view.path, weights=view.weights)  # fmt: skip
        largest = max(w.bound for w in sources)
        return replace(wire, bound=largest * (math.prod(sources[0].node.spec.shape[2:]) if view.op == "isum" else 1))

    def pool(self, view: View, source: Wire) -> Wire:
        """Sums of windows as a convolution of ones: codes of 8 bits where they fit."""
        a, c = view.attrs, view.shape[1]
        bound = source.bound * math.prod(a["kernel"])
        attrs = {
            "stride": a["stride"],
            "pads": [*a["padding"], *a["padding"]],
            "dilation": [1, 1],
            "groups": c,
            "bits": 8,
            **INT32,
        }
        weights = {"weight": np.ones((c, 1, *a["kernel"]), np.int8)}
        if bound <= 127:  # (2 v + 1) >> 1 = v
            weights |= {"mult": np.full(c, 2, np.int32), "shift": np.ones(c, np.int32)}
            attrs |= {"lo": -127, "hi": 127}
        wire = self.emit(view.name, "qconv2d", (source,), view.shape, attrs, weights=weights, steps=source.steps,
                         amplitude=source.amplitude, path=view.path)  # fmt: skip
        return replace(wire, bound=bound)

    def run(self, seen: Callable[[int], None] | None = None) -> Wire:
        """Make everything up to the output currents, and return them."""
        node = self.program.input
        self.nodes.append(Node(node.name, "input", (), Spec(node.spec.shape)))
        scale, lo, hi = self.code
        given = Wire(self.nodes[0], torch.ones(()), 1, self.images)
        attrs = {"scale": scale, "lo": lo, "hi": hi}
        amplitude = torch.full((node.spec.shape[1],), scale, dtype=torch.float64)
        codes = self.emit(f"{node.name}_codes", "quantize", (given,), node.spec.shape, attrs, steps=1, amplitude=amplitude,
                          path="")  # fmt: skip
        wires = {node.name: replace(codes, bound=max(abs(lo), hi))}
        last = {t.source: len(self.program.steps) for t in self.program.head.terms}
        for i, step in reversed(list(enumerate(self.program.steps))):
            for source in step.sources if isinstance(step, View) else (t.source for t in step.region.terms):
                last.setdefault(source, i)
        for i, step in enumerate(self.program.steps):
            wires[step.name] = self.neuron(step, wires) if isinstance(step, Neuron) else self.view(step, wires)
            wires = {name: wire for name, wire in wires.items() if last[name] > i}
            if seen is not None:
                seen(i + 1)
        return self.region(self.program.head, wires, "output")[0]

    def graph(self, head: Wire, start: int, delay: int) -> Graph:
        """Close the graph: sum the output currents of steps start..T-1 and scale them to logits of one step."""
        shape = head.node.spec.shape
        attrs = {"steps": head.steps, "start": start, "delay": delay}
        total = self.emit("readout", "readout", (head,), shape, attrs, steps=1, amplitude=head.amplitude, path="")
        scale = (head.amplitude / (head.steps - start)).to(torch.float32).numpy()
        self.emit("logits", "dequantize", (total,), shape, {}, weights={"scale": scale}, steps=1, amplitude=head.amplitude,
                  path="")  # fmt: skip
        return Graph(tuple(self.nodes), ("logits",), self.params, self.values)
