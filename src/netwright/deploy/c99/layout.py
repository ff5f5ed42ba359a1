"""Where the elements of a tensor lie: logical shapes and the physical order of their dimensions.

`order` lists the logical dimensions from the slowest to the fastest in memory, so NHWC memory of an NCHW tensor is
(0, 2, 3, 1). A permutation is then a change of `order` and moves nothing.
"""

from __future__ import annotations

import math

Shape = tuple[int, ...]
Order = tuple[int, ...]


def natural(rank: int) -> Order:
    return tuple(range(rank))


def channels_last(rank: int) -> Order:
    """Batch, then positions, then axis 1."""
    return (0, *range(2, rank), 1) if rank > 1 else natural(rank)


def _real(shape: Shape, order: Order) -> list[int]:
    """Dimensions longer than one, in memory order: the others lie anywhere."""
    return [d for d in order if shape[d] > 1]


def same(shape: Shape, a: Order, b: Order) -> bool:
    """Both orders put the same element at the same place."""
    return _real(shape, a) == _real(shape, b)


def strides(shape: Shape, order: Order) -> list[int]:
    """Distance in elements between neighbours along each logical dimension."""
    found, step = [0] * len(shape), 1
    for d in reversed(order):
        found[d] = step
        step *= shape[d]
    return found


def permuted(shape: Shape, order: Order, dims: Shape) -> tuple[Shape, Order]:
    """Shape and order after ``permute(dims)``."""
    return tuple(shape[d] for d in dims), tuple(dims.index(d) for d in order)


def reshaped(shape: Shape, order: Order, new: Shape) -> Order | None:
    """Order of a view of another shape, or None where the elements would have to move."""
    step = strides(shape, order)
    blocks: list[list[int]] = []  # logically adjacent dimensions that are adjacent in memory, as [size, stride]
    for d in range(len(shape)):
        if shape[d] == 1:
            continue
        if blocks and blocks[-1][1] == shape[d] * step[d]:
            blocks[-1] = [blocks[-1][0] * shape[d], step[d]]
        else:
            blocks.append([shape[d], step[d]])
    found = [0] * len(new)
    todo = [d for d in range(len(new)) if new[d] > 1]
    for size, stride in reversed(blocks):
        while size > 1:
            if not todo or size % new[todo[-1]]:
                return None
            d = todo.pop()
            found[d] = stride
            size, stride = size // new[d], stride * new[d]
    return tuple(sorted(range(len(new)), key=lambda d: (new[d] > 1, -found[d], d)))


def split(shape: Shape, order: Order, dims: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Sizes (before, of, after) of `dims` in memory; None where they do not lie side by side."""
    real = _real(shape, order)
    places = [i for i, d in enumerate(real) if d in dims]
    if not places:
        return math.prod(shape), 1, 1
    first, last = places[0], places[-1]
    if len(places) != last - first + 1:
        return None
    sizes = [shape[d] for d in real]
    return math.prod(sizes[:first]), math.prod(sizes[first : last + 1]), math.prod(sizes[last + 1 :])


def copy_loops(shape: Shape, source: Order, target: Order, steps: int) -> list[tuple[int, int]]:
    """Loops (size, stride in the source) that write `target` order one after another; neighbours merged."""
    step = strides(shape, source)
    loops = [(steps, math.prod(shape))] if steps > 1 else []
    return merged(loops + [(shape[d], step[d]) for d in _real(shape, target)])


def merged(loops: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Loops (size, stride) with neighbours made one where the outer goes on where the inner ends."""
    found: list[tuple[int, int]] = []
    for size, step in loops:
        if size == 1:
            continue
        if found and found[-1][1] == size * step:
            found[-1] = (found[-1][0] * size, step)
        else:
            found.append((size, step))
    return found


def aligned(loops: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Loops (size, strides of several tensors), neighbours made one where they agree for all tensors."""
    found: list[tuple[int, ...]] = []
    for size, *steps in loops:
        if size == 1:
            continue
        if found and all(outer == size * step for outer, step in zip(found[-1][1:], steps, strict=True)):
            found[-1] = (found[-1][0] * size, *steps)
        else:
            found.append((size, *steps))
    return found


def transposition(loops: list[tuple[int, int]]) -> tuple[int, int, int] | None:
    """(batch, rows, columns) where the copy of `copy_loops` is a transposition of matrices that lie one after another."""
    if len(loops) not in (2, 3):
        return None
    (columns, one), (rows, step) = loops[-2:]
    batch, distance = loops[0] if len(loops) == 3 else (1, rows * columns)
    return (batch, rows, columns) if (one, step, distance) == (1, columns, rows * columns) else None
