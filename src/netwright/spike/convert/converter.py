"""Converter: the role of every method in this folder, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from netwright.core.paper import Paper
from netwright.design.execute import GraphModule

Progress = Callable[[int, int, str], None]
Fit = Callable[..., nn.Module]


@dataclass(frozen=True)
class Layer:
    """What became of one layer of neurons, counted on the calibration images that the conversion ran.

    Attributes:
        name: of its `integrate` node; `path` is the module of the float network.
        rule: of its neurons (if, bipolar, memory, burst).
        neurons: of one image.
        threshold: least, mean and largest theta of its channels, in the float network's units.
        clipped: share of the float activations above what a spike in every step is worth.
        error: root mean square of decoded spikes minus float activation, as a share of the activation's root mean square.
        rate: spikes a neuron and step, of both signs.
        dead: share of neurons that never fired on any image.
        saturated: share of potentials that end more than two thresholds away from rest: input that was not passed on.
    """

    name: str
    path: str
    rule: str
    neurons: int
    threshold: tuple[float, float, float]
    clipped: float
    error: float
    rate: float
    dead: float
    saturated: float


@dataclass(frozen=True)
class Spiking:
    """A converted network.

    `module` runs the integer spiking graph, [N, C, H, W] -> logits; `steps` is T and `start` the first step that the
    output counts (delayed evaluation); `thresholds` gives theta [C] of every layer of neurons, in the float network's units;
    `layers` says what became of each; `operations` are the synaptic operations of an image: additions caused by spikes.
    """

    module: GraphModule
    steps: int
    start: int
    thresholds: Mapping[str, Tensor]
    layers: tuple[Layer, ...] = ()
    operations: float = 0.0


class Converter:
    """Turns a trained float network into a spiking one: a frozen dataclass of settings."""

    name: ClassVar[str]
    paper: ClassVar[Paper]
    trains: ClassVar[bool] = False  # whether `convert` needs `fit`
    steps: int

    def convert(self, module: nn.Module, example: Tensor, calibration: Tensor, progress: Progress | None = None,
                fit: Fit | None = None) -> Spiking:  # fmt: skip
        """The spiking form of `module`.

        Args:
            module: any convolutional network of this role's operations, at inference.
            example: an input [1, C, H, W]; only its shape matters.
            calibration: inputs [N, C, H, W] as the network will see them; no labels.
            fit: ``fit(trainee, stage=, share=, lr=, weight_decay=) -> trainee``; not called by methods without training.

        Raises:
            Unsupported: an operation has no spiking form; names it and its module.
            NetwrightError: no calibration data, fewer than one step, or a method that trains and no `fit`.
        """
        raise NotImplementedError
