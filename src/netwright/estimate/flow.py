"""What kind of numbers flow on the edges of a graph: real values, codes, signs or spikes."""

from __future__ import annotations

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


def events_in(graph: Graph, node: Node) -> float:
    """Spikes per input element over all steps: rate * T of the tensor that `node` reads."""
    source = graph.by_name[node.inputs[0]].spec
    return source.rate * source.steps


def synaptic_layers(graph: Graph) -> list[Node]:
    """Weighted layers that read spikes."""
    found = spikes(graph)
    return [n for n in graph if n.op in WEIGHTED and n.inputs[0] in found]


def analog_layers(graph: Graph) -> list[Node]:
    """Weighted layers of a spiking network that read values instead of spikes.

    The first layer does its products once; a layer behind a sum of spikes does them in each of its `spec.steps` steps.
    """
    found = spikes(graph)
    return [n for n in graph if n.op in WEIGHTED and n.inputs[0] not in found] if found else []


def operand_bits(graph: Graph, node: Node) -> tuple[int, int]:
    """(weight bits, activation bits) of a node's products; a binary layer and a spike have one bit."""
    source = graph.by_name[node.inputs[0]].spec if node.inputs else node.spec
    bits_x = 1 if node.op in BINARY or node.inputs[0] in spikes(graph) else source.bits
    if "weight" in node.weights:
        return graph.params[node.weights["weight"]].bits, bits_x
    return (1 if node.op in BINARY else source.bits), bits_x
