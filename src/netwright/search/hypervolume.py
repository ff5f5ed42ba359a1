"""Hypervolume: how much of the objective space a set of trials dominates.

    HV(S, r) = volume of { z : s <= z <= r for some s in S }        (all objectives minimised)

(Zitzler & Thiele, Multiobjective Optimization Using Evolutionary Algorithms, PPSN 1998.) Exact, for any number of
objectives: slices along the last one, each weighted with the hypervolume of the points it holds in the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netwright.core.errors import NetwrightError
from netwright.core.trial import Trial

Point = tuple[float, ...]


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Volume between the points and `reference`; points that are not better than it in every objective add nothing."""
    inside = {tuple(p) for p in points if len(p) == len(reference) and all(a < r for a, r in zip(p, reference, strict=True))}
    if any(len(p) != len(reference) for p in points):
        raise NetwrightError(f"The reference has {len(reference)} objectives; some points have another number.")
    return _volume(sorted(inside, key=lambda p: p[-1]), tuple(reference))


def _volume(points: list[Point], reference: Point) -> float:
    """`points` are sorted by their last objective."""
    if not points:
        return 0.0
    if len(reference) == 1:
        return reference[0] - points[0][0]
    if len(reference) == 2:
        total, lowest = 0.0, math.inf
        for i, (x, y) in enumerate(points):
            lowest = min(lowest, x)
            top = points[i + 1][1] if i + 1 < len(points) else reference[1]
            total += (top - y) * (reference[0] - lowest)
        return total
    total, front = 0.0, list[Point]()
    for i, point in enumerate(points):
        flat = point[:-1]
        if not any(all(a <= b for a, b in zip(p, flat, strict=True)) for p in front):
            front = [p for p in front if not all(a <= b for a, b in zip(flat, p, strict=True))] + [flat]
            front.sort(key=lambda p: p[-1])
        top = points[i + 1][-1] if i + 1 < len(points) else reference[-1]
        if top > point[-1]:
            total += (top - point[-1]) * _volume(front, reference[:-1])
    return total


@dataclass(frozen=True)
class Comparison:
    """Hypervolumes of a search and of the random baseline after equally many trials, as a share of the box they span.

    `box` gives the best and the worst value of every objective over the feasible trials of both.
    """

    search: float
    baseline: float
    trials: int
    box: Mapping[str, tuple[float, float]]

    @property
    def ratio(self) -> float:
        """search / baseline; infinite where the baseline found nothing."""
        return self.search / self.baseline if self.baseline else math.inf


def compare(search: Sequence[Trial], baseline: Sequence[Trial]) -> Comparison:
    """Hypervolume of the first n trials of both, n the length of the shorter one.

    Objectives are scaled to [0, 1] over all feasible trials of both; the reference is 1.1 in each, so that the ends of a
    front count too.

    Raises:
        NetwrightError: neither has a feasible trial.
    """
    n = min(len(search), len(baseline))
    parts = [[t for t in trials[:n] if t.feasible] for trials in (search, baseline)]
    both = [t for part in parts for t in part]
    if not both:
        raise NetwrightError("There is no feasible trial to compare; relax the limits or run more trials.")
    names = list(both[0].objectives)
    box = {k: (min(t.objectives[k] for t in both), max(t.objectives[k] for t in both)) for k in names}

    def scaled(trial: Trial) -> Point:
        return tuple((trial.objectives[k] - low) / (high - low or 1.0) for k, (low, high) in box.items())

    full = 1.1 ** len(names)
    volumes = [hypervolume([scaled(t) for t in part], [1.1] * len(names)) / full for part in parts]
    return Comparison(volumes[0], volumes[1], n, box)
