"""Layers over time: spiking networks as ordinary modules, time first.

A tensor over time is [T, N, C, ...]. `Spiking` runs neurons through it, `OverTime` applies any layer to all steps as one
batch; `repeat` gives the same input in every step. `firing` tells which neurons of a network are dead, always on, or
running away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from netwright.core.errors import NetwrightError
from netwright.spike.neurons.neuron import Neuron, simulate, unroll


class Spiking(nn.Module):
    """Currents [T, N, C, ...] to spikes of the same shape, each sequence from the neuron's start.

    All steps are computed at once where the neuron has a parallel form. A neuron that is a module itself (`PLIF`) is
    trained with the network.
    """

    def __init__(self, neuron: Neuron[Any]):
        super().__init__()
        self.neuron = neuron

    def forward(self, current: Tensor) -> Tensor:
        return simulate(self.neuron, current)

    def extra_repr(self) -> str:
        return "" if isinstance(self.neuron, nn.Module) else repr(self.neuron)


class OverTime(nn.Module):
    """A layer for [N, ...], applied to [T, N, ...] with the steps as part of the batch (so batch statistics go over time)."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layer = layers[0] if len(layers) == 1 else nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.flatten(0, 1))
        return y.unflatten(0, x.shape[:2])


def repeat(x: Tensor, steps: int) -> Tensor:
    """Direct coding: x [N, ...] in each of `steps` steps, [T, N, ...], without a copy."""
    return x.expand(steps, *x.shape)


@dataclass(frozen=True)
class Firing:
    """What the neurons of one layer did on some inputs.

    Attributes:
        rate: mean spikes (of either sign) a neuron and step.
        dead: share of neurons that never fired.
        saturated: share of neurons that fired in every step of every input.
        largest: the largest size of a state variable after the last step, in the unit of the current.
    """

    rate: float
    dead: float
    saturated: float
    largest: float

    @classmethod
    def of(cls, spikes: Tensor, state: Any) -> Firing:
        """Of spikes [T, N, C, ...] and the state after them."""
        each = (spikes != 0).float().mean((0, 1))
        largest = max((float(t.abs().max()) for t in _tensors(state) if t.numel()), default=0.0)
        return cls(float(spikes.abs().mean()), float((each == 0).float().mean()), float((each == 1).float().mean()), largest)

    def troubles(self, share: float = 0.5, potential: float = 1e3) -> list[str]:
        """What is wrong, in words; nothing for a healthy layer.

        Args:
            share: of the neurons that may be dead or saturated.
            potential: that may not be exceeded.
        """
        found = ["never fires"] if self.rate == 0 else []
        if self.rate > 0 and self.dead > share:
            found.append(f"{self.dead:.0%} of the neurons never fire")
        if self.saturated > share:
            found.append(f"{self.saturated:.0%} of the neurons fire in every step")
        if not self.largest <= potential:
            found.append(f"a potential reaches {self.largest:.3g}")
        return found


def firing(module: nn.Module, *inputs: Tensor) -> dict[str, Firing]:
    """Firing of every `Spiking` layer, by its name, when `module` is called with `inputs` in evaluation mode.

    Raises:
        NetwrightError: no such layer was reached.
    """
    found: dict[str, Firing] = {}

    def watch(name: str, layer: Spiking) -> Any:
        def hook(_: nn.Module, given: tuple[Tensor, ...], __: Tensor) -> None:
            found[name] = Firing.of(*unroll(layer.neuron, given[0]))

        return layer.register_forward_hook(hook)

    hooks = [watch(name, layer) for name, layer in module.named_modules() if isinstance(layer, Spiking)]
    modes = {m: m.training for m in module.modules()}
    try:
        with torch.no_grad():
            module.eval()(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for m, mode in modes.items():
            m.training = mode
    if not found:
        raise NetwrightError("No `Spiking` layer was reached: there is no firing to tell of.")
    return found


def _tensors(state: Any) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else [t for part in state for t in _tensors(part)]
