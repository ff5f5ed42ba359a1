"""Chip: does a converted network fit a neuromorphic processor, layer by layer, and on how many cores?

A layer's neurons are spread over cores. A core holds so many neurons, listens to so many input channels (axons) and stores so
many synaptic weights; a neuron may have so many inputs. For a layer of n neurons with fan-in f over i inputs,

    cores = max( ceil(n / neurons),  ceil(n f bits / (8 memory)),  ceil(i / axons) )

Weights of convolutions are stored once a synapse, as the Loihi of Massa et al. 2020 does; `shared` counts each kernel once a core
instead (Loihi 2). Inputs of a core are counted from below: all its neurons are taken to share their windows.

`respect` cuts a trained network's fan-in to what a chip allows, before conversion: of every output channel the inputs with the
largest |w| rms(a) are kept. Weights have 8 bits after any conversion of this folder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from netwright.core.graph import Graph, Node
from netwright.core.paper import Paper
from netwright.design.execute import GraphModule
from netwright.design.trace import trace

paper = Paper(
    "massa2020efficient",
    "An Efficient Spiking Neural Network for Recognizing Gestures with a DVS Camera on the Loihi Neuromorphic Processor",
    "Massa, Riccardo and Marchisio, Alberto and Martina, Maurizio and Shafique, Muhammad", "IJCNN", 2020,
    "https://arxiv.org/abs/2006.09985", "S228",
)  # fmt: skip


@dataclass(frozen=True)
class Chip:
    """Limits of a processor; `memory` in bytes of weights a core, `axons` input channels a core."""

    name: str
    cores: int
    neurons: int
    fan_in: int
    axons: int
    memory: int
    weight_bits: int = 8
    shared: bool = False
    signed: bool = True  # whether spikes may be negative
    source: str = ""


LOIHI = Chip("loihi", 128, 1024, 4096, 4096, 128 * 1024, 8, source="Davies et al., IEEE Micro 38(1), 2018: cores, "
             "compartments, fan-in state, 128 KB of synaptic memory")  # fmt: skip


@dataclass(frozen=True)
class Placement:
    """One layer on a chip.

    Attributes:
        fan_in: synapses of a neuron, zeros not counted.
        cores: that the layer needs; `bound` says by what (neurons, memory or axons).
        exceeds: what no number of cores mends, in words; empty where it fits.
    """

    layer: str
    neurons: int
    fan_in: int
    synapses: int
    cores: int
    bound: str
    exceeds: tuple[str, ...]


@dataclass(frozen=True)
class Fitting:
    """All layers of a network; `fits` is true where none exceeds a limit and the cores suffice."""

    chip: Chip
    layers: tuple[Placement, ...]

    @property
    def cores(self) -> int:
        return sum(layer.cores for layer in self.layers)

    @property
    def fits(self) -> bool:
        return self.cores <= self.chip.cores and not any(layer.exceeds for layer in self.layers)


def _fed(graph: Graph, node: Node) -> list[Node]:
    """The weighted layers whose currents reach a neuron."""
    found, waiting = [], list(node.inputs)
    while waiting:
        source = graph[waiting.pop()]
        if source.op in ("qconv2d", "qlinear"):
            found.append(source)
        else:
            waiting.extend(source.inputs)
    return found


def place(graph: Graph, chip: Chip = LOIHI) -> Fitting:
    """A converted network on a chip; the classifier's sums count as a layer of neurons, and pooling of spikes as synapses."""
    rows = []
    for node in graph:
        if node.op not in ("integrate", "readout"):
            continue
        weighted = _fed(graph, node)
        neurons = node.spec.elements
        kernels = [graph.value(n, "weight") for n in weighted]
        fan_in = max(int(sum((k != 0).reshape(len(k), -1).sum(1) for k in kernels).max()), 1) if kernels else 0
        inputs = sum(graph[n.inputs[0]].spec.elements for n in weighted)
        stored = sum(int((k != 0).sum()) * (1 if chip.shared else neurons // len(k)) for k in kernels)
        ways = {
            "neurons": math.ceil(neurons / chip.neurons),
            "memory": math.ceil(stored * chip.weight_bits / 8 / chip.memory),
            "axons": math.ceil(inputs / chip.axons),
        }
        bound = max(ways, key=lambda k: ways[k])
        exceeds = []
        if fan_in > chip.fan_in:
            exceeds.append(f"fan-in {fan_in} of {chip.fan_in}")
        bits = max((int(n.attrs["bits"]) for n in weighted), default=0)
        if bits > chip.weight_bits:
            exceeds.append(f"weights of {bits} bits of {chip.weight_bits}")
        if not chip.signed and node.attrs.get("rule") in ("bipolar", "memory"):
            exceeds.append("negative spikes")
        rows.append(Placement(node.name, neurons, fan_in, stored, ways[bound], bound, tuple(exceeds)))
    return Fitting(chip, tuple(rows))


def respect(module: nn.Module, example: Tensor, calibration: Tensor, chip: Chip = LOIHI) -> GraphModule:
    """`module` with no output of more inputs than the chip's fan-in; the others are set to zero, least |w| rms(a) first.

    Args:
        calibration: inputs [N, C, H, W] that the activations are measured on.
    """
    graph, values = trace(module, example), {}
    sizes: dict[str, Tensor] = {}

    def visit(node: Node, out: Tensor) -> None:
        sizes[node.name] = out.detach().float().square().mean([d for d in range(out.dim()) if d != 1]).sqrt()

    with torch.no_grad():
        GraphModule(graph).eval()(calibration.float(), visit=visit)
    for node in graph:
        if node.op not in ("conv2d", "linear"):
            continue
        weight = torch.tensor(graph.value(node, "weight"))
        if weight[0].numel() <= chip.fan_in:
            continue
        rms = sizes[node.inputs[0]]
        if len(rms) != weight.shape[1]:  # grouped: every output's channels count alike
            rms = torch.ones(weight.shape[1])
        worth = (weight * rms.reshape(-1, *[1] * (weight.dim() - 2))).abs().flatten(1)
        kept = torch.zeros_like(worth).scatter_(1, worth.topk(chip.fan_in, 1).indices, 1.0)
        values[node.weights["weight"]] = (weight * kept.reshape(weight.shape)).numpy()
    return GraphModule(graph.replace(graph.nodes, values={**graph.values, **values})).eval()
