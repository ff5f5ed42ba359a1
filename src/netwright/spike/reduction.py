"""Iterative initialisation and retraining (IIR-SNN): train at five time steps, then at four, down to one.

    u = l v + z;    s = H(u/theta - 1);    v = u - theta s             theta and l learnt, one of each a layer
    T = 5:          weights of the float network (batch norm folded), theta = 90th percentile of the layer's currents
    T = 4, ..., 1:  everything from the network before, then trained again
    output          mean over time of the last layer's currents; the input is the same current in every step

In a deep network few neurons reach their threshold in a single step, so training at T = 1 is slow to start; coming from more
steps, weights and thresholds are already such that they do. The benchmark has both sides: this beats T = 1 trained as long as
its last stage, and from random weights, but not T = 1 trained from the float weights for as long as all stages together.
Chowdhury, Rathi and Roy 2021 (S247).

Every rectifier of the traced network becomes a layer of neurons (functional ones too); what else there is stays and is
carried out in every step. Differs from the authors' code: the output is the mean, not the sum, of the currents, so that the
loss keeps its scale from T to T - 1; H(0) = 1; no dropout.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.design.execute import GraphModule
from netwright.design.fold import fold
from netwright.design.trace import trace
from netwright.spike.neurons.diet import LEAST, DietLIF
from netwright.spike.neurons.neuron import simulate

paper = Paper(
    "chowdhury2021iir", "One Timestep Is All You Need: Training Spiking Neural Networks with Ultra Low Latency",
    "Chowdhury, Sayeed Shafayet and Rathi, Nitin and Roy, Kaushik", "arXiv", 2021, "https://arxiv.org/abs/2110.05929", "S247",
)  # fmt: skip

RECTIFIERS = ("relu", "relu6")
Fit = Callable[..., nn.Module]  # fit(network, stage=..., share=..., lr=..., weight_decay=...) -> the trained network


class _Neurons(nn.Module):
    """Neurons in place of one rectifier, for currents [T*N, C, ...]."""

    def __init__(self, leak: float):
        super().__init__()
        self.neuron = DietLIF(leak=leak)
        self.steps = 1
        self.percentile: float | None = None  # take the threshold from the next currents

    def forward(self, current: Tensor) -> Tensor:
        if self.percentile is not None:
            k = 1 + round(self.percentile / 100 * (current.numel() - 1))
            with torch.no_grad():
                self.neuron.theta.copy_(current.flatten().kthvalue(k).values.clamp(min=LEAST))
        return simulate(self.neuron, current.unflatten(0, (self.steps, -1))).flatten(0, 1)


class SpikingTwin(nn.Module):
    """A float network whose rectifiers are spiking neurons, over `steps` time steps: [N, C, ...] to logits [N, K].

    Args:
        module: the float network.
        example: one input.
        steps: T.
        leak: what the potential keeps from step to step, before training.

    Raises:
        TraceError: the network cannot be traced.
        NetwrightError: it has no rectifier, or T is below 1.
    """

    def __init__(self, module: nn.Module, example: Tensor, steps: int = 5, leak: float = 1.0):
        super().__init__()
        graph = fold(trace(module, example))
        neurons = {n.name: _Neurons(leak) for n in graph if n.op in RECTIFIERS}
        if not neurons:
            raise NetwrightError(
                "Nothing to make spiking: the network has no relu or relu6. Replace its activations by them and train it again."
            )
        self.network = GraphModule(graph, neurons)
        self.steps = steps

    @property
    def neurons(self) -> list[_Neurons]:
        return [m for m in self.network.modules() if isinstance(m, _Neurons)]

    @property
    def steps(self) -> int:
        return self._steps

    @steps.setter
    def steps(self, steps: int) -> None:
        if steps < 1:
            raise NetwrightError(f"A spiking network of {steps} time steps: at least 1 is needed.")
        self._steps = steps
        for layer in self.neurons:
            layer.steps = steps

    @torch.no_grad()
    def calibrate(self, x: Tensor, percentile: float = 90.0) -> None:
        """Thresholds from the currents that x [N, C, ...] causes, layer after layer, on the spikes of the layers before."""
        for layer in self.neurons:
            layer.percentile = percentile
        try:
            self(x)
        finally:
            for layer in self.neurons:
                layer.percentile = None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.network(x.repeat(self.steps, *[1] * (x.dim() - 1)))
        return y.unflatten(0, (self.steps, len(x))).mean(0)


@dataclass(frozen=True)
class IterativeReduction:
    """The schedule.

    Attributes:
        steps: T of each training, falling.
        percentile: of the currents, that the first thresholds are.
        leak: at first.
        lr, weight_decay: of every training.
    """

    steps: tuple[int, ...] = (5, 4, 3, 2, 1)
    percentile: float = 90.0
    leak: float = 1.0
    lr: float = 1e-3
    weight_decay: float = 0.0

    def train(self, module: nn.Module, example: Tensor, calibration: Tensor, fit: Fit) -> list[SpikingTwin]:
        """The trained network of each T in `steps`.

        Args:
            module: the trained float network.
            example: one input.
            calibration: training inputs [N, C, ...] for the thresholds.
            fit: (network, stage, share, lr, weight_decay) -> the network, trained with the share of the whole budget.
        """
        network = SpikingTwin(module, example, self.steps[0], self.leak)
        network.calibrate(calibration, self.percentile)
        found = []
        for steps in self.steps:
            network.steps = steps
            fit(network, stage=f"T = {steps}", share=1 / len(self.steps), lr=self.lr, weight_decay=self.weight_decay)
            network.eval()
            found.append(copy.deepcopy(network))
        return found
