"""Roofline: how far each layer is from what the device could do, and whether arithmetic, memory or the kernel holds it back.

    latency = operations / (peak * efficiency)            efficiency e, what latency a layer of known operations has
    ideal   = operations / peak                           e = 1
    bound   = max(operations / peak, bytes / bandwidth)   roofline: no kernel that moves its operands once is faster
    gap     = latency - ideal = (bound - ideal) + (latency - bound)

The first part of the efficiency gap is memory's: fewer bytes help (wider layers, fusion, fewer bits). The second is the
kernel's and its overheads': another implementation helps. The waterline is the device's operations per byte,

    W = peak / bandwidth [MAC/byte],       e <= min(1, intensity / W),       intensity = MACs / bytes

a layer whose intensity lies under it is bound by memory, however good its kernel. Operations are MACs of all time steps; bytes
are those of inputs, weights and the output, each moved once. Views cost nothing; a layer without MACs has ideal 0 and is
all gap: its time is what fusing it away would save.

Paper: Lavin, On the Efficiency of Convolutional Neural Networks, 2024 (S057), which draws both by kernel, after Williams,
Waterman and Patterson, Roofline, CACM 2009. Here operations are MACs rather than flops, W is that of the operand kind of
each layer (float, 8-bit codes, signs), and the gap is split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch

from netwright.core.cost import Cost, Quantity
from netwright.core.errors import NetwrightError
from netwright.core.graph import VIEWS, WEIGHTED, Graph, Node
from netwright.core.paper import Paper
from netwright.estimate.energy import traffic
from netwright.estimate.flow import BINARY

Timer = Callable[[Mapping[str, Callable[[], object]]], Mapping[str, Quantity]]


@dataclass(frozen=True)
class Layer:
    """One operation against the roofline; times in us, `latency` None where none was given (then bound stands for it).

    Attributes:
        kind: of its products: mac_float32, mac_int8, mac_binary.
        intensity, waterline: MACs per byte of the layer and of the device; under water is memory-bound.
        ideal, bound: least time by arithmetic, and by arithmetic and memory.
        efficiency: ideal / latency; `ceiling`: the most that memory allows.
        memory_gap, kernel_gap: parts of latency - ideal. The second is negative where operands stayed in a cache.
    """

    name: str
    path: str
    op: str
    kind: str
    macs: int
    bytes: int
    intensity: float
    waterline: float
    ideal: float
    bound: float
    latency: float | None
    efficiency: float
    ceiling: float
    memory_gap: float
    kernel_gap: float

    @property
    def submerged(self) -> bool:
        return self.intensity < self.waterline


@dataclass(frozen=True)
class Roofline:
    """All layers in execution order, and what they add up to."""

    paper: ClassVar[Paper] = Paper(
        "lavin2024efficiency", "On the Efficiency of Convolutional Neural Networks", "Lavin, Andrew", "arXiv", 2024,
        "https://arxiv.org/abs/2404.03617", "S057",
    )  # fmt: skip

    layers: tuple[Layer, ...]
    measured: bool

    @property
    def latency(self) -> float:
        """Sum over the layers in us: measured, or the bound."""
        return sum(layer.bound if layer.latency is None else layer.latency for layer in self.layers)

    @property
    def efficiency(self) -> float:
        """Of the whole: ideal / latency."""
        return sum(layer.ideal for layer in self.layers) / self.latency if self.latency else 0.0

    def worst(self, count: int = 10) -> list[Layer]:
        """Layers with the largest gaps, the largest first: where the time is lost."""
        return sorted(self.layers, key=lambda layer: -(layer.memory_gap + layer.kernel_gap))[:count]

    def to_cost(self) -> Cost:
        how = "measured" if self.measured else "modelled"
        note = "sum over layers" + ("" if self.measured else "; the larger of MACs / peak and bytes / bandwidth: a lower bound")
        ideal, bound = (sum(getattr(layer, key) for layer in self.layers) for key in ("ideal", "bound"))
        return Cost(
            {
                "latency_ideal": Quantity(ideal, "us", "modelled", note="MACs / peak, efficiency 1"),
                "latency_bound": Quantity(bound, "us", "modelled", note="the roofline, each layer by itself"),
                "latency_layers": Quantity(self.latency, "us", how, note=note),  # type: ignore[arg-type]
                "efficiency": Quantity(self.efficiency, "share of peak", how),  # type: ignore[arg-type]
            }
        )

    def to_json(self) -> dict[str, Any]:
        """For tables and figures. Efficiency gap: bars of ideal, memory_gap, kernel_gap by layer. Waterline: bars of intensity
        as wide as the layer's MACs, with a line at its waterline (both on log scales)."""
        rows = [{**asdict(layer), "submerged": layer.submerged} for layer in self.layers]
        total = {name: asdict(q) for name, q in self.to_cost().items()}
        return {"measured": self.measured, "total": total, "layers": rows, "worst": [layer.name for layer in self.worst()]}


