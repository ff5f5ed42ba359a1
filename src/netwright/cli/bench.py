"""netwright bench NAME."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

from netwright.cli.console import progress, write, write_json


def bench(name: str, *, rounds: int = 15, seed: int = 0, out: Path | None = None, again: bool = False,
          json: bool = False) -> None:  # fmt: skip
    """Measure what the project claims: every claim with its bound, and OPEN where it does not hold here.

    Parameters
    ----------
    name: deploy, compress, binarise, spike or estimate.
    rounds: samples of each timing.
    seed: of weights, inputs and the order of timing.
    out: folder for a CSV file of the results.
    again: train anew what is kept in benchmarks/cells.
    json: print JSON.
    """
    from netwright.bench import BENCHES, Bench
    from netwright.core.errors import UnknownName

    if name not in BENCHES:
        raise UnknownName("benchmark", name, BENCHES)
    module = importlib.import_module(BENCHES[name])
    with progress(quiet=json) as bars:
        cells = {"again": again} if "again" in inspect.signature(module.run).parameters else {}
        done: Bench = module.run(rounds=rounds, seed=seed, progress=bars, **cells)
    if out is not None:
        done.write_csv(out)
    if json:
        return write_json(done.to_json())
    from rich.table import Table

    table = Table("", "claim", "value", "bound", "against", "unit or reason")
    for claim in done.claims:
        value = "none" if claim.value is None else f"{claim.value:.3g}"
        against = f"{claim.reference.get('name', '')}"
        mark = "holds" if done.holds(claim) else "OPEN"
        table.add_row(mark, claim.id, value, " ".join(map(str, done.bounds[claim.id])), against, claim.why or claim.unit)
    return write(table)
