"""Calibrated: what every conversion without training shares. A method says where thresholds come from, and no more.

read          the float network becomes a program of neurons and the linear regions between them
thresholds    theta [C] of every layer, from forward passes of the float network            (the method's)
lower         layer by layer to integers, every layer run on the spikes that the ones before it really send
refit         weights of a region, when the spikes that reach it are known                  (the method's, if it likes)
settle        theta, v(0), bias and rule of a layer, when its current is known              (the method's, if it likes)
read-out      the first step that the output counts, and the report
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from netwright.core.errors import NetwrightError
from netwright.design.execute import GraphModule
from netwright.design.trace import trace
from netwright.spike.convert.approximate import approximate
from netwright.spike.convert.balance import activation, delay
from netwright.spike.convert.converter import Converter, Fit, Layer, Progress, Spiking
from netwright.spike.convert.lower import Lowering, Settings, Wire
from netwright.spike.convert.program import Neuron, Program, Region
from netwright.spike.convert.quantiles import quantiles
from netwright.spike.convert.read import read
from netwright.spike.encode.direct import Direct
from netwright.spike.encode.encoder import Encoder
from netwright.spike.unroll import ELEMENTS, batch_size, first_step

Tick = Callable[[str], None]
IMAGES = 64  # that are looked at together


@dataclass(frozen=True, eq=False)
class Seen:
    """What a method sees of a layer whose turn it is. A unit of channel c is worth `unit[c]` in the float network.

    Attributes:
        current: int32 [S*N, C, ...], S = `current_steps` (1 where it is the same in every step).
        target: the float network's activation [N, C, ...], in units.
        theta: the threshold from `thresholds`, a whole number [C] of at least 1.
        largest: the most that theta may be: the bound of a clipped activation (relu6), else none.
    """

    layer: Neuron
    current: Tensor
    current_steps: int
    target: Tensor
    theta: Tensor
    unit: Tensor
    steps: int
    generator: torch.Generator

    @property
    def largest(self) -> Tensor | None:
        return None if self.layer.cap is None else (self.layer.cap / self.unit).round().clamp(min=1)


@dataclass(frozen=True)
class Calibrated(Converter):
    """Settings of the shared part.

    Attributes:
        steps: T.
        signed: allow bipolar neurons (spikes -1, 0, 1) at linear points, so that linear bottlenecks, residual sums without
            a rectifier and depthwise-pointwise pairs convert; without them such networks are refused.
        delay: first step that the output counts: the one with the least error of the logits on the calibration data, that
            of the formula of local threshold balancing, or none.
        images: calibration images that run through the spiking network while it is made (fewer for large tensors).
    """

    steps: int = 16
    signed: bool = True
    delay: Literal["calibrated", "paper", "none"] = "calibrated"
    images: int = 128
    encoder: Encoder = field(default_factory=Direct)
    seed: int = 0

    rule: ClassVar[str] = "if"  # of the neurons at rectified points
    limit: ClassVar[int] = 0
    start: ClassVar[float] = 0.5  # their v(0), in thresholds

    # -- what a method says ----------------------------------------------------------------------------------------
    def thresholds(self, program: Program, calibration: Tensor, tick: Tick) -> Mapping[str, Tensor]:
        """theta [C] of every layer of neurons, in the float network's units; unless said the largest activation."""
        return quantiles(program, calibration[: self.images], 1.0, channelwise=True)

    def refit(self, region: Region, fed: Mapping[str, Tensor], wanted: Tensor, rectified: bool,
              generator: torch.Generator) -> Region:  # fmt: skip
        """The region to use for what arrives, `fed` [N, C, ...] a source, where the float network gives `wanted`; see `refit`."""
        return region

    def settle(self, seen: Seen) -> Settings:
        """What the neurons of a layer get; here the threshold as it is, v(0) = start * theta, and no bias."""
        theta = seen.theta.long()
        if seen.layer.signed:
            return Settings(theta, torch.zeros_like(theta), torch.zeros_like(theta), "bipolar")
        return Settings(theta, (self.start * seen.theta).floor().long(), torch.zeros_like(theta), self.rule, self.limit)

    def variants(self) -> tuple[Calibrated, ...]:
        """Settings to try; the network that agrees most often with the float one, on images that did not make it, is kept."""
        return (self,)

    # -- the shared part -------------------------------------------------------------------------------------------
    def convert(self, module: nn.Module, example: Tensor, calibration: Tensor, progress: Progress | None = None,
                fit: Fit | None = None) -> Spiking:  # fmt: skip
        check(self, calibration)
        program = read(approximate(trace(module, example), calibration)[0], self.signed)
        return self.lower(program, calibration.to(torch.float32), progress)

    def lower(self, program: Program, calibration: Tensor, progress: Progress | None = None,
              theta: Mapping[str, Tensor] | None = None) -> Spiking:  # fmt: skip
        """`convert` for a network that has been read; with `theta`, for thresholds that are there already."""
        variants, done = self.variants(), 0
        total = len(variants) * len(program.steps)

        def tick(text: str) -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(min(done, total), total, text)

        with torch.no_grad():
            theta = self.thresholds(program, calibration, lambda text: None) if theta is None else theta
            count = calibration_images(program, self.steps, self.images)
            images = calibration[:count]
            held_out = calibration[count : 3 * count] if len(calibration) > count else images
            found = []
            for variant in variants:
                made = variant._make(program, theta, images, calibration, tick)
                found.append((fidelity(program, made.module, held_out) if len(variants) > 1 else (0.0, 0.0), made))
        return max(found, key=lambda f: f[0])[1]

    def _make(self, program: Program, theta: Mapping[str, Tensor], images: Tensor, calibration: Tensor, tick: Tick) -> Spiking:
        floats = program.values(images, activation)
        rectified = {layer.region.name: not layer.signed for layer in program.neurons}
        generator = torch.Generator().manual_seed(self.seed)
        layers: list[Layer] = []

        def refit(region: Region, wires: Mapping[str, Wire]) -> Region:
            if all(wires[t.source].steps == 1 for t in region.terms):  # the input itself arrives
                return region
            fed = {t.source: wires[t.source].mean() for t in region.terms}
            return self.refit(region, fed, replace(region, post=())(floats), rectified.get(region.name, False), generator)

        def choose(layer: Neuron, current: Wire) -> Settings:
            unit = current.amplitude
            whole = (theta[layer.name].double() / unit).round().clamp(1, 2**30)
            target = floats[layer.name] / unit.float().reshape(-1, *[1] * (floats[layer.name].dim() - 2))
            return self.settle(Seen(layer, current.value, current.steps, target, whole, unit, self.steps, generator))

        def watch(layer: Neuron, current: Wire, settings: Settings, spikes: Wire) -> None:
            layers.append(describe(layer, current, settings, spikes, floats[layer.name]))

        code = self.encoder.code(calibration)
        lowering = Lowering(program, self.steps, code, images, choose, refit, watch)
        head = lowering.run(lambda _: tick("set layers"))
        waited = 0
        if self.delay == "paper":
            waited = delay(program, images, theta, lowering.potentials)
        elif self.delay == "calibrated":
            waited = least_error_start(head, program.head(floats))
        start = first_step(head.steps, waited)
        module = GraphModule(lowering.graph(head, start, waited)).eval()
        return Spiking(module, head.steps, start, lowering.thresholds, tuple(layers), lowering.operations)


