"""Counting: operations, parameters and bytes of a Graph, at batch 1.

    macs              multiply-accumulates of convolutions, matrix products, attention (both products) and recurrent layers;
                      biases, norms, pooling and activation functions have none; all time steps count once
    parameters        learned values behind the outputs, shared ones once; running statistics and other buffers are none
    bops              sum of MACs * weight bits * activation bits; an 8-bit layer has 64, a float layer 1,024 a MAC
    binary_ops        MACs of signs by signs, a part of the MACs
    synaptic_ops      additions that spikes cause: spikes of all steps times fan-out, the fan-out being MACs by input elements
                      (Merolla et al., Science 2014)
    analog_macs       MACs * steps of a spiking network's layers that read values instead of spikes
    weight_bytes      everything that is stored, at its own bit width, running statistics and scales too
    activation_bytes  every tensor that an operation writes, all time steps; views write none
    peak_bytes        largest sum of living tensors over the execution order (`memory.timeline` says which)
    energy            modelled: arithmetic only;  energy_traffic  modelled: memory traffic only (`estimate.energy` defines both)

Many tools print twice the MACs as FLOPs, or leave attention's products out; some papers count norms and biases in. What a
published figure counts decides whether it can agree to the last digit.
"""

from __future__ import annotations

from typing import Any

from netwright.core.cost import Cost, How, Quantity
from netwright.core.errors import NetwrightError
from netwright.core.graph import VIEWS, Graph
from netwright.core.target import Target
from netwright.estimate.energy import energy, events_at, memory_at, memory_energy, priced
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
    """Counted quantities of one inference at batch 1; with `target` also the modelled `energy` (arithmetic), and `energy_traffic`
    where the target gives the energy of a byte: two figures, never their sum.

    Raises:
        NetwrightError: the target lacks an energy constant that the graph needs.
    """

    def counted(value: float, unit: str, note: str = "") -> Quantity:
        how: How = "counted"
        return Quantity(value, unit, how, note=note)

    found = {
        "macs": counted(graph.macs, "MAC", "all multiply-accumulates at batch 1; time steps count once"),
        "parameters": counted(graph.parameters, "parameters", "learned values behind the outputs; running statistics are not"),
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
        if any(name.startswith("byte_") for name in target.energy_pj):
            found["energy_traffic"] = memory_energy(graph, target)
    return Cost(found)


def compare(a: Cost, b: Cost) -> list[dict[str, Any]]:
    """Two costs side by side, one row a quantity, in the order of `a`, then what only `b` has.

    Keys: name, unit, a and b (None where one lacks it), how_a, how_b, difference (b - a), ratio (b / a; None at a = 0), and
    `apart`: the spreads do not overlap (a value without a spread is a point), so that the order is not chance.

    Raises:
        NetwrightError: a quantity stands in two units.
    """
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys((*a, *b)):
        x, y = a.get(name), b.get(name)
        if x and y and x.unit != y.unit:
            raise NetwrightError(f"{name} cannot be compared: one is in {x.unit}, the other in {y.unit}. Estimate both alike.")
        row: dict[str, Any] = {"name": name, "difference": None, "ratio": None, "apart": False}
        for side, q in (("a", x), ("b", y)):
            row |= {side: q.value, f"how_{side}": q.how, "unit": q.unit} if q else {side: None, f"how_{side}": None}
        if x and y:
            (low_x, high_x), (low_y, high_y) = (q.spread or (q.value, q.value) for q in (x, y))
            row |= {"difference": y.value - x.value, "ratio": y.value / x.value if x.value else None}
            row["apart"] = high_x < low_y or high_y < low_x
        rows.append(row)
    return rows


def table(graph: Graph, target: Target | None = None) -> list[dict[str, Any]]:
    """One row a layer, in execution order, plain values only.

    Keys: name, path (of the module), op, shape, macs, params (shared ones at their first use), weight_bits (0 without
    weights), activation_bytes, share (of all MACs), rate and steps (of the output); with `target` also energy and,
    where it gives that of a byte, energy_traffic, in pJ. Views and constants have no row, unless they hold
    learned values, so that the rows add up to the network's totals.

    Raises:
        NetwrightError: the target lacks an energy constant that the graph needs.
    """
    total, params, rows = graph.macs, graph.parameters_at, []
    priced_at = _energies(graph, target)
    for node in graph:
        if node.op in VIEWS and not params[node.name]:
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
                "params": params[node.name],
                "weight_bits": weight.bits if weight else widest,
                "activation_bytes": node.spec.bytes,
                "share": node.macs / total if total else 0.0,
                "rate": node.spec.rate,
                "steps": node.spec.steps,
                **{key: at[node.name] for key, at in priced_at.items()},
            }
        )
    return rows


def _energies(graph: Graph, target: Target | None) -> dict[str, dict[str, float]]:
    """Column -> node name -> pJ, as far as the target gives energies."""
    if target is None:
        return {}
    columns = {"energy": events_at(graph)}
    if any(name.startswith("byte_") for name in target.energy_pj):
        columns["energy_traffic"] = memory_at(graph, target)
    return {key: {name: priced(found, target) for name, found in at.items()} for key, at in columns.items()}
