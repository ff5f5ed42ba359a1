"""Activity: the events of a spiking network on given inputs, counted one by one and defined as NeuroBench defines them.

    effective_acs       additions: every spike that reaches a weight, neither of them zero
    effective_macs      products of the layers that read values (the first, and those behind a sum of spikes), neither factor zero
    dense_ops           both, were no input and no weight zero
    activation_sparsity share of zeros among what all neurons send in all steps
    connection_sparsity share of zeros among the weights
    footprint           bytes of weights and other stored numbers at their own width

Yik et al., The NeuroBench Framework for Benchmarking Neuromorphic Computing Algorithms and Systems, Nature Communications
16, 2025. Where the definitions leave a choice:

* `cost` models the same additions from rates. ``synaptic_ops = sum of rate * steps * MACs`` takes every spike to meet as many
  weights as any other, those of zero and the padding of images among them; here every spike counts the weights it meets. The two
  agree in matrix products and 1x1 convolutions without zeros.
* the first layer's products are made once, because the current they give stays; a simulator that repeats the layer in each
  of T steps makes NeuroBench count T times as many.
* a burst of k spikes is k additions. NeuroBench sees a value beyond -1, 0, 1 and counts one product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from netwright.core.cost import Cost, Quantity
from netwright.core.errors import NetwrightError
from netwright.core.graph import WEIGHTED, Graph, Node
from netwright.design.execute import GraphModule
from netwright.estimate.flow import spikes


@dataclass(frozen=True)
class Activity:
    """Counts for one input on average; `rates` gives spikes a neuron and step of every layer, `operations` those of every
    weighted layer."""

    effective_acs: float
    effective_macs: float
    dense_ops: float
    activation_sparsity: float
    connection_sparsity: float
    footprint: int
    rates: Mapping[str, float]
    operations: Mapping[str, float]

    def to_cost(self) -> Cost:
        """As counted quantities."""
        units = {"effective_acs": "additions", "effective_macs": "MAC", "dense_ops": "operations", "footprint": "B",
                 "activation_sparsity": "share", "connection_sparsity": "share"}  # fmt: skip
        note = "on the inputs given, as NeuroBench defines it"
        return Cost({name: Quantity(getattr(self, name), unit, "counted", note=note) for name, unit in units.items()})


def _reached(node: Node, x: Tensor, w: Tensor) -> float:
    """Pairs of an input and a weight that meet, each counted by its magnitude in x and w."""
    x, w = x.double(), w.double()
    if node.op.endswith("linear"):
        return float(F.linear(x, w).sum())
    a = node.attrs
    top, left, bottom, right = a["pads"]
    return float(F.conv2d(F.pad(x, (left, right, top, bottom)), w, None, a["stride"], 0, a["dilation"], a["groups"]).sum())


def activity(graph: Graph, x: Tensor, batch: int = 64) -> Activity:
    """Run a spiking graph on x [N, ...] and count.

    Raises:
        NetwrightError: no inputs, or a graph without neurons.
    """
    trains, neurons = spikes(graph), [n.name for n in graph if n.op == "integrate"]
    if not neurons or not len(x):
        raise NetwrightError(
            f"Activity is that of a spiking network on data; got {len(neurons)} layers of neurons, {len(x)} inputs."
        )
    module, layers = GraphModule(graph), [n for n in graph if n.op in WEIGHTED and n.macs]
    read = {n.inputs[0] for n in layers}
    sent, silent, size = dict.fromkeys(neurons, 0.0), 0, dict.fromkeys(neurons, 0)
    made, dense = {n.name: 0.0 for n in layers}, 0.0
    for part in x.split(batch):
        found: dict[str, Tensor] = {}

        def keep(node: Node, out: Tensor, found: dict[str, Tensor] = found) -> None:
            if node.name in read or node.op == "integrate":
                found[node.name] = out

        with torch.no_grad():
            module(part, visit=keep)
        for name in neurons:
            sent[name] += float(found[name].abs().sum(dtype=torch.float64))
            silent += int((found[name] == 0).sum())
            size[name] += found[name].numel()
        for node in layers:
            source, weight = found[node.inputs[0]], module.weights(node)["weight"]
            events = source.abs() if node.inputs[0] in trains else source != 0
            made[node.name] += _reached(node, events, weight != 0)
            dense += len(source) * _reached(node, torch.ones_like(source[:1]), torch.ones_like(weight))
    weights = [np.asarray(graph.value(n, "weight")) for n in layers]
    return Activity(
        effective_acs=sum(made[n.name] for n in layers if n.inputs[0] in trains) / len(x),
        effective_macs=sum(made[n.name] for n in layers if n.inputs[0] not in trains) / len(x),
        dense_ops=dense / len(x),
        activation_sparsity=silent / sum(size.values()),
        connection_sparsity=sum(int((w == 0).sum()) for w in weights) / sum(w.size for w in weights),
        footprint=graph.weight_bytes,
        rates={name: sent[name] / size[name] for name in neurons},
        operations={name: count / len(x) for name, count in made.items()},
    )
