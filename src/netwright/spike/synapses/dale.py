"""Dale's law: all synapses of a neuron excite, or all inhibit.

    w[o, i] = |p[o, i]| sign[i],    sign[i] = +1 or -1, fixed

A parametrisation of the weight [O, I, ...] of any linear or convolutional layer, whose inputs are the presynaptic neurons:
`Dale(signs).on(layer)`. The gradient is that of |p|; a weight of 0 stays there for one step at most. Song, Yang and Wang
2016, with |p| in place of the rectified p, so that no weight is dead.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.spike.neurons.delayed import Delayed
from netwright.spike.synapses.synapse import Synapse


class Dale(nn.Module, Synapse):
    """Signs of the presynaptic neurons.

    Args:
        signs: [I] of -1 and +1.

    Raises:
        NetwrightError: other values.
    """

    name: ClassVar[str] = "dale"
    paper: ClassVar[Paper] = Paper(
        "song2016training",
        "Training Excitatory-Inhibitory Recurrent Neural Networks for Cognitive Tasks: A Simple and Flexible Framework",
        "Song, H. Francis and Yang, Guangyu R. and Wang, Xiao-Jing", "PLoS Computational Biology", 2016,
        "https://doi.org/10.1371/journal.pcbi.1004792",
    )  # fmt: skip
    also: ClassVar[tuple[Paper, ...]] = (Delayed.paper,)

    signs: Tensor

    def __init__(self, signs: Tensor):
        super().__init__()
        if not bool((signs.abs() == 1).all()):
            raise NetwrightError(f"Dale's law takes one sign (-1 or +1) for each input; given were {signs.unique().tolist()}.")
        self.register_buffer("signs", signs.to(torch.float32))

    @classmethod
    def drawn(cls, inputs: int, generator: torch.Generator, excitatory: float = 0.8) -> Dale:
        """The share `excitatory` of the inputs excite, drawn at random."""
        signs = torch.ones(inputs)
        signs[torch.randperm(inputs, generator=generator)[round(excitatory * inputs) :]] = -1
        return cls(signs)

    def forward(self, p: Tensor) -> Tensor:
        return p.abs() * self.signs.to(p.dtype).reshape(1, -1, *[1] * (p.dim() - 2))

    def right_inverse(self, w: Tensor) -> Tensor:
        """The parameter that a weight gives at first; its size is kept, its sign where it obeys the law."""
        return w.abs()

    def on(self, layer: nn.Module) -> nn.Module:
        """`layer` itself, whose `weight` obeys the law from now on, also in training.

        Raises:
            NetwrightError: it has no weight [O, I, ...] of as many inputs.
        """
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, Tensor) or weight.dim() < 2 or weight.shape[1] != len(self.signs):
            found = tuple(weight.shape) if isinstance(weight, Tensor) else None
            raise NetwrightError(
                f"Dale's law for {len(self.signs)} inputs needs a weight [O, {len(self.signs)}, ...]; found {found}."
            )
        register_parametrization(layer, "weight", self)
        return layer
