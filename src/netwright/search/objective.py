"""Objective: what a search asks about an architecture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from netwright.core.errors import NetwrightError
from netwright.core.space import Arch


@dataclass(frozen=True)
class Score:
    """The answer for one architecture.

    Args:
        objectives: name -> value, smaller is better.
        violations: name -> by how much a limit is exceeded; 0 or less where it is kept. The trial is feasible when all are.
        how: facts about how the values came about, kept with the trial.
    """

    objectives: Mapping[str, float]
    violations: Mapping[str, float] = field(default_factory=dict)
    how: Mapping[str, str] = field(default_factory=dict)

    @property
    def feasible(self) -> bool:
        return all(v <= 0 for v in self.violations.values())

    @classmethod
    def of(cls, answer: Score | Mapping[str, float], names: tuple[str, ...]) -> Score:
        """Check an objective function's answer against the names of the study.

        Raises:
            NetwrightError: a name is missing or unknown, or a value is NaN or infinite.
        """
        score = answer if isinstance(answer, Score) else cls(dict(answer))
        if set(score.objectives) != set(names):
            raise NetwrightError(
                f"The study has the objectives {', '.join(names)}; the answer has {', '.join(score.objectives)}."
            )
        for name, value in [*score.objectives.items(), *score.violations.items()]:
            if not math.isfinite(value):
                raise NetwrightError(f"{name} = {value} is no finite number.")
        return score


Objective = Callable[[Arch], Score | Mapping[str, float]]
