"""Pre-training as a bridge: the weights of the trained float network start a spiking one of the same shape, which is then
trained with surrogate gradients at the wanted number of steps.

    u = v + W s + b;   s = H(u - theta);   v = u - theta s;   v(0) = theta/2;   dL/du = sigma'(u - theta) dL/ds
    logits = mean over the T steps

The network over time is made from the program of the conversion, so batch norm is folded and every structure that converts
can be trained. Thresholds start at a percentile of each channel's activations and are learnt with the weights. What comes out
is lowered to integers like any converted network. Lin et al. 2024 report a tenth of the training time of a spiking network
from scratch on ImageNet; their pipelines for event data are a matter of the data given to `fit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.design.trace import trace
from netwright.spike.convert.approximate import approximate
from netwright.spike.convert.calibrated import Calibrated, Seen, check
from netwright.spike.convert.converter import Fit, Progress, Spiking
from netwright.spike.convert.lower import Settings
from netwright.spike.convert.program import Neuron, Program, Region, View
from netwright.spike.convert.quantiles import quantiles
from netwright.spike.convert.read import read
from netwright.spike.neurons.neuron import channelwise
from netwright.spike.surrogates import ARCTAN, Surrogate

RULES = {"binary": "if", "bipolar": "memory"}


class OverSteps(nn.Module):
    """A program as a trainable spiking network: x [N, C, H, W] -> logits [N, K], the mean over `steps` steps.

    Weights, biases and thresholds are parameters; `program` gives them back as a program.

    Args:
        rule: of the neurons at rectified points, "if" or "memory" (see the neurons' files).
    """

    def __init__(self, program: Program, theta: Mapping[str, Tensor], steps: int, surrogate: Surrogate, rule: str = "if"):
        super().__init__()
        self.start, self.steps, self.surrogate, self.rule = program, steps, surrogate, rule
        self.weights, self.biases = nn.ParameterDict(), nn.ParameterDict()
        for name, region in self._regions():
            self.biases[name] = nn.Parameter(region.bias.float())
            for i, term in enumerate(region.terms):
                self.weights[f"{name}:{i}"] = nn.Parameter(term.weight.float().clone(), requires_grad=not term.skip)
        self.theta = nn.ParameterDict({self._key(k): nn.Parameter(v.float().clamp(min=1e-3)) for k, v in theta.items()})

    @staticmethod
    def _key(name: str) -> str:
        return name.replace(".", "/")

    def _regions(self) -> list[tuple[str, Region]]:
        return [*((self._key(n.name), n.region) for n in self.start.neurons), ("/head", self.start.head)]

    def threshold(self, name: str) -> Tensor:
        """theta [C] of a layer."""
        return self.theta[self._key(name)].clamp(min=1e-3)

    @property
    def program(self) -> Program:
        """The program with the present weights."""
        live = {
            name: replace(region, bias=self.biases[name],
                          terms=tuple(replace(t, weight=self.weights[f"{name}:{i}"]) for i, t in enumerate(region.terms)))
            for name, region in self._regions()
        }  # fmt: skip
        steps = (replace(s, region=live[self._key(s.name)]) if isinstance(s, Neuron) else s for s in self.start.steps)
        return Program(self.start.input, tuple(steps), live["/head"])

    def spikes(self, layer: Neuron, z: Tensor, constant: bool) -> Tensor:
        """Decoded spikes theta * s [T*N, C, ...] of the currents z, [N, C, ...] where they are constant, else [T*N, C, ...]."""
        current = z.expand(self.steps, *z.shape) if constant else z.unflatten(0, (self.steps, -1))
        theta = channelwise(self.threshold(layer.name), z)
        v = torch.zeros_like(current[0]) if layer.signed else (theta / 2).expand_as(current[0])
        total, sent = torch.zeros_like(current[0]), []
        for x in current:
            v = v + x
            s = self.surrogate((v - theta) / theta)
            if layer.signed:
                s = s - self.surrogate((-v - theta) / theta)
            elif self.rule == "memory":
                s = s - (1 - self.surrogate(v / theta)) * (total > 0)
                total = total + s.detach()
            v = v - theta * s.detach()
            sent.append(theta * s)
        return torch.cat(sent)

    def forward(self, x: Tensor) -> Tensor:
        program = self.program
        tensors, constant = {program.input.name: x}, {program.input.name}

        def over_time(name: str) -> Tensor:
            y = tensors[name]
            return y.repeat(self.steps, *[1] * (y.dim() - 1)) if name in constant else y

        for step in program.steps:
            sources = step.sources if isinstance(step, View) else tuple(t.source for t in step.region.terms)
            same = all(s in constant for s in sources)
            given = {s: tensors[s] if same else over_time(s) for s in sources}
            if isinstance(step, Neuron):
                tensors[step.name] = self.spikes(step, step.region(given), same)
            else:
                tensors[step.name] = step(*(given[s] for s in sources))
                constant |= {step.name} if same else set()
        y = program.head({t.source: over_time(t.source) for t in program.head.terms})
        return y.unflatten(0, (self.steps, -1)).mean(0)


@dataclass(frozen=True)
class Bridge(Calibrated):
    """ANN pre-training, then surrogate gradients.

    Attributes:
        neuron: of rectified points: binary (0, 1), or bipolar (-1, 0, 1, its sum never below zero).
        share: percentile that the thresholds start from, as a share of 1.
        lr: learning rate handed to `fit`.
    """

    steps: int = 4
    neuron: Literal["binary", "bipolar"] = "binary"
    share: float = 0.99
    lr: float = 5e-4
    surrogate: Surrogate = field(default=ARCTAN)

    trains: ClassVar[bool] = True
    name: ClassVar[str] = "bridge"
    paper: ClassVar[Paper] = Paper(
        "lin2024rethinking", "Rethinking Pretraining as a Bridge From ANNs to SNNs",
        "Lin, Yihan and Hu, Yifan and Ma, Shijie and Yu, Dongjie and Li, Guoqi", "IEEE TNNLS", 2024,
        "https://arxiv.org/abs/2203.01158", "S226",
    )  # fmt: skip

    def prepare(self, module: nn.Module, example: Tensor, calibration: Tensor) -> OverSteps:
        """The spiking network to train, with the weights of `module`."""
        program = read(approximate(trace(module, example), calibration)[0], self.signed)
        with torch.no_grad():
            theta = quantiles(program, calibration[: self.images].float(), self.share, channelwise=True)
        return OverSteps(program, theta, self.steps, self.surrogate, RULES[self.neuron])

    def settle(self, seen: Seen) -> Settings:
        new = super().settle(seen)
        return new if seen.layer.signed else replace(new, rule=RULES[self.neuron])

    def convert(self, module: nn.Module, example: Tensor, calibration: Tensor, progress: Progress | None = None,
                fit: Fit | None = None) -> Spiking:  # fmt: skip
        check(self, calibration)
        if fit is None:
            raise NetwrightError(f"{self.name} trains a spiking network, and no fit callable was given. Pass fit=...")
        trainee = fit(self.prepare(module, example, calibration), stage=self.name, share=1.0, lr=self.lr, weight_decay=0.0)
        assert isinstance(trainee, OverSteps)
        return self.finish(trainee, calibration, progress)

    def finish(self, trainee: OverSteps, calibration: Tensor, progress: Progress | None = None) -> Spiking:
        """The integer network of a trained one."""
        with torch.no_grad():
            program = trainee.eval().program
            theta = {layer.name: trainee.threshold(layer.name) for layer in program.neurons}
        whole = replace(self, delay="none")  # it was trained to answer with the mean of all steps
        return whole.lower(program, calibration.to(torch.float32), progress, theta)
