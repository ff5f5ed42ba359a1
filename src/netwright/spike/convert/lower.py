"""Lower: a Program and thresholds to the integer spiking Graph, one layer after the other on real calibration spikes.

Units. The amplitude A_c of a source channel (what one spike, count or code is worth) is folded into the weights of the
regions that read it. All terms of a region share one scale a channel, s_o = max |w A| / 127, so that their int32 currents
add without rescaling; theta_int = round(theta / s_o), bias_int = round(b / s_o), and a spike of this layer is worth
A_o = theta_int s_o exactly, because that is what the soft reset takes off the membrane.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netwright.core.graph import Graph, Node, Spec
from netwright.design.execute import RUN
from netwright.spike.convert.program import Neuron, Program, Region, View

INT32 = {"lo": -(2**31), "hi": 2**31 - 1}
Settings = tuple[Tensor, Tensor, Tensor]  # theta, v0, bias correction: whole numbers [C]
Choose = Callable[[Neuron, Tensor, Tensor, int], Settings]


@dataclass(frozen=True, eq=False)
class Wire:
    """A tensor of the graph being made: the worth of a unit in each channel, its steps, and its value on the calibration data."""

    node: Node
    amplitude: Tensor
    steps: int
    value: Tensor


class Lowering:
    """Makes the graph node by node and runs every node as it is made.

    Args:
        choose: (layer, current, scale [C], steps of the current) -> theta, v0 and bias correction in units of `scale`.
    """

    def __init__(self, program: Program, steps: int, code: tuple[float, int, int], images: Tensor, choose: Choose):
        self.program, self.steps, self.choose = program, steps, choose
        self.nodes: list[Node] = []
        self.params: dict[str, Spec] = {}
        self.values: dict[str, np.ndarray] = {}
        self.thresholds: dict[str, Tensor] = {}
        self.potentials: dict[str, Tensor] = {}
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
        value = RUN[op](node, held, *(w.value for w in inputs))
        integer = not value.is_floating_point()
        kind = ("uint" if value.dtype == torch.uint8 else "int") if integer else "float"
        spikes = op in ("integrate", "isum") or (op in ("slice", "cat", "reshape") and value.dtype == torch.int8)
        share = float((value != 0).to(torch.float32).mean()) if spikes and value.numel() else 1.0
        spec = Spec(shape, value.element_size() * 8, kind, round(share, 6), steps)
        node = Node(name, op, node.inputs, spec, attrs, keys, macs, path)
        self.nodes.append(node)
        return Wire(node, amplitude, steps, value)

    def region(self, region: Region, wires: Mapping[str, Wire], name: str) -> tuple[Wire, str]:
        """The int32 currents of a region, and the parameter that holds their bias."""
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
            wire = self.emit(f"{name}_i{i}", f"q{term.op}", (source,), inner, attrs, weights=held, steps=source.steps,
                             amplitude=scale, path=term.path, macs=math.prod(inner) * codes[0].size)  # fmt: skip
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
        theta, v0, shift = self.choose(layer, current.value, scale, current.steps)
        if shift.any():  # the sum of codes is linear, and max pooling and reshape commute with a shift of the channel
            self.values[key] = (self.values[key] + shift.numpy()).astype(np.int32)
            moved = current.value + shift.to(torch.int32).reshape(-1, *[1] * (current.value.dim() - 2))
            current = Wire(current.node, scale, current.steps, moved)
        self.thresholds[layer.name], self.potentials[layer.name] = theta * scale, v0 * scale
        weights = {"theta": theta.to(torch.int32).numpy(), "v0": v0.to(torch.int32).numpy()}
        attrs = {"steps": self.steps, "current_steps": current.steps, "rule": "bipolar" if layer.signed else "if", "limit": 0}
        return self.emit(layer.name, "integrate", (current,), layer.region.shape, attrs, weights=weights, steps=self.steps,
                         amplitude=theta * scale, path=layer.region.path)  # fmt: skip

    def view(self, view: View, wires: Mapping[str, Wire]) -> Wire:
        sources = tuple(wires[s] for s in view.sources)
        amplitude = torch.cat([w.amplitude for w in sources])
        attrs = dict(view.attrs)
        if view.op == "slice":
            amplitude = amplitude[attrs["start"] : attrs["end"] : attrs["step"]]
        elif view.op == "reshape":
            amplitude = amplitude.repeat_interleave(view.shape[1] // len(amplitude))
        return self.emit(view.name, view.op, sources, view.shape, attrs, steps=sources[0].steps, amplitude=amplitude,
                         path=view.path)  # fmt: skip

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
        wires = {node.name: codes}
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
