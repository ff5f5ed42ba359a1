"""`netwright bench estimate`: cost, training-free proxies, predicted accuracy and latency, on measured tables, with bounds.

Tables are read from `NETWRIGHT_DATA`; a claim whose table or extra is missing stands open with the reason. What takes minutes is
kept in cells (`benchmarks/cells/estimate`); `--again` makes it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from netwright.bench.cells import Cells
from netwright.bench.claim import Bench, Claim, collect
from netwright.bench.estimate import accuracy, cost, encoders, graphs, latency, mixing, proxies
from netwright.pipeline.fitting import Progress

PARTS = (cost, accuracy, latency, proxies, encoders, graphs, mixing)
BOUNDS: dict[str, tuple[str, float]] = {id: bound for part in PARTS for id, bound in part.BOUNDS.items()}
Measure = Callable[[], Iterator[Claim]]


def stages(cells: Cells, progress: Progress | None) -> dict[str, tuple[Measure, tuple[str, ...]]]:
    """Name -> the measurement and the claims it gives."""
    return {
        **cost.Costs(cells, progress).stages(),
        **accuracy.Accuracy(cells, progress=progress).stages(),
        **latency.Latency(cells, progress).stages(),
        **proxies.Proxies(cells, progress).stages(),
        **encoders.Encoders(cells, progress).stages(),
        **graphs.Graphs(cells, progress).stages(),
        **mixing.Mixing(cells, progress).stages(),
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
    return collect("estimate", BOUNDS, stages(Cells(cells / "estimate", again), progress), progress)
