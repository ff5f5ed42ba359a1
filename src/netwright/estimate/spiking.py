"""Energy of a spiking network in three columns, because one alone misleads.

    (a) synaptic operations   0.9 pJ an accumulation that a spike causes, 4.6 pJ a product of the layers that read values:
                              what most papers print, beside 4.6 pJ for every product of the float network
    (b) with memory           the network in integers, event by event: an 8-bit addition and a weight fetched for every synaptic
                              operation, two 32-bit additions a neuron and step, potentials read and written in every step,
                              spikes written and read; the first layer's products once, its current kept and read in every step
    (c) quantised twin        the same layers as an ordinary network of codes, on the same constants: every product once, a
                              weight fetched for each, activations written and read once. Once with the bits that a neuron's
                              spike count carries in T steps, ceil(log2(T + 1)), once with 8

    arithmetic of a product of p by q bits = mul_int8 p q / 64 + add_int8;      a byte moved = byte_SIZE of the memory

Where spikes are summed before weights (average pooling), every one of them still reaches the weights behind the sum, once:
operations = spikes * fan-out, the fan-out being MACs by input elements, as everywhere. The few additions of pooling itself and
the conversion of inputs and outputs are left out of (b) and of (c) alike.

Horowitz's own multipliers of 8 and 32 bits differ by 15.5, nearly the square of 4, which that product law says. Every layer has
a memory of its own for weights and one for values, of the smallest size the target names that holds them; a word that is
fetched is used whole. Weights are not reused: a dense accelerator fetches each once for many positions, which events in no
order cannot, so (c) is an upper limit of the twin rather than of the spiking network.

Compare column (b) with column (c). Column (a) compares 32-bit additions with 32-bit products that nobody deploys.
This is a model of counted events; it is no measurement of any machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from netwright.core.cost import Cost, Quantity
from netwright.core.errors import NetwrightError
from netwright.core.graph import Graph, Node
from netwright.core.target import Target
from netwright.estimate.energy import RESCALE, priced
from netwright.estimate.flow import analog_layers, synaptic_operations

MEMORIES = ((2**13, "byte_8k"), (2**15, "byte_32k"), (2**20, "byte_1m"), (math.inf, "byte_dram"))
POTENTIAL = 32  # bits


@dataclass(frozen=True)
class Column:
    """Energy of one inference at batch 1 in pJ: of arithmetic, of fetching weights, of reading and writing values."""

    arithmetic: float
    weights: float = 0.0
    values: float = 0.0

    @property
    def total(self) -> float:
        return self.arithmetic + self.weights + self.values


@dataclass(frozen=True)
class SpikingEnergy:
    """The three columns and the counts behind them, for one inference at batch 1.

    Attributes:
        steps: T.
        bits: of the matched twin's activations (of its widest layer).
        rates: layer of neurons -> share that fires in a step; `spikes` of all layers and steps together, `neurons` in all.
        acs: additions that spikes cause (effective ACs); `analog_macs` products of layers that read values (effective
            MACs, in every step that they are made); `macs` of the twin.
        operations, float_operations: column (a), of the spiking network and of its float origin.
        memory: column (b).
        matched, int8: column (c).
    """

    target: str
    steps: int
    bits: int
    rates: Mapping[str, float]
    spikes: float
    neurons: int
    acs: float
    analog_macs: int
    macs: int
    operations: Column
    float_operations: Column
    memory: Column
    matched: Column
    int8: Column

    @property
    def verdict(self) -> str:
        """What the columns say together, in sentences."""
        proxy = self.operations.total / self.float_operations.total
        ratios = {f"{self.bits}-bit": self.memory.total / self.matched.total, "8-bit": self.memory.total / self.int8.total}
        cheaper = [name for name, ratio in ratios.items() if ratio > 1]
        said = " and ".join(f"{ratio:.2f} times the {name} network's" for name, ratio in ratios.items())
        if cheaper:
            end = f"An ordinary network of {' or '.join(cheaper)} codes costs less than this spiking one."
        else:
            end = "The spiking network costs less than both."
        return (
            f"By synaptic operations alone, {proxy:.2f} times the float network's energy over {self.steps} steps. "
            f"With memory traffic, {said}. {end}"
        )

    def to_cost(self) -> Cost:
        """The columns as modelled quantities in pJ."""

        def quantity(column: Column, what: str) -> Quantity:
            parts = f"arithmetic {column.arithmetic:.4g}, weights {column.weights:.4g}, values {column.values:.4g} pJ"
            return Quantity(column.total, "pJ", "modelled", note=f"{what}; {parts}; constants of {self.target}")

        return Cost(
            {
                "energy_operations": quantity(self.operations, "synaptic operations only, additions and products of 32 bits"),
                "energy_float_operations": quantity(self.float_operations, "products of the float network only, 32 bits"),
                "energy_memory": quantity(self.memory, "the integer spiking network with memory traffic"),
                "energy_matched_twin": quantity(self.matched, f"the same layers with codes of at most {self.bits} bits"),
                "energy_int8_twin": quantity(self.int8, "the same layers with codes of 8 bits"),
            }
        )


def spiking_energy(graph: Graph, target: Target) -> SpikingEnergy:
    """Model the energy of a spiking network with the spike rates that its graph carries.

    Raises:
        NetwrightError: the graph has no neurons, or the target lacks an energy constant.
    """
    neurons = [n for n in graph if n.op == "integrate"]
    if not neurons:
        raise NetwrightError("Energy in three columns was asked for a network without neurons. Convert it first.")
    synaptic, weighted = synaptic_operations(graph), [n for n in graph if n.macs]
    analog = {n.name: n.macs * n.spec.steps for n in analog_layers(graph)}
    acs, products = sum(synaptic.values()), sum(analog.values())
    updates = 2 * sum(n.spec.elements * n.spec.steps for n in neurons)
    summed = sum(graph[n.inputs[0]].spec.elements * n.attrs["steps"] for n in graph if n.op == "readout")
    arithmetic = {"add_int8": acs, "mac_int8": products, "add_int32": updates + summed}
    once = {n.name: float(n.macs) for n in weighted}
    codes = {n.name: _count_bits(n) for n in neurons}
    return SpikingEnergy(
        target=target.name,
        steps=max(int(n.attrs["steps"]) for n in neurons),
        bits=max(codes.values()),
        rates={n.name: n.spec.rate for n in neurons},
        spikes=sum(n.spec.rate * n.spec.elements * n.spec.steps for n in neurons),
        neurons=sum(n.spec.elements for n in neurons),
        acs=acs,
        analog_macs=products,
        macs=graph.macs,
        operations=Column(priced({"add_float32": acs, "mac_float32": products}, target)),
        float_operations=Column(priced({"mac_float32": graph.macs}, target)),
        memory=Column(priced(arithmetic, target), _fetched(graph, {**synaptic, **analog}, target), _moved(graph, target)),
        matched=_twin(graph, once, codes, target),
        int8=_twin(graph, once, dict.fromkeys(codes, 8), target),
    )


def _memory(size: float) -> str:
    return next(name for limit, name in MEMORIES if size <= limit)


def _weight_bits(graph: Graph, node: Node) -> int:
    weight = graph.params.get(node.weights.get("weight", ""))
    return weight.bits if weight else 8


def _count_bits(node: Node) -> int:
    """Of the number of spikes that a neuron can have sent after all steps."""
    steps, limit, rule = int(node.attrs["steps"]), int(node.attrs.get("limit", 0)), node.attrs.get("rule", "if")
    most = {"memory": limit or steps, "burst": steps * max(1, limit), "bipolar": 2 * steps}.get(rule, steps)
    return math.ceil(math.log2(most + 1))


def _spike_bits(node: Node) -> int:
    """Of what a neuron sends in one step."""
    rule = node.attrs.get("rule", "if")
    return {"bipolar": 2, "memory": 2, "burst": math.ceil(math.log2(int(node.attrs.get("limit", 1)) + 1))}.get(rule, 1)


def _fetched(graph: Graph, operations: Mapping[str, float], target: Target) -> float:
    """A weight for every operation, from its layer's memory."""
    total = 0.0
    for name, count in operations.items():
        node = graph.by_name[name]
        weight, bits = graph.params.get(node.weights.get("weight", "")), _weight_bits(graph, node)
        size = weight.bytes if weight else node.macs / node.spec.elements * bits / 8
        total += priced({_memory(size): count * bits / 8}, target)
    return total


