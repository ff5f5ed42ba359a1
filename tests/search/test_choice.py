"""Hypervolume against known volumes and a Monte-Carlo estimate; selection from a front."""

from __future__ import annotations

import random

import pytest

from netwright.core import Space, Trial, choice
from netwright.core.errors import NetwrightError
from netwright.search import NothingFits, Selection, compare, hypervolume, select
from netwright.testing.search import Layer

SPACE = Space("s", Layer(choice(*range(100)), choice(1), choice("x")))


def trial(number: int, error: float, size: float, latency: float, feasible: bool = True) -> Trial:
    arch = SPACE.arch({"width": number, "kernel": 1, "kind": "x"})
    return Trial(number, arch, {"error": error, "bytes": size, "latency_us": latency}, feasible)


@pytest.mark.parametrize(
    ("points", "reference", "volume"),
    [
        ([], (1, 1), 0),
        ([(0.25,), (0.5,)], (1,), 0.75),
        ([(0, 0)], (2, 3), 6),
        ([(1, 2), (2, 1)], (3, 3), 3),
        ([(1, 2), (2, 1), (2, 2), (1, 2)], (3, 3), 3),
        ([(0, 5), (3, 0)], (3, 3), 0),
        ([(0, 0, 0)], (1, 2, 3), 6),
        ([(0, 1, 1), (1, 0, 1), (1, 1, 0)], (2, 2, 2), 4),
        ([(0, 0, 0, 1), (1, 0, 0, 0)], (2, 1, 1, 2), 3),
    ],
)
def test_known_volumes(points, reference, volume):
    assert hypervolume(points, reference) == pytest.approx(volume)


@pytest.mark.parametrize("d", [2, 3, 4])
def test_volume_agrees_with_sampling(d):
    rng = random.Random(d)
    points = [tuple(rng.random() for _ in range(d)) for _ in range(12)]
    samples = [tuple(rng.random() for _ in range(d)) for _ in range(8000)]
    hit = sum(any(all(a <= b for a, b in zip(p, s, strict=True)) for p in points) for s in samples) / len(samples)
    assert hypervolume(points, (1,) * d) == pytest.approx(hit, abs=0.025)
    shuffled = rng.sample(points, len(points))
    assert hypervolume(shuffled, (1,) * d) == pytest.approx(hypervolume(points, (1,) * d))


def test_points_and_reference_must_agree():
    with pytest.raises(NetwrightError, match="2 objectives"):
        hypervolume([(1, 2, 3)], (4, 4))


def test_comparison_needs_a_feasible_trial():
    with pytest.raises(NetwrightError, match="no feasible trial"):
        compare([trial(0, 0.1, 1, 1, feasible=False)], [trial(1, 0.1, 1, 1, feasible=False)])


FRONT = [trial(0, 0.010, 900, 90), trial(1, 0.012, 400, 40), trial(2, 0.013, 300, 70), trial(3, 0.050, 100, 10)]


def test_best_error_first_then_cheap_within_the_tolerance():
    assert select(FRONT).number == 0
    assert select(FRONT, tolerance=0.002).number == 1
    assert select(FRONT, tolerance=0.003).number == 1, "400 * 40 is less than 300 * 70"
    assert select(FRONT, tolerance=0.1).number == 3
    assert select([*FRONT, trial(4, 0.001, 1, 1, feasible=False)]).number == 0


def test_hard_budgets():
    assert select(FRONT, max_bytes=400).number == 1
    assert select(FRONT, max_latency_us=39).number == 3
    assert select(FRONT, max_latency_us=75, max_bytes=350).number == 2
    assert select(FRONT, max_bytes=400, tolerance=0.05).number == 3


def test_nothing_fits_names_the_nearest():
    with pytest.raises(NothingFits, match=r"None of 4 trials keeps bytes <= 90. The nearest is trial 3 \(error = 0.05") as caught:
        select(FRONT, max_bytes=90)
    assert caught.value.nearest is FRONT[3]
    with pytest.raises(NothingFits, match=r"latency_us <= 35, bytes <= 399.*nearest is trial 1 ") as caught:
        select(FRONT[:3], max_latency_us=35, max_bytes=399)
    with pytest.raises(NothingFits, match="no finished trial"):
        select([])
    with pytest.raises(NothingFits, match="limits of the search"):
        select([trial(0, 0.1, 1, 1, feasible=False)])


def test_ties_are_broken_by_the_seed():
    twins = [trial(i, 0.01, 10, 10) for i in range(8)]
    chosen = {select(twins, seed=s).number for s in range(40)}
    assert len(chosen) > 4
    assert select(twins, seed=3) == select(twins, seed=3)


def test_unknown_objectives_and_free_costs_are_refused():
    with pytest.raises(NetwrightError, match="no objective 'energy'"):
        Selection(costs=("energy",))(FRONT)
    with pytest.raises(NetwrightError, match="cost of 0 or less"):
        select([trial(0, 0.1, 0, 1)])
