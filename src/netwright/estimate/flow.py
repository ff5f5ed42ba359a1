"""What kind of numbers flow on the edges of a graph: real values, codes, signs or spikes."""

from __future__ import annotations

import math

from netwright.core.graph import WEIGHTED, Graph, Node

BINARY = frozenset({"bconv2d", "blinear", "bmatmul"})
CARRIES = frozenset({"max_pool2d", "reshape", "permute", "slice", "cat", "getitem"})


def spikes(graph: Graph) -> set[str]:
    """Names of the nodes whose output is a train of spikes: neurons, and what only moves spikes about."""
    found: set[str] = set()
    for node in graph:
        if node.op == "integrate" or (node.op in CARRIES and node.inputs and all(i in found for i in node.inputs)):
            found.add(node.name)
    return found


def spikes_carried(graph: Graph) -> dict[str, float]:
    """Name of each tensor that is made of spikes alone, or of sums of them -> how many of them it holds in all steps."""
    found: dict[str, float] = {}
    for node in graph:
        held = [found[i] for i in node.inputs if i in found]
        if node.op == "integrate":
            found[node.name] = node.spec.rate * node.spec.elements * node.spec.steps
        elif not held or len(held) < len(node.inputs):
            continue
        elif node.op in ("isum", "cat", "reshape", "permute"):
            found[node.name] = sum(held)
        elif node.op in CARRIES:
            found[node.name] = node.spec.rate * node.spec.elements * node.spec.steps
        elif node.op in WEIGHTED and not node.macs:  # sums of places, such as average pooling: it has no weights to multiply
            window = math.prod(graph.params[node.weights["weight"]].shape[1:])
            found[node.name] = held[0] * window * node.spec.elements / graph[node.inputs[0]].spec.elements
    return found


def synaptic_operations(graph: Graph) -> dict[str, float]:
    """Weighted layer that spikes reach -> the additions that they cause: their number times the fan-out of an element.

    Where spikes are summed before weights (average pooling), every one of them still reaches the weights behind the sum.
    """
    carried = spikes_carried(graph)
    found = {n.name: n.inputs[0] for n in graph if n.macs and n.inputs[0] in carried}
    return {name: carried[i] * graph[name].macs / graph[i].spec.elements for name, i in found.items()}


def analog_layers(graph: Graph) -> list[Node]:
    """Weighted layers of a spiking network that read values instead of spikes, in each of their `spec.steps` steps."""
    reached = synaptic_operations(graph)
    return [n for n in graph if n.macs and n.name not in reached] if spikes(graph) else []


def operand_bits(graph: Graph, node: Node) -> tuple[int, int]:
    """(weight bits, activation bits) of a node's products; a binary layer and a spike have one bit."""
    source = graph.by_name[node.inputs[0]].spec if node.inputs else node.spec
    bits_x = 1 if node.op in BINARY or node.inputs[0] in spikes(graph) else source.bits
    if "weight" in node.weights:
        return graph.params[node.weights["weight"]].bits, bits_x
    return (1 if node.op in BINARY else source.bits), bits_x