def kind(graph: Graph, node: Node) -> str:
    """What a layer's products are made of, named as the events of `energy`."""
    if node.op in BINARY:
        return "mac_binary"
    weight = graph.params.get(node.weights.get("weight", ""))
    coded = node.op == "qmatmul" or (node.op in WEIGHTED and weight is not None and weight.kind != "float")
    return "mac_int8" if coded else "mac_float32"


def roofline(graph: Graph, peak: Mapping[str, float], latencies: Mapping[str, float] | None = None) -> Roofline:
    """Every operation of a graph against a device.

    Args:
        peak: MACs per second by kind (``mac_float32``, ``mac_int8``, ``mac_binary``) and ``byte``, bytes per second.
        latencies: node name -> measured us; nodes that are not in it count with their bound. Without it all is modelled.

    Raises:
        NetwrightError: a kind of product that `peak` does not know, or latencies of nodes that are not there.
    """
    by_name, layers = graph.by_name, []
    nodes = [n for n in graph if n.op not in VIEWS]
    if missing := sorted(({kind(graph, n) for n in nodes if n.macs} | {"byte"}) - peak.keys()):
        raise NetwrightError(
            f"A roofline needs the peak of {', '.join(missing)}; known are {', '.join(sorted(peak)) or 'none'}. "
            "Give them a second (MACs, bytes), from the device's data sheet or measured with `machine_peak`."
        )
    if unknown := sorted((latencies or {}).keys() - by_name.keys()):
        raise NetwrightError(f"Latencies were given for {', '.join(unknown[:3])}, which the graph does not have.")
    for node in nodes:
        of = kind(graph, node)
        macs, size = node.macs * (node.spec.steps if node.macs else 1), sum(traffic(graph, node, by_name))
        ideal = macs / peak[of] * 1e6 if macs else 0.0
        bound = max(ideal, size / peak["byte"] * 1e6)
        latency = (latencies or {}).get(node.name)
        spent = bound if latency is None else latency
        line = peak[of] / peak["byte"] if of in peak else 0.0
        intensity = macs / size if size else 0.0
        layers.append(
            Layer(node.name, node.path, node.op, of, macs, size, intensity, line, ideal, bound, latency,
                  ideal / spent if spent else 0.0, min(1.0, intensity / line) if line else 0.0, bound - ideal, spent - bound)
        )  # fmt: skip
    return Roofline(tuple(layers), bool(latencies))


def machine_peak(timer: Timer, side: int = 512, megabytes: int = 256) -> dict[str, float]:
    """Peaks of this machine as PyTorch reaches them: a float product of two square matrices, and a copy larger than the caches.

    Args:
        timer: name -> call, to name -> us with (p10, p90); `measure.latency.time_side_by_side`. The fast end is taken: a peak
            is what nothing disturbed. Threads are the caller's.
        side: of the matrices.
        megabytes: that the copy reads, and writes.

    Returns:
        ``mac_float32`` and ``byte``, a second.
    """
    a, b, c = (torch.ones(side, side) for _ in range(3))
    x, y = (torch.ones(megabytes * 2**18) for _ in range(2))
    timed = timer({"mac_float32": lambda: torch.mm(a, b, out=c), "byte": lambda: y.copy_(x)})
    best = {name: (q.spread[0] if q.spread else q.value) * 1e-6 for name, q in timed.items()}
    return {"mac_float32": side**3 / best["mac_float32"], "byte": 2 * megabytes * 2**20 / best["byte"]}
