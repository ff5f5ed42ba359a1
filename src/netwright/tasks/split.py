"""Stratified, seeded choices of examples: every class keeps its share."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from netwright.core.errors import DataError


class Draw(IntEnum):
    """Each choice has a random stream of its own, so that asking for one of them does not change another."""

    TEST = 0
    VALIDATION = 1
    LIMIT = 2


def shares(sizes: NDArray[np.int64], count: int, keep: int, least: int = 1) -> NDArray[np.int64]:
    """How many of `count` fall to each class of the given `sizes`, by largest remainder.

    q_c = count * n_c / sum(n); every class gives at least `least` and keeps at least `keep` examples, so
    the sum exceeds `count` when `count` is smaller than `least` times the number of classes.
    """
    quota = count * sizes / sizes.sum()
    most = sizes - keep
    given = np.clip(np.floor(quota).astype(np.int64), least, most)
    for c in np.argsort(given - quota, kind="stable"):
        if given.sum() >= count:
            break
        given[c] += given[c] < most[c]
    # Clipping up to `least` can overshoot: take back from the classes that lie furthest above their quota.
    while given.sum() > count and (given > least).any():
        given[np.argmax(np.where(given > least, given - quota, -np.inf))] -= 1
    return given


def stratified(
    y: NDArray[np.int64], count: int, seed: int, draw: Draw, keep: int = 1, least: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions (rest, chosen), each ascending, disjoint, together 0..N-1; `chosen` holds `count` stratified examples.

    Args:
        y: labels [N].
        keep: how many examples of each class stay in `rest` at least (0 when `rest` is thrown away).
        least: how many examples of each class are chosen at least.

    Raises:
        DataError: a class has fewer than `keep` + `least` examples, or `seed` is not a non-negative integer.
    """
    if seed < 0:
        raise DataError(f"A split seed must be 0 or more, got {seed}.")
    labels, sizes = np.unique(y, return_counts=True)
    if sizes.min() < keep + least:
        rare = labels[sizes.argmin()]
        raise DataError(f"Label {rare} has {sizes.min()} example(s); a stratified split needs {keep + least} of every class.")
    random = np.random.default_rng([seed, int(draw)])
    given = shares(sizes, count, keep, least)
    chosen = np.concatenate([random.permutation(np.flatnonzero(y == c))[:n] for c, n in zip(labels, given, strict=True)])
    mask = np.zeros(len(y), dtype=bool)
    mask[chosen] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)
