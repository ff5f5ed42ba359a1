"""Lossless conversion (CNN-Morph): a spiking network whose output is, integer for integer, that of a quantised network.

A neuron of the quantised network, n = clip(floor((v0 + z) / theta), 0, L), becomes one that remembers how many spikes it
has sent, A, and takes one back where it sent too many:

    v += x;   s = +1 where v >= theta and A < L,   -1 where v < 0 and A > 0;   v -= theta s;   A += s

Why nothing is lost: v = v0 + sum x - theta A throughout, and the neuron is silent exactly where 0 <= v < theta, or A = L and
v >= theta, or A = 0 and v < 0, that is where A = n of the total input, in whatever order it came. The total input of a layer
is linear in the counts before it. So once a step is silent everywhere, and the input has flowed, every count is that of the
quantised network, and the sum of the output currents is its sum, in whole numbers.

The input flows once, in the first step (`encode.analog`), biases are initial potentials. Max pooling is not linear, so its
currents are the changes of the pooled running sums (accumulate, max_pool2d, difference): they add up to the pooled total.

Su et al. 2024, sections 3.2 and 3.3; the neuron is the bipolar one of that paper with the memory of ST-BIF. Added: whole
numbers throughout, hence equality rather than closeness; max pooling; the steps that a network needs, from calibration
data; post-training calibration in place of training where that is enough (see `quantised`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from netwright.core.errors import NetwrightError, Unsupported
from netwright.core.graph import Graph, Node
from netwright.core.paper import Paper
from netwright.design.execute import GraphModule
from netwright.design.trace import trace
from netwright.spike.convert.balance import activation
from netwright.spike.convert.converter import Converter, Fit, Layer, Progress, Spiking
from netwright.spike.convert.quantised import Quantised, described
from netwright.spike.convert.read import read
from netwright.spike.encode.analog import Analog
from netwright.spike.neurons.neuron import channelwise
from netwright.spike.unroll import steps_to_rest

WHO = "Lossless conversion"
LONGEST = 1024  # steps after which a network that still spikes is given up
REPORTED = 64  # calibration inputs that the rates of the graph come from


def _timed(op: str, steps: int) -> dict[str, Any]:
    if op == "iadd":
        return {"a_steps": steps, "b_steps": steps}
    return {"steps": steps} if op == "readout" else {"steps": steps, "current_steps": steps, "rule": "memory"}


def spiking(graph: Graph, steps: int) -> Graph:
    """The spiking form of a quantised graph (`Quantised.write`) over `steps` time steps."""
    nodes: list[Node] = []
    once: set[str] = set()  # the input and what is made from it alone: computed once, not over time
    pulses: dict[str, str] = {}

    def add(node: Node, over: int = steps) -> str:
        nodes.append(replace(node, spec=replace(node.spec, steps=over)))
        return node.name

    def flowing(name: str) -> str:
        """A current over time; one that is computed once flows in the first step."""
        if name in once and name not in pulses:
            attrs = {"steps": steps, "current_steps": 1}
            pulses[name] = add(Node(f"{name}_once", "difference", (name,), graph[name].spec, attrs, path=graph[name].path))
        return pulses.get(name, name)

    for node in graph:
        still = all(i in once for i in node.inputs)
        if node.op in ("integrate", "readout") or (node.op == "iadd" and not still):
            timed = replace(node, inputs=tuple(map(flowing, node.inputs)), attrs={**node.attrs, **_timed(node.op, steps)})
            add(timed, 1 if node.op == "readout" else steps)
        elif node.op == "dequantize":
            add(node, 1)
        elif still:
            once.add(add(node, 1))
        elif node.op == "max_pool2d":
            (source,) = node.inputs
            total = add(Node(f"{node.name}_total", "accumulate", (source,), graph[source].spec, {"steps": steps}, path=node.path))
            pooled = add(replace(node, name=f"{node.name}_max", inputs=(total,)))
            add(Node(node.name, "difference", (pooled,), node.spec, {"steps": steps, "current_steps": steps}, path=node.path))
        else:
            add(node)
    return graph.replace(nodes)


@dataclass(frozen=True)
class Lossless(Converter):
    """Exact with 2 to 4 bits an activation, in about L steps and a few more for what layers have to correct.

    Attributes:
        bits: of an activation, 1 to 7: counts 0..L with L <= 2^bits - 1.
        steps: T. 0: L = 2^bits - 1, and as many steps as the calibration data need and `margin` more. Else the largest L with
            which the calibration data are at rest before the last step.
        margin: see `steps`; which inputs were at rest `unroll.steps_to_rest` tells.
        images: calibration inputs that set the step sizes, and four times as many the steps.
        rounds: trials of the bias correction.
        lr: learning rate handed to `fit`.

    Raises:
        NetwrightError: a field is out of its range.
    """

    name: ClassVar[str] = "lossless"
    paper: ClassVar[Paper] = Analog.paper
    bits: int = 3
    steps: int = 0
    margin: int = 2
    images: int = 256
    rounds: int = 2
    lr: float = 1e-3
    encoder: Analog = field(default_factory=Analog)

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 7:
            raise NetwrightError(f"lossless conversion counts with 1 to 7 bits, got bits = {self.bits}. Take 2, 3 or 4.")
        for key, least in (("steps", 0), ("margin", 1), ("images", 1), ("rounds", 0)):
            if getattr(self, key) < least:
                raise NetwrightError(f"lossless conversion needs {key} >= {least}, got {key} = {getattr(self, key)}.")

    def convert(self, module: nn.Module, example: Tensor, calibration: Tensor, progress: Progress | None = None,
                fit: Fit | None = None) -> Spiking:  # fmt: skip
        """The spiking form of `module` with quantised activations.

        Args:
            fit: trains the quantised network where calibration alone loses too much; without it nothing is trained.

        Raises:
            Unsupported: an operation has no such form, or a layer has negative values.
            NetwrightError: no calibration data, or they are not at rest in time.
        """
        net = self.prepare(module, example, calibration, progress)
        if fit is not None:
            trained = fit(net, stage=self.name, share=1.0, lr=self.lr, weight_decay=0.0)
            assert isinstance(trained, Quantised)
            net = trained.eval()
        return self.finish(net, calibration)

    def prepare(self, module: nn.Module, example: Tensor, calibration: Tensor, progress: Progress | None = None) -> Quantised:
        """The quantised network, its step sizes and biases from calibration data; it can be trained, then finished."""
        if not len(calibration):
            raise NetwrightError("lossless conversion needs calibration inputs, got none; give some training images.")
        program = read(trace(module, example))
        for layer in program.neurons:
            if layer.signed:
                way_out = "It has negative values, which counts of spikes have not: put a rectifier behind it."
                raise Unsupported(WHO, "linear point", layer.region.path or layer.name, way_out)
        calibration = calibration.to(torch.float32)
        images = calibration[: self.images]
        with torch.no_grad():
            targets = program.values(images, activation)

        def seen(done: int) -> None:
            if progress is not None:
                progress(done, len(program.neurons), "set step sizes")

        most = 2**self.bits - 1
        for levels in range(most if not self.steps else max(1, min(most, self.steps - 1)), 0, -1):
            net = Quantised(program, levels, self.encoder.code(calibration))
            net.calibrate(images, targets, self.rounds, seen)
            if not self.steps or levels == 1 or self._needed(net.write(images[:1])[0], calibration, self.steps) < self.steps:
                break
        return net.eval()

    def finish(self, net: Quantised, calibration: Tensor) -> Spiking:
        """The spiking form of a prepared network, trained or not."""
        calibration = calibration.to(torch.float32)
        graph, thresholds = net.write(calibration[:REPORTED])
        steps = self.steps or 4 * net.levels
        while (needed := self._needed(graph, calibration, steps)) >= steps:
            if self.steps or steps >= LONGEST:
                raise NetwrightError(
                    f"lossless conversion with T = {steps}: an input of the calibration data still spikes in step {needed}. "
                    "Allow more steps (0: as many as it takes), or take fewer bits."
                )
            steps *= 2
        steps = self.steps or needed + self.margin
        made = GraphModule(described(spiking(graph, steps), calibration[:REPORTED])).eval()
        return Spiking(made, steps, 0, thresholds, *report(net, made, thresholds, calibration[:REPORTED]))

    def _needed(self, graph: Graph, calibration: Tensor, steps: int) -> int:
        """The last of `steps` steps in which a neuron fires for any of the calibration data."""
        return int(steps_to_rest(GraphModule(spiking(graph, steps)), calibration[: 4 * self.images]).max())


@torch.no_grad()
def report(
    net: Quantised, made: GraphModule, thresholds: Mapping[str, Tensor], images: Tensor
) -> tuple[tuple[Layer, ...], float]:
    """What became of each layer on some images, and the synaptic operations an image."""
    wanted = net.program.values(images, activation)
    totals: dict[str, Tensor] = {}  # over time
    sizes: dict[str, float] = {}  # sum of magnitudes an image
    layers: list[Layer] = []
    operations = 0.0

    def visit(node: Node, out: Tensor) -> None:
        nonlocal operations
        totals[node.name] = out.reshape(node.spec.steps, len(images), *out.shape[1:]).sum(0, dtype=torch.float64)
        sizes[node.name] = float(out.to(torch.float64).abs().sum()) / len(images)
        if node.macs and node.spec.steps > 1:
            operations += node.macs * sizes[node.inputs[0]] / made.graph[node.inputs[0]].spec.elements
        if node.op != "integrate":
            return
        a, worth = wanted[node.name].double(), thresholds[node.name]
        theta, v0 = (channelwise(made.weights(node)[k].double(), a) for k in ("theta", "v0"))
        counts, unit = totals[node.name], channelwise(worth, a)
        left = v0 + totals[node.inputs[0]] - theta * counts
        layers.append(Layer(
            node.name, node.path, "memory", a[0].numel(), (float(worth.min()), float(worth.mean()), float(worth.max())),
            clipped=float((a > net.levels * unit).double().mean()),
            error=float((counts * unit - a).square().mean().sqrt() / a.square().mean().sqrt().clamp(min=1e-12)),
            rate=sizes[node.name] / a[0].numel() / node.spec.steps,
            dead=float((out.reshape(-1, *a.shape[1:]) == 0).all(0).double().mean()),
            saturated=float((left.abs() > 2 * theta).double().mean()),
        ))  # fmt: skip

    made(images, visit=visit)
    return tuple(layers), operations
