"""The arena: every buffer a place, so that buffers alive at the same time never overlap."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations

ALIGNMENT = 64


@dataclass(frozen=True)
class Interval:
    """A buffer of `size` bytes that lives from step `first` to step `last`, both included."""

    size: int
    first: int
    last: int

    def meets(self, other: Interval) -> bool:
        return self.first <= other.last and other.first <= self.last


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


NODES = 20_000  # steps of the search for the optimum
SMALL = 12  # buffers up to which it is searched for


def least(buffers: Sequence[Interval]) -> int:
    """Bytes alive at the busiest step: no plan needs less."""
    return max((sum(aligned(b.size) for b in buffers if b.first <= t <= b.last) for t in {b.first for b in buffers}), default=0)


def place(buffers: Sequence[Interval]) -> tuple[list[int], int]:
    """Offsets of the buffers and the bytes they need together.

    The best of several greedy orders; where that is more than the bytes alive at once and the buffers are few, the optimum, by
    branch and bound.
    """
    orders: list[Callable[[int], tuple[int, ...]]] = [
        lambda i: (-buffers[i].size, buffers[i].first),
        lambda i: (-buffers[i].size * (buffers[i].last - buffers[i].first + 1), buffers[i].first),
        lambda i: (buffers[i].first, -buffers[i].size),
        lambda i: (-buffers[i].last, -buffers[i].size),
        lambda i: (buffers[i].first - buffers[i].last, -buffers[i].size),
    ]
    plans = [_fit(buffers, sorted(range(len(buffers)), key=lambda i, key=key: (*key(i), i))) for key in orders]  # type: ignore[misc]
    best = min(plans, key=lambda p: p[1])
    bound = least(buffers)
    return best if best[1] == bound or len(buffers) > SMALL else _search(buffers, best, bound)


def _search(buffers: Sequence[Interval], best: tuple[list[int], int], bound: int) -> tuple[list[int], int]:
    """Buffers one after another by growing offset, each as low as what is placed allows (every plan can be pushed down to such a
    one); branches that cannot beat the best plan are cut."""
    sizes = [aligned(b.size) for b in buffers]
    meets = [[a.meets(b) for b in buffers] for a in buffers]
    found, left = best, NODES
    offsets: dict[int, int] = {}

    def grow(top: int, lowest: int) -> None:
        nonlocal found, left
        left -= 1
        if len(offsets) == len(buffers):
            if top < found[1]:
                found = ([offsets[i] for i in range(len(buffers))], top)
            return
        for i in range(len(buffers)):
            if i in offsets or left <= 0 or found[1] == bound:
                continue
            at = max((offsets[j] + sizes[j] for j in offsets if meets[i][j]), default=0)
            if at < lowest or max(top, at + sizes[i]) >= found[1]:
                continue
            offsets[i] = at
            grow(max(top, at + sizes[i]), at)
            del offsets[i]

    grow(0, 0)
    return found


def arena_ratios(seed: int, instances: int = 200, buffers: int = 7) -> list[float]:
    """Planned bytes by the least possible ones, found by trying every order, of random small instances."""
    rng, found = random.Random(seed), []
    for _ in range(instances):
        starts = [rng.randint(0, 7) for _ in range(buffers)]
        case = [Interval(rng.randint(1, 4000), first, first + rng.randint(0, 3)) for first in starts]
        found.append(place(case)[1] / brute_force(case))
    return found


def brute_force(buffers: Sequence[Interval]) -> int:
    """Least bytes of all plans: every order of the buffers, each put as low as those before it allow."""
    return min(_stack(buffers, order) for order in permutations(range(len(buffers))))


def _stack(buffers: Sequence[Interval], order: Sequence[int]) -> int:
    placed: list[tuple[int, int]] = []
    for i in order:
        at = max((end for j, end in placed if buffers[j].meets(buffers[i])), default=0)
        placed.append((i, at + aligned(buffers[i].size)))
    return max(end for _, end in placed)


def _fit(buffers: Sequence[Interval], order: Sequence[int]) -> tuple[list[int], int]:
    """Buffers in this order, each into the smallest gap that holds it among those alive with it (greedy: Pisarchyk and Lee,
    Efficient Memory Management for Deep Neural Net Inference, 2020)."""
    offsets = [0] * len(buffers)
    placed: list[int] = []
    for i in order:
        size = aligned(buffers[i].size)
        taken = sorted((offsets[j], offsets[j] + aligned(buffers[j].size)) for j in placed if buffers[i].meets(buffers[j]))
        best: tuple[int, int] | None = None  # (size of the gap, offset)
        end = 0
        for start, stop in taken:
            if start - end >= size and (best is None or start - end < best[0]):
                best = (start - end, end)
            end = max(end, stop)
        offsets[i] = best[1] if best else end
        placed.append(i)
    total = max((offsets[i] + aligned(b.size) for i, b in enumerate(buffers)), default=0)
    return offsets, total
