"""Quiescence: an input stops after the first time step in which no neuron fires.

Where the input flows once (s-analog coding), the current of a later step is made of that step's spikes alone. Without a spike
there is no current, potentials stay, and no neuron can fire in the next step either: the answer is that of infinitely many
steps, and of the quantised network where the conversion is lossless. Easy inputs rest early; the number of steps is theirs,
not the network's.

The neuron that comes to rest, and the coding, are those of Su et al. 2024, who run a fixed number of steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from netwright.core.decision import Quiet
from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.design.dynamic import driven
from netwright.design.execute import GraphModule
from netwright.spike.encode.analog import Analog
from netwright.spike.exits.rule import ExitRule
from netwright.spike.unroll import batch_size, steps_to_rest


@dataclass(frozen=True)
class Quiescence(ExitRule):
    """No settings: the exit loses nothing. An input that is not at rest after T steps takes T."""

    name: ClassVar[str] = "quiescence"
    paper: ClassVar[Paper] = Analog.paper

    @property
    def control(self) -> Quiet:
        return Quiet()

    def exits(self, module: GraphModule, x: Tensor) -> tuple[Tensor, Tensor]:
        steps = next((int(n.attrs["steps"]) for n in module.graph if n.op == "readout"), 1)
        if (node := driven(module.to_graph())) is not None:
            raise NetwrightError(
                f"{node.op} {node.origin} lets current flow in every time step, so a step without spikes does not end the "
                "computation. Use lossless conversion, whose input flows once, or dynamic confidence."
            )
        with torch.no_grad():
            logits = torch.cat([module.eval()(part) for part in x.split(batch_size(module))])
        return logits, (steps_to_rest(module, x) + 1).clamp(max=steps)
