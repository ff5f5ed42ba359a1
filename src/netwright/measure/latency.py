"""Latency: several ways to compute the same thing, timed side by side in one process.

Every round times every candidate once, in a new random order, so that a change of clock speed or a neighbour on the
machine meets all of them alike; a sample is the mean of an inner loop long enough for the clock to resolve. Reported are
the median and the 10th and 90th percentile over the rounds, never a best case.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from netwright.core.cost import Quantity
from netwright.core.errors import NetwrightError

Run = Callable[[], object]


@contextmanager
def _no_garbage_collector() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _loop(run: Run, count: int) -> float:
    """Mean microseconds of one call over `count` calls."""
    start = time.perf_counter_ns()
    for _ in range(count):
        run()
    return (time.perf_counter_ns() - start) / count / 1e3


def _batch(run: Run, min_batch_us: float) -> int:
    """Calls that together last `min_batch_us` at least; found by doubling."""
    count = 1
    while (once := _loop(run, count)) * count < min_batch_us and count < 1 << 20:
        count = max(2 * count, int(min_batch_us / max(once, 1e-3)))
    return count


def time_side_by_side(
    runs: Mapping[str, Run],
    *,
    rounds: int = 50,
    warmup: int = 5,
    min_batch_us: float = 500.0,
    seed: int = 0,
    threads: int = 1,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Quantity]:
    """Median latency of each of `runs` in microseconds, with (p10, p90) as spread, measured interleaved.

    Args:
        runs: name -> a call that does one inference.
        rounds: samples of each.
        warmup: calls of each before anything is timed.
        min_batch_us: shortest inner loop of a sample; far above the clock's resolution.
        seed: of the order of names in each round.
        threads: how many threads each call uses; stated in the note, set by the caller.

    Raises:
        NetwrightError: nothing to time, or fewer than one round.
    """
    if not runs or rounds < 1:
        raise NetwrightError(f"There is nothing to time: {len(runs)} candidates, {rounds} rounds; give at least one of each.")
    for run in runs.values():
        for _ in range(warmup):
            run()
    order, rng = list(runs), random.Random(seed)
    samples: dict[str, list[float]] = {name: [] for name in runs}
    with _no_garbage_collector():
        counts = {name: _batch(run, min_batch_us) for name, run in runs.items()}
        for i in range(rounds):
            rng.shuffle(order)
            for name in order:
                samples[name].append(_loop(runs[name], counts[name]))
            if progress is not None:
                progress(i + 1, rounds, "measure: latency")
    with_others = f", interleaved with {len(runs) - 1} other{'s' * (len(runs) > 2)}" if len(runs) > 1 else ""
    return {name: _quantity(samples[name], counts[name], threads, with_others) for name in runs}


def _quantity(samples: list[float], count: int, threads: int, with_others: str) -> Quantity:
    low, median, high = np.percentile(samples, [10, 50, 90])
    plural = "s" * (threads != 1)
    note = f"median and p10-p90 of {len(samples)} samples of {count} calls, {threads} thread{plural}, batch 1{with_others}"
    return Quantity(float(median), "us", "measured", (float(low), float(high)), note)