def check(converter: Converter, calibration: Tensor) -> None:
    """Raises NetwrightError where there are no steps or no calibration data."""
    if converter.steps < 1:
        raise NetwrightError(f"a spiking network needs at least one time step, got steps = {converter.steps}")
    if not len(calibration):
        raise NetwrightError(f"{converter.name} needs calibration inputs, got none; give some training images")


def calibration_images(program: Program, steps: int, images: int) -> int:
    """As many images as asked for, fewer where the spikes of T steps would need too much memory."""
    largest = max((math.prod(layer.region.shape) for layer in program.neurons), default=1)
    return max(16, min(images, 16 * ELEMENTS // (steps * largest)))


def fidelity(program: Program, module: GraphModule, x: Tensor) -> tuple[float, float]:
    """Share of images with the float network's answer, and minus the mean squared error of the logits (breaks ties)."""
    wanted = program(x, activation)
    got = torch.cat([module(part) for part in x.split(batch_size(module))])
    return float((got.argmax(1) == wanted.argmax(1)).float().mean()), -float((got - wanted).square().mean())


def least_error_start(head: Wire, logits: Tensor) -> int:
    """The first step whose window T - start gives the least mean squared error of the logits."""
    time = head.value.reshape(head.steps, len(logits), *head.value.shape[1:]).double()
    scale = head.amplitude.reshape(-1, *[1] * (head.value.dim() - 2))
    starts = range(first_step(head.steps, head.steps) + 1)
    errors = [float((time[b:].mean(0) * scale - logits).square().mean()) for b in starts]
    return errors.index(min(errors))


def describe(layer: Neuron, current: Wire, settings: Settings, spikes: Wire, target: Tensor) -> Layer:
    """The report of a layer from what it received and sent on the calibration images."""
    theta = settings.theta.to(torch.float32)
    worth = theta * current.amplitude.to(torch.float32)
    squares, lost, clipped, saturated, fired, ever = 0.0, 0.0, 0.0, 0.0, 0.0, torch.zeros(target.shape[1:], dtype=torch.bool)
    s, x = (w.value.unflatten(0, (w.steps, -1)) for w in (spikes, current))
    theta, worth, v0 = (p.reshape(-1, *[1] * (target.dim() - 2)) for p in (theta, worth, settings.v0.to(torch.float32)))
    for i in range(0, len(target), IMAGES):
        part, a = s[:, i : i + IMAGES], target[i : i + IMAGES]
        total, sizes = part.sum(0, dtype=torch.float32), part.abs().sum(0, dtype=torch.float32)
        left = v0 + x[:, i : i + IMAGES].sum(0, dtype=torch.float32) * (spikes.steps / current.steps) - theta * total
        squares += float(a.square().sum())
        lost += float((total * worth / spikes.steps - a).square().sum())
        clipped += float((a.abs() > spikes.bound * worth).sum())
        saturated += float((left.abs() > 2 * theta).sum())
        fired += float(sizes.sum())
        ever |= (sizes > 0).any(0)
    count = target.numel()
    return Layer(
        spikes.node.name, layer.region.path, settings.rule, math.prod(layer.region.shape),
        (float(worth.min()), float(worth.mean()), float(worth.max())), clipped / count, math.sqrt(lost / max(squares, 1e-12)),
        fired / s.numel(), float((~ever).float().mean()), saturated / count,
    )  # fmt: skip
