"""The arena: never overlapping, never far from the least possible."""

from __future__ import annotations

import random

import pytest

from netwright.deploy.c99.plan import Interval, aligned, arena_ratios, brute_force, least, place


def instance(seed: int, count: int) -> list[Interval]:
    rng = random.Random(seed)
    return [
        Interval(rng.randint(1, 9000), first, first + rng.randint(0, 5)) for first in (rng.randint(0, 9) for _ in range(count))
    ]


@pytest.mark.parametrize("count", [0, 1, 5, 12, 40, 200])
def test_buffers_alive_together_never_overlap(count: int) -> None:
    for seed in range(5):
        buffers = instance(seed, count)
        offsets, total = place(buffers)
        ends = [o + b.size for o, b in zip(offsets, buffers, strict=True)]
        assert least(buffers) <= total
        assert all(end <= total for end in ends)
        for i, a in enumerate(buffers):
            for j in range(i):
                assert not a.meets(buffers[j]) or offsets[i] >= ends[j] or offsets[j] >= ends[i]


@pytest.mark.parametrize("count", [2, 4, 6])
def test_small_plans_are_optimal(count: int) -> None:
    for seed in range(40):
        buffers = instance(seed, count)
        assert place(buffers)[1] == brute_force(buffers)


def test_the_ratio_of_the_benchmark() -> None:
    assert 1.0 <= max(arena_ratios(3, instances=10, buffers=6)) <= 1.05


def test_a_large_plan_is_near_its_bound() -> None:
    buffers = instance(1, 150)
    assert place(buffers)[1] <= 1.1 * least(buffers)
    assert aligned(1) == 64