def _readers(graph: Graph) -> dict[str, int]:
    """Name of each source of values (input codes, neurons) -> how many weighted layers read it."""
    origin: dict[str, set[str]] = {}
    found: dict[str, int] = {}
    for node in graph:
        passed = set[str]().union(*(origin[i] for i in node.inputs)) if node.inputs else set()
        origin[node.name] = {node.name} if node.op in ("integrate", "quantize") else passed if not node.macs else set()
        if node.macs:
            for name in passed:
                found[name] = found.get(name, 0) + 1
    return found


def _moved(graph: Graph, target: Target) -> float:
    """Potentials, spikes, constant currents and input codes of the spiking network."""
    readers, total = _readers(graph), 0.0
    for node in graph:
        n, readings = node.spec.elements, readers.get(node.name, 0)
        if node.op == "quantize":
            total += priced({_memory(n * node.spec.bits / 8): n * node.spec.bits / 8 * readings}, target)
        if node.op == "integrate":
            steps, counter = int(node.attrs["steps"]), 8 if node.attrs.get("rule") == "memory" else 0
            constant = POTENTIAL * (node.attrs["current_steps"] == 1 and steps > 1)
            state = 2 * (POTENTIAL + counter) * steps + constant * (1 + steps)
            bits = n * (state + _spike_bits(node) * steps * (1 + readings))
            size = n * (POTENTIAL + counter + constant + _spike_bits(node)) / 8
            total += priced({_memory(size): bits / 8}, target)
    return total


def _twin(graph: Graph, macs: Mapping[str, float], codes: Mapping[str, int], target: Target) -> Column:
    """The same layers as a network of codes: `codes` gives the bits of each layer of neurons."""
    width: dict[str, int] = {}
    for node in graph:
        passed = max((width[i] for i in node.inputs), default=8)
        width[node.name] = codes.get(node.name, 8 if node.op == "quantize" else passed)
    arithmetic = values = 0.0
    readers = _readers(graph)
    for node in graph:
        n, bits, readings = node.spec.elements, width[node.name], readers.get(node.name, 0)
        if node.macs:
            weight = _weight_bits(graph, node)
            share = weight * width[node.inputs[0]] / 64 if weight > 2 else 0.0
            arithmetic += priced({"mul_int8": node.macs * share, "add_int8": node.macs}, target)
        if node.op == "integrate":
            arithmetic += priced({event: k * n for event, k in RESCALE.items()}, target)
        if node.op in ("integrate", "quantize"):
            moved = n * bits / 8 * (readings + (node.op == "integrate"))
            values += priced({_memory(n * bits / 8): moved}, target)
    return Column(arithmetic, _fetched(graph, macs, target), values)
