"""The arena: every buffer a place, so that buffers alive at the same time never overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


def place(buffers: Sequence[Interval]) -> tuple[list[int], int]:
    """Offsets of the buffers and the bytes they need together.

    Largest first, each into the smallest gap that holds it among the buffers alive with it (greedy by size: Pisarchyk
    and Lee, Efficient Memory Management for Deep Neural Net Inference, 2020).
    """
    offsets = [0] * len(buffers)
    placed: list[int] = []
    for i in sorted(range(len(buffers)), key=lambda i: (-buffers[i].size, buffers[i].first, i)):
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
