"""ExitRule: the role of everything in this folder, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from netwright.core.decision import Control
from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.design.execute import GraphModule
from netwright.spike.unroll import Data, batch_size, batches


@dataclass(frozen=True)
class Exited:
    """A rule on labelled inputs: share of right answers, and how many inputs took 1, 2, ... T steps."""

    accuracy: float
    histogram: tuple[int, ...]

    @property
    def mean_steps(self) -> float:
        return sum(t * n for t, n in enumerate(self.histogram, 1)) / sum(self.histogram)

    def to_json(self) -> Mapping[str, Any]:
        return {"accuracy": self.accuracy, "mean_steps": self.mean_steps, "histogram": list(self.histogram)}


class ExitRule:
    """Says after which time step each input may stop: a frozen dataclass of settings."""

    name: ClassVar[str]
    paper: ClassVar[Paper]

    @property
    def control(self) -> Control:
        """The rule as the back ends compile it."""
        raise NotImplementedError

    def exits(self, module: GraphModule, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N, K] of x [N, ...] at the step where each input stops, and that step, int64 [N], 1..T.

        All T steps are simulated; the compiled network really stops, at the same steps.

        Raises:
            NetwrightError: the module is not spiking, or the rule does not hold for it.
        """
        raise NotImplementedError

    def evaluate(self, module: GraphModule, data: Data) -> Exited:
        """Accuracy and steps on (inputs [N, ...], labels [N]), or on an iterable of such batches.

        Raises:
            NetwrightError: as `exits`; or there are no data.
        """
        steps = next((n.attrs["steps"] for n in module.graph if n.op == "readout"), 1)
        right, taken = 0, torch.zeros(steps, dtype=torch.int64)
        for x, y in batches(data, batch_size(module)):
            logits, at = self.exits(module, x)
            right += int((logits.argmax(1) == y).sum())
            taken += torch.bincount(at - 1, minlength=steps)
        if not taken.any():
            raise NetwrightError("An exit rule was asked for its accuracy on no data. Give at least one batch.")
        return Exited(right / int(taken.sum()), tuple(taken.tolist()))
