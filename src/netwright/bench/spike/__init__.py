"""`netwright bench spike`: conversion, exactness, early exits, speed, training and exchange of spiking networks, with bounds.

What takes minutes is kept in cells (`benchmarks/cells/spike`) and read from there where the recipe is the same; `--again` makes
it anew. Times are never kept. The trained float networks are made again where `runs/` does not have them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from netwright.bench.cells import Cells
from netwright.bench.claim import Bench, Claim, collect
from netwright.bench.spike import approximation, conversion, exchange, exits, gradients, lossless, models, simulation, training
from netwright.bench.spike.networks import Trained
from netwright.pipeline.fitting import Progress

PARTS = (conversion, approximation, lossless, exits, simulation, gradients, models, exchange, training)
BOUNDS: dict[str, tuple[str, float]] = {id: bound for part in PARTS for id, bound in part.BOUNDS.items()}
Measure = Callable[[], Iterator[Claim]]


def stages(cells: Cells, rounds: int, seed: int, progress: Progress | None) -> dict[str, tuple[Measure, tuple[str, ...]]]:
    """Name -> the measurement and the claims it gives."""
    exact = lossless.Exactness(cells, progress=progress)
    nir = exchange.Exchange(Trained("digits", cells, progress=progress))
    return {
        **conversion.Conversion(cells, progress, seed).stages(),
        **approximation.Approximating(cells, progress).stages(),
        "exactness": (exact.mismatches, ("lossless_mismatches",)),
        "steps to rest": (exact.steps, ("lossless_3bit_steps",)),
        "exact residual network": (exact.residual, ("lossless_residual_4bit_gap_points",)),
        "exact recurrent network": (exact.recurrent, ("rnn_morph_mismatches",)),
        "early exits": (exits.Exits(cells, progress).claims, tuple(exits.BOUNDS)),
        "simulation": (simulation.Simulation(cells, rounds=rounds, progress=progress).claims, tuple(simulation.BOUNDS)),
        "surrogates": (gradients.gradients, tuple(gradients.BOUNDS)),
        "architectures": (models.Models(cells, progress).claims, tuple(models.BOUNDS)),
        "exchange": (nir.roundtrip, tuple(exchange.BOUNDS)),
        **training.Training(cells, progress).stages(),
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
    return collect("spike", BOUNDS, stages(Cells(cells / "spike", again), rounds, seed, progress), progress)
