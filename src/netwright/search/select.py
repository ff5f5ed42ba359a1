"""Selection: the one trial of a search that is built."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from netwright.core.errors import NetwrightError
from netwright.core.trial import Trial


class NothingFits(NetwrightError):
    """No trial keeps the budgets; `nearest` is the one that exceeds them least."""

    def __init__(self, message: str, nearest: Trial | None):
        super().__init__(message)
        self.nearest = nearest


@dataclass(frozen=True)
class Selection:
    """How to choose from the trials of a search.

    Within the budgets, the trials whose error is at most `tolerance` above the lowest are candidates; of these, the one
    with the smallest product of costs wins (a product needs no scales). Equal ones: the lower error, then by the seed.

    Args:
        error: the objective that counts first, in [0, 1].
        costs: the objectives in the product; a cost of 0 or less is refused.
        tolerance: absolute, in the unit of the error.
        budgets: objective -> largest allowed value, for example {"latency_us": 50.0, "bytes": 4096}.
    """

    error: str = "error"
    costs: tuple[str, ...] = ("bytes", "latency_us")
    tolerance: float = 0.0
    budgets: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def __call__(self, trials: Sequence[Trial]) -> Trial:
        """Choose one of `trials` (feasible or not; only feasible ones are taken).

        Raises:
            NothingFits: no feasible trial keeps the budgets; names the nearest.
            NetwrightError: an objective named here is unknown.
        """
        self._check(trials)
        feasible = [t for t in trials if t.feasible]
        fitting = [t for t in feasible if all(t.objectives[k] <= v for k, v in self.budgets.items())]
        if not fitting:
            raise self._nothing(trials, feasible)
        best = min(t.objectives[self.error] for t in fitting)
        close = [t for t in fitting if t.objectives[self.error] <= best + self.tolerance + 1e-12]
        random.Random(self.seed).shuffle(close)
        return min(close, key=lambda t: (math.prod(t.objectives[k] for k in self.costs), t.objectives[self.error]))

    def _check(self, trials: Sequence[Trial]) -> None:
        known = trials[0].objectives if trials else {}
        for name in (self.error, *self.costs, *self.budgets):
            if trials and name not in known:
                raise NetwrightError(f"The trials have no objective {name!r}; they have {', '.join(known)}.")
        for trial in trials:
            if any(trial.objectives[k] <= 0 for k in self.costs):
                raise NetwrightError(f"Trial {trial.number} has a cost of 0 or less: {_values(trial)}.")

    def _nothing(self, trials: Sequence[Trial], feasible: Sequence[Trial]) -> NothingFits:
        if not trials:
            return NothingFits("The search has no finished trial to choose from; run some first.", None)

        def excess(trial: Trial) -> float:
            return sum(max(0.0, trial.objectives[k] / v - 1) if v > 0 else math.inf for k, v in self.budgets.items())

        nearest = min(feasible or trials, key=excess)
        limits = ", ".join(f"{k} <= {v:g}" for k, v in self.budgets.items()) or "the limits of the search"
        return NothingFits(
            f"None of {len(trials)} trials keeps {limits}. The nearest is trial {nearest.number} ({_values(nearest)}): "
            "loosen the budget, search longer, or take a space with smaller networks.",
            nearest,
        )


def _values(trial: Trial) -> str:
    return ", ".join(f"{k} = {v:.4g}" for k, v in trial.objectives.items())


def select(
    trials: Sequence[Trial],
    *,
    tolerance: float = 0.0,
    max_latency_us: float | None = None,
    max_bytes: float | None = None,
    error: str = "error",
    size: str = "bytes",
    latency: str = "latency_us",
    seed: int = 0,
) -> Trial:
    """`Selection` with the two usual budgets: latency in microseconds and size in bytes; raises the same errors."""
    limits = {latency: max_latency_us, size: max_bytes}
    return Selection(error, (size, latency), tolerance, {k: v for k, v in limits.items() if v is not None}, seed)(trials)
