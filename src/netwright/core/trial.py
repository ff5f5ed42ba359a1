"""Trial: one architecture with what was found out about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from netwright.core.space import Arch


@dataclass(frozen=True)
class Trial:
    """An architecture, its objective values (smaller is better), where it stands in the search and how it was made."""

    number: int
    arch: Arch
    objectives: Mapping[str, float]
    feasible: bool = True
    how: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "arch": self.arch.to_json(),
            "objectives": dict(self.objectives),
            "feasible": self.feasible,
            "how": dict(self.how),
        }

    def dominates(self, other: Trial) -> bool:
        """Not worse in any objective and better in one; a feasible trial dominates an infeasible one."""
        if self.feasible != other.feasible:
            return self.feasible
        pairs = [(self.objectives[k], other.objectives[k]) for k in self.objectives]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def pareto_front(trials: list[Trial]) -> list[Trial]:
    """The feasible trials that no other trial dominates."""
    trials = [t for t in trials if t.feasible]
    return [t for t in trials if not any(o.dominates(t) for o in trials)]
