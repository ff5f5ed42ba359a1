"""Read-out: which steps the output counts, chosen after the conversion."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from netwright.core.graph import Graph, Node
from netwright.design.execute import GraphModule
from netwright.spike.convert.converter import Spiking
from netwright.spike.unroll import batch_size


def output_currents(module: GraphModule, x: Tensor) -> Tensor:
    """What reaches the read-out in each step, in the unit of the logits: [T, N, K] for x [N, C, H, W]."""
    node = next(n for n in module.graph if n.op == "readout")
    steps, parts = node.attrs["steps"], []
    for part in x.split(batch_size(module)):
        kept: list[Tensor] = []

        def visit(seen: Node, out: Tensor, kept: list[Tensor] = kept) -> None:
            if seen.name == node.inputs[0]:
                kept.append(out)

        module(part, visit=visit)
        parts.append(kept[0].reshape(steps, len(part), -1))
    scale = next(module.weights(n)["scale"] for n in module.graph if node.name in n.inputs)
    return torch.cat(parts, 1).to(torch.float64) * (scale.double() * (steps - node.attrs["start"])).reshape(-1)


def counted_from(made: Spiking, start: int) -> Spiking:
    """The same network with an output that counts the steps `start`..T-1."""
    graph, values = made.module.to_graph(), {}
    nodes = []
    for node in graph:
        if node.op == "readout":
            node = replace(node, attrs={**node.attrs, "start": start, "delay": start})
        elif node.op == "dequantize":
            share = (made.steps - made.start) / (made.steps - start)
            values[node.weights["scale"]] = (graph.value(node, "scale") * share).astype("float32")
        nodes.append(node)
    changed: Graph = graph.replace(nodes, values={**graph.values, **values})
    return replace(made, module=GraphModule(changed).eval(), start=start)
