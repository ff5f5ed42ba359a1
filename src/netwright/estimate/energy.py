"""Energy of one inference, modelled as counted events times the energy of one event.

    E = sum over events e of count(e) * energy_pj[e]

Only arithmetic is charged; memory traffic, pooling by comparison, table look-ups and activation functions are not, in any
form of the network. A product of 8-bit codes is one ``mac_int8``; with weights of two bits or one it is an ``add_int8``;
of signs by signs a ``mac_binary``. A layer that reads spikes makes one ``add_int8`` for every synaptic event, the layer in
front of the first neuron its 8-bit products once (one behind a sum of spikes in every step), and every neuron two
``add_int32`` a step (add the current, subtract the threshold). Every rescaled code costs one ``mul_int32`` and one
``add_int32``. Constants: `targets/*.toml`, with sources.

This is a model of a chip that does nothing but arithmetic; it is no measurement of any machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from netwright.core.cost import Quantity
from netwright.core.errors import NetwrightError
from netwright.core.graph import WEIGHTED, Graph, Node
from netwright.core.target import Target
from netwright.estimate.flow import BINARY, spikes, synaptic_operations

RESCALE = {"mul_int32": 1, "add_int32": 1}
# Events an output element.
ELEMENTWISE: dict[str, Mapping[str, float]] = {
    "batch_norm": {"mac_float32": 1},
    "affine": {"mac_float32": 1},
    "layer_norm": {"mac_float32": 2, "add_float32": 1},
    "group_norm": {"mac_float32": 2, "add_float32": 1},
    "add": {"add_float32": 1},
    "sub": {"add_float32": 1},
    "mul": {"mul_float32": 1},
    "div": {"mul_float32": 1},
    "quantize": {"mul_float32": 1},
    "dequantize": {"mul_float32": 1},
    "qadd": {"mul_int32": 2, "add_int32": 2},
    "qmul": {"mul_int8": 1, **RESCALE},
    "requantize": RESCALE,
    "qprelu": RESCALE,
    "integrate": {"add_int32": 2},
    "iadd": {"add_int32": 1},
    "accumulate": {"add_int32": 1},
    "difference": {"add_int32": 1},
}
# Events an input element.
REDUCING: dict[str, Mapping[str, float]] = {
    "mean": {"add_float32": 1},
    "avg_pool2d": {"add_float32": 1},
    "qmean": {"add_int32": 1},
    "isum": {"add_int32": 1},
    "readout": {"add_int32": 1},
}


def _product(graph: Graph, node: Node, additions: float | None) -> tuple[str, float]:
    """(event, how many) for the products of one node; `additions` where spikes reach it."""
    if node.op in BINARY:
        return "mac_binary", node.macs
    if node.op == "qmatmul":
        return "mac_int8", node.macs
    if additions is not None:
        return "add_int8", additions
    weight = graph.params.get(node.weights.get("weight", ""))
    if node.op not in WEIGHTED or weight is None or weight.kind == "float":
        return "mac_float32", node.macs
    return ("mac_int8" if weight.bits > 2 else "add_int8"), node.macs * node.spec.steps


def events(graph: Graph) -> dict[str, float]:
    """Event -> how often it happens in one inference at batch 1, all time steps."""
    found: Counter[str] = Counter()
    trains, nodes, reached = spikes(graph), graph.by_name, synaptic_operations(graph)
    for node in graph:
        if node.macs:
            event, count = _product(graph, node, reached.get(node.name))
            found[event] += count  # type: ignore[assignment]
        if "mult" in node.weights and node.op not in ("requantize", "qprelu"):
            found.update({e: k * node.spec.elements * node.spec.steps for e, k in RESCALE.items()})
        for event, k in ELEMENTWISE.get(node.op, {}).items():
            found[event] += k * node.spec.elements * node.spec.steps  # type: ignore[assignment]
        for event, k in REDUCING.get(node.op, {}).items():
            source = nodes[node.inputs[0]].spec
            sparse = source.rate if node.inputs[0] in trains else 1.0
            found[event] += k * source.elements * source.steps * sparse  # type: ignore[assignment]
    return {event: count for event, count in sorted(found.items()) if count}


def priced(found: Mapping[str, float], target: Target) -> float:
    """Energy in pJ of events on a target.

    Raises:
        NetwrightError: the target has no constant for one of them.
    """
    if missing := sorted(found.keys() - target.energy_pj.keys()):
        raise NetwrightError(
            f"The target {target.name!r} gives no energy for {', '.join(missing)}. "
            f"It knows {', '.join(sorted(target.energy_pj))}; add the missing ones with a source under [energy_pj] and [source]."
        )
    return sum(count * target.energy_pj[event] for event, count in found.items())


def energy(graph: Graph, target: Target) -> Quantity:
    """Modelled energy of one inference in pJ; `note` names every event, its constant and the constant's source.

    A spiking network has more to say: see `spiking_energy`.

    Raises:
        NetwrightError: the target has no constant for an event of this graph.
    """
    found = events(graph)
    total = priced(found, target)
    note = "; ".join(
        f"{count:.4g} {event} x {target.energy_pj[event]:g} pJ ({target.source.get(event, 'no source given')})"
        for event, count in found.items()
    )
    return Quantity(total, "pJ", "modelled", note=f"arithmetic only, no memory traffic: {note}")
