"""Energy of one inference, modelled from counts: arithmetic and memory traffic, two figures that are never added here.

    E_arithmetic = sum over events e of count(e) * energy_pj[e]
    E_memory     = sum over operations of  weight bytes * byte_W  +  (input + output bytes) * byte_A

**Arithmetic.** A product of 8-bit codes is one ``mac_int8``; with weights of two bits or one it is an ``add_int8``; of signs by
signs a ``mac_binary``. A layer that reads spikes makes one ``add_int8`` for every synaptic event, the layer in front of the
first neuron its 8-bit products once (one behind a sum of spikes in every step), and every neuron two ``add_int32`` a step (add
the current, subtract the threshold). Every rescaled code costs one ``mul_int32`` and one ``add_int32``. Pooling by comparison,
table look-ups and activation functions are not charged, in any form of the network.

**Memory.** Every operation reads its weights and its inputs once and writes its output once, at their own bit widths, all time
steps; views move nothing. The device has one memory for weights and one for activations: byte_W and byte_A are the smallest
that the target names which hold all weights, and the peak of living tensors. Caches, tiles that are read again, and operations
fused into one are not modelled: an engine that fuses moves less, one whose tiles do not fit moves more. Activations and weights
that are fetched again for every spike are in `spiking_energy`, not here.

Constants: `targets/*.toml`, with sources; those of the default target are of a 45 nm process (Horowitz, ISSCC 2014): 4.6 pJ a
float multiply-accumulate, 0.9 pJ a float addition. Both figures are models; neither is a measurement of any machine.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping

from netwright.core.cost import Quantity
from netwright.core.errors import NetwrightError
from netwright.core.graph import VIEWS, WEIGHTED, Graph, Node
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


def events_at(graph: Graph) -> dict[str, dict[str, float]]:
    """Node name -> event -> how often it happens in one inference at batch 1, all time steps."""
    trains, nodes, reached = spikes(graph), graph.by_name, synaptic_operations(graph)
    at: dict[str, dict[str, float]] = {}
    for node in graph:
        found: Counter[str] = Counter()
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
        at[node.name] = {event: count for event, count in found.items() if count}
    return at


def events(graph: Graph) -> dict[str, float]:
    """Event -> how often it happens in one inference at batch 1, all time steps."""
    found: Counter[str] = Counter()
    for here in events_at(graph).values():
        found.update(here)
    return dict(sorted(found.items()))


def level(size: float, target: Target) -> str:
    """The smallest of the target's memories (``byte_8k``, ``byte_1m``, ..., ``byte_dram``) that holds so many bytes.

    Raises:
        NetwrightError: none does.
    """
    sizes = {_capacity(name): name for name in target.energy_pj if name.startswith("byte_")}
    if holds := [capacity for capacity in sizes if capacity >= size]:
        return sizes[min(holds)]
    raise NetwrightError(
        f"The target {target.name!r} gives the energy of a byte for {', '.join(sizes.values()) or 'no memory'}, and {size:,.0f} "
        "bytes must be held. Add byte_SIZE (8k, 1m, dram) in pJ under [energy_pj], with its [source]."
    )


def _capacity(name: str) -> float:
    found = re.fullmatch(r"byte_(\d+)([km])", name)
    return int(found[1]) * 2.0 ** {"k": 10, "m": 20}[found[2]] if found else math.inf


def traffic(graph: Graph, node: Node, by_name: Mapping[str, Node]) -> tuple[int, int]:
    """Bytes that one operation moves, each once, all time steps: of weights and constants, of inputs and the output."""
    read = sum(by_name[i].spec.bytes for i in dict.fromkeys(node.inputs))
    return sum(graph.params[key].bytes for key in set(node.weights.values())), read + node.spec.bytes


def memory_at(graph: Graph, target: Target) -> dict[str, dict[str, float]]:
    """Node name -> ``byte_SIZE`` -> bytes that the operation moves to and from that memory; views move nothing.

    Raises:
        NetwrightError: the target names no memory that is large enough.
    """
    of_weights, of_values = level(graph.weight_bytes, target), level(graph.peak_bytes, target)
    by_name, at = graph.by_name, dict[str, dict[str, float]]()
    for node in graph:
        weights, values = (0, 0) if node.op in VIEWS else traffic(graph, node, by_name)
        found: Counter[str] = Counter({of_weights: weights})
        found[of_values] += values
        at[node.name] = {event: count for event, count in found.items() if count}
    return at


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
    """Modelled energy of the arithmetic of one inference in pJ; `note` names every event, its constant and its source.

    A spiking network has more to say: see `spiking_energy`.

    Raises:
        NetwrightError: the target has no constant for an event of this graph.
    """
    return _quantity(events(graph), target, "arithmetic only, no memory traffic")


def memory_energy(graph: Graph, target: Target) -> Quantity:
    """Modelled energy of the memory traffic of one inference in pJ; `note` as in `energy`.

    Raises:
        NetwrightError: the target names no memory that is large enough.
    """
    found: Counter[str] = Counter()
    for here in memory_at(graph, target).values():
        found.update(here)
    return _quantity(dict(sorted(found.items())), target, "memory traffic only, every operand moved once an operation")


def _quantity(found: Mapping[str, float], target: Target, what: str) -> Quantity:
    total = priced(found, target)
    note = "; ".join(
        f"{count:.4g} {event} x {target.energy_pj[event]:g} pJ ({target.source.get(event, 'no source given')})"
        for event, count in found.items()
    )
    return Quantity(total, "pJ", "modelled", note=f"{what}: {note}")
