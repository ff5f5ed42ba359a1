"""Counting: operations, parameters and bytes of a Graph, at batch 1.

MACs are those of the tracer (biases not counted). All time steps of a spiking network count once in ``macs``; what its
events cost stands in ``synaptic_ops``: spikes times fan-out, the fan-out being MACs by input elements, as Merolla et al.,
Science 2014, count synaptic operations.
"""

from __future__ import annotations

from typing import Any

from netwright.core.cost import Cost, How, Quantity
from netwright.core.graph import LEARNED, VIEWS, Graph, Node
from netwright.core.target import Target
from netwright.estimate.energy import energy
from netwright.estimate.flow import BINARY, analog_layers, operand_bits, spikes, synaptic_operations


def binary_ops(graph: Graph) -> int:
    """MACs of the layers that multiply signs by signs (1 bit by 1 bit)."""
    return sum(n.macs for n in graph if n.op in BINARY)


def synaptic_ops(graph: Graph) -> float:
    """Additions that spikes cause: over the weighted layers that they reach, spikes of all steps times fan-out."""
    return sum(synaptic_operations(graph).values())


def analog_macs(graph: Graph) -> int:
    """MACs * steps of a spiking network's layers that read values instead of spikes; 0 where there are no spikes."""
    return sum(n.macs * n.spec.steps for n in analog_layers(graph))


def bops(graph: Graph) -> int:
    """Bit operations: sum of MACs * weight bits * activation bits (* steps for layers that read spikes)."""
    found, total = spikes(graph), 0
    for node in graph:
        if node.macs:
            bits_w, bits_x = operand_bits(graph, node)
            steps = graph.by_name[node.inputs[0]].spec.steps if node.inputs[0] in found else 1
            total += node.macs * bits_w * bits_x * steps
    return total


def cost(graph: Graph, target: Target | None = None) -> Cost:
    """Counted quantities of one inference at batch 1; with `target` also the modelled energy.

    Raises:
        NetwrightError: the target lacks an energy constant that the graph needs.
    """

    def counted(value: float, unit: str, note: str = "") -> Quantity:
        how: How = "counted"
        return Quantity(value, unit, how, note=note)

    found = {
        "macs": counted(graph.macs, "MAC", "all multiply-accumulates at batch 1; time steps count once"),
        "parameters": counted(graph.parameters, "parameters", "learned values; running statistics and rescaling factors are not"),
        "weight_bytes": counted(graph.weight_bytes, "B", "everything that is stored, at its own bit width"),
        "activation_bytes": counted(graph.activation_bytes, "B", "every tensor that is written, all time steps"),
        "peak_bytes": counted(graph.peak_bytes, "B", "largest sum of live tensors in execution order"),
        "binary_ops": counted(binary_ops(graph), "MAC", "products of 1-bit by 1-bit, a part of the MACs"),
        "synaptic_ops": counted(
            synaptic_ops(graph), "additions", "spikes * fan-out of the layers that they reach, rates from data"
        ),
        "analog_macs": counted(analog_macs(graph), "MAC", "MACs * steps of a spiking network's layers that read values"),
        "bops": counted(bops(graph), "bit op", "MACs * weight bits * activation bits"),
    }
    if target is not None:
        found["energy"] = energy(graph, target)
    return Cost(found)


def _params(graph: Graph, node: Node, seen: set[str]) -> int:
    """Elements of the node's learned parameters that no earlier node has used (as `Graph.parameters` counts them)."""
    fresh = {key for role, key in node.weights.items() if role in LEARNED and node.op != "dequantize"} - seen
    seen |= fresh
    return sum(graph.params[key].elements for key in fresh)


def table(graph: Graph) -> list[dict[str, Any]]:
    """One row a layer, in execution order, plain values only.

    Keys: name, path (of the module), op, shape, macs, params (shared ones at their first use), weight_bits (0 without
    weights), activation_bytes, share (of all MACs), rate and steps (of the output).
    """
    total, seen, rows = graph.macs, set[str](), []
    for node in graph:
        params = _params(graph, node, seen)
        if node.op in VIEWS:
            continue
        weight = graph.params.get(node.weights.get("weight", ""))
        widest = max((graph.params[k].bits for k in node.weights.values()), default=0)
        rows.append(
            {
                "name": node.name,
                "path": node.path,
                "op": node.op,
                "shape": list(node.spec.shape),
                "macs": node.macs,
                "params": params,
                "weight_bits": weight.bits if weight else widest,
                "activation_bytes": node.spec.bytes,
                "share": node.macs / total if total else 0.0,
                "rate": node.spec.rate,
                "steps": node.spec.steps,
            }
        )
    return rows
