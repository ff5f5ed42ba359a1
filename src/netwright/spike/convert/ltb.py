"""Local threshold balancing with delayed evaluation: ANN to SNN from forward passes alone (Bu, Li, Yu; CVPR 2025).

The error of a converted network is bounded by sum_l (prod_{k>l} ||W_k||) ||S(z_l; theta_l) - relu(z_l)||, where S is the
time-averaged output of the neurons. It is lowered layer by layer (equations 9 to 12), for each channel:

    theta_c <- theta_c + 2 eta mean[(z_c - theta_c) [z_c > theta_c]],    z clipped to [0, theta] for the layers behind
    v(0)     = theta / 2,        output = theta s,       soft reset
    delay    = sum_l (theta_l - v_l(0)) / max_c E[relu(z_l)_c];   the output sums the steps delay..T-1, or the last four
               where T < delay + 4

The fixed point of the rule is the largest activation; few iterations stop below it, which favours few steps.

What is added here, all from the same calibration data, none of it training:

* bipolar neurons (spikes -1, 0, 1) at linear points, so that linear bottlenecks, residual sums without a rectifier and
  depthwise-pointwise pairs convert (`signed`);
* the thresholds are the centre of a grid, from which each channel takes the one with the least error over T steps of the
  neuron itself, together with a bias for the steady state and a v(0) for the spikes that start-up lacks (see `fit`).
  Empty `multiples`, no rounds of correction and delay="paper" give the paper's method;
* everything is integer: 8-bit weights, whole thresholds and potentials (see `lower`).

The official code measures every window of steps and leaves the delay's layer rates unset; the formula is the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.design.execute import GraphModule
from netwright.design.trace import trace
from netwright.spike.convert.balance import activation, balance, delay
from netwright.spike.convert.converter import Converter, Progress, Spiking
from netwright.spike.convert.fit import fit
from netwright.spike.convert.lower import Lowering, Settings
from netwright.spike.convert.program import Neuron, Program
from netwright.spike.convert.read import read
from netwright.spike.encode.direct import Direct
from netwright.spike.encode.encoder import Encoder
from netwright.spike.unroll import ELEMENTS, batch_size, first_step


@dataclass(frozen=True)
class LocalThresholdBalancing(Converter):
    """Paper: 1000 or more iterations of 100 images on ImageNet, eta = 1, T from 32 to 512.

    Attributes:
        steps: T.
        rate: eta of the balancing rule.
        iterations: batches of `batch` images that balance the thresholds; the calibration data repeat as needed.
        signed: allow bipolar neurons at linear points; without them such networks are refused.
        delay: first step that the output counts: the paper's formula, the one with the least error of the logits on the
            calibration data, or none.
        multiples, starts: grid of theta (times the balanced one) and of v(0) (times theta; bipolar neurons only).
        bias_rounds, potential_rounds: trials of the bias and of the v(0) correction; 0 for none.
        windows: shares of T after which the bias is measured. Each gives a network; the one that agrees most often with the
            float network on calibration images that were not used to make it is kept.
        images: calibration images that run through the spiking network while it is made (fewer for large tensors).
    """

    name: ClassVar[str] = "ltb"
    paper: ClassVar[Paper] = Paper(
        "bu2025inference", "Inference-Scale Complexity in ANN-SNN Conversion for High-Performance and Low-Power Applications",
        "Bu, Tong and Li, Maohua and Yu, Zhaofei", "CVPR", 2025, "https://arxiv.org/abs/2409.03368", "S223",
    )  # fmt: skip
    steps: int = 16
    rate: float = 1.0
    iterations: int = 64
    batch: int = 100
    signed: bool = True
    delay: Literal["paper", "calibrated", "none"] = "calibrated"
    multiples: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3)
    starts: tuple[float, ...] = (-0.5, 0.0, 0.5)
    bias_rounds: int = 4
    potential_rounds: int = 4
    windows: tuple[float, ...] = (0.5, 0.25, 0.0)
    images: int = 128
    encoder: Encoder = field(default_factory=Direct)
    seed: int = 0

    def convert(self, module: nn.Module, example: Tensor, calibration: Tensor, progress: Progress | None = None) -> Spiking:
        if self.steps < 1:
            raise NetwrightError(f"a spiking network needs at least one time step, got steps = {self.steps}")
        if not len(calibration):
            raise NetwrightError("local threshold balancing needs calibration inputs, got none; give some training images")
        program = read(trace(module, example), self.signed)
        windows = self.windows[: None if self.bias_rounds else 1] or (0.0,)
        total = self.iterations + len(windows) * len(program.steps)

        def seen(done: int, text: str) -> None:
            if progress is not None:
                progress(done, total, text)

        def later(done: int, i: int) -> None:
            seen(done + i, "set layers")

        with torch.no_grad():
            calibration = calibration.to(torch.float32)
            theta = balance(program, calibration, self.iterations, self.batch, self.rate, lambda i: seen(i, "balance thresholds"))
            largest = max((math.prod(layer.region.shape) for layer in program.neurons), default=1)
            count = max(16, min(self.images, 2 * ELEMENTS // (self.steps * largest)))
            images = calibration[:count]
            held_out = calibration[count : 3 * count] if len(calibration) > count else images
            found: list[tuple[float, float, Spiking]] = []
            for i, window in enumerate(windows):
                done = self.iterations + i * len(program.steps)
                made = self._make(program, theta, images, calibration, window, partial(later, done))
                found.append((*(self._fidelity(program, made, held_out) if len(windows) > 1 else (0.0, 0.0)), made))
        return max(found, key=lambda f: f[:2])[2]

    def _make(self, program: Program, theta: dict[str, Tensor], images: Tensor, calibration: Tensor, window: float,
              seen: Callable[[int], None]) -> Spiking:  # fmt: skip
        lowering, logits = self._prepare(program, theta, images, calibration, int(window * self.steps))
        head = lowering.run(seen)
        if self.delay == "paper":
            waited = delay(program, images, theta, lowering.potentials)
        else:
            waited = self._delay(head.value, head.amplitude, logits, head.steps) if self.delay == "calibrated" else 0
        start = first_step(head.steps, waited)
        return Spiking(GraphModule(lowering.graph(head, start, waited)).eval(), head.steps, start, lowering.thresholds)

    @staticmethod
    def _fidelity(program: Program, made: Spiking, x: Tensor) -> tuple[float, float]:
        """Share of images with the float network's answer, and minus the mean squared error of the logits (breaks ties)."""
        wanted = program(x, activation)
        got = torch.cat([made.module(part) for part in x.split(batch_size(made.module))])
        return float((got.argmax(1) == wanted.argmax(1)).float().mean()), -float((got - wanted).square().mean())

    def _prepare(
        self, program: Program, theta: dict[str, Tensor], images: Tensor, calibration: Tensor, window: int
    ) -> tuple[Lowering, Tensor]:
        targets: dict[str, Tensor] = {}

        def remember(layer: Neuron, z: Tensor) -> Tensor:
            targets[layer.name] = activation(layer, z)
            return targets[layer.name]

        logits = program(images, remember)
        generator = torch.Generator().manual_seed(self.seed)

        def choose(layer: Neuron, current: Tensor, scale: Tensor, current_steps: int) -> Settings:
            whole = (theta[layer.name].double() / scale).round().clamp(1, 2**30)
            v0 = torch.zeros_like(whole) if layer.signed else (whole / 2).floor()
            target = targets.pop(layer.name)
            if not (self.multiples or self.bias_rounds or self.potential_rounds):
                return whole.long(), v0.long(), torch.zeros_like(whole).long()
            target = target / scale.to(target.dtype).reshape(-1, *[1] * (target.dim() - 2))
            multiples = self.multiples if layer.cap is None else tuple(m for m in self.multiples if m <= 1)
            starts = self.starts if layer.signed else (0.5,)
            return fit(current, target, whole, v0, current_steps=current_steps, steps=self.steps, signed=layer.signed,
                       multiples=multiples, starts=starts, bias_rounds=self.bias_rounds, window=window,
                       potential_rounds=self.potential_rounds, generator=generator)  # fmt: skip

        return Lowering(program, self.steps, self.encoder.code(calibration), images, choose), logits

    @staticmethod
    def _delay(current: Tensor, scale: Tensor, logits: Tensor, steps: int) -> int:
        """The first step whose window T - start gives the least mean squared error of the logits."""
        time = current.reshape(steps, len(current) // steps, *current.shape[1:]).double()
        scale = scale.reshape(-1, *[1] * (current.dim() - 2))
        errors = [float((time[b:].mean(0) * scale - logits).square().mean()) for b in range(first_step(steps, steps) + 1)]
        return errors.index(min(errors))
