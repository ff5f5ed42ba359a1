"""`netwright bench estimate`: cost, training-free proxies, predicted accuracy and latency, on measured tables, with bounds.

Tables are read from `NETWRIGHT_DATA`; a claim whose table or extra is missing stands open with the reason. What takes minutes is
kept in cells (`benchmarks/cells/estimate`); `--again` makes it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from netwright.bench.cells import Cells
from netwright.bench.claim import Bench, Claim
from netwright.bench.estimate import accuracy, cost, latency, proxies
from netwright.core.errors import NetwrightError
from netwright.measure.machine import machine
from netwright.pipeline.fitting import Progress

PARTS = (cost, accuracy, latency, proxies)
BOUNDS: dict[str, tuple[str, float]] = {id: bound for part in PARTS for id, bound in part.BOUNDS.items()}
Measure = Callable[[], Iterator[Claim]]


def stages(cells: Cells, progress: Progress | None) -> dict[str, tuple[Measure, tuple[str, ...]]]:
    """Name -> the measurement and the claims it gives."""
    return {
        **cost.Costs(cells, progress).stages(),
        **accuracy.Accuracy(cells, progress=progress).stages(),
        **latency.Latency(cells, progress).stages(),
        **proxies.Proxies(cells, progress).stages(),
    }


def run(
    *,
    rounds: int = 15,
    seed: int = 0,
    progress: Progress | None = None,
    cells: Path = Path("benchmarks/cells"),
    again: bool = False,
) -> Bench:
    """All claims of `BOUNDS`; one that cannot be measured here has no value and says why."""
    torch.set_num_threads(1)
    claims: list[Claim] = []
    wanted = stages(Cells(cells / "estimate", again), progress)
    for i, (name, (measure, ids)) in enumerate(wanted.items()):
        if progress is not None:
            progress(i, len(wanted), f"bench: {name}")
        try:
            claims.extend(measure())
        except NetwrightError as error:
            claims.extend(Claim(id, None, "", "measured", 0, why=str(error)) for id in ids)
    order = list(BOUNDS)
    return Bench("estimate", machine(), BOUNDS, sorted(claims, key=lambda c: order.index(c.id)))
