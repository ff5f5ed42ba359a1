"""netwright bench NAME."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

from netwright.cli.console import progress, write, write_json


def bench(name: str, *, rounds: int = 15, seed: int = 0, out: Path | None = None, again: bool = False, json: bool = False,
          table: Path | None = None, columns: str = "", labels: str = "", seeds: int = 5, predictors: str = "",
          less: bool = False, where: str = "", operations: str = "", plot: Path | None = None) -> None:  # fmt: skip
    """Measure what the project claims: every claim with its bound, and OPEN where it does not hold here.

    With --table, `netwright bench estimate` measures every predictor of accuracy on a table of yours instead, beside trivial
    rankings: netwright bench estimate --table FILE --columns ARCH,LABEL

    Parameters
    ----------
    name: deploy, compress, binarise, spike or estimate.
    rounds: samples of each timing.
    seed: of weights, inputs and the order of timing.
    out: folder for a CSV file of the results; with --table also a file that ends in .csv.
    again: train anew what is kept in benchmarks/cells.
    json: print JSON.
    table: a CSV or JSON file of measured architectures, gzipped or not.
    columns: of the table: ARCH,LABEL[,MORE]. ARCH is a cell (|op~0|+..., JSON graph), a code of tokens, or columns joined by
        +, also as a pattern (e??); MORE are proxies or a recipe.
    labels: budgets of labels, like 32,128; by default 32, 128 and 512 where they leave half of the table to test.
    seeds: splits of the table for each budget.
    predictors: names, or all; by default those that learn in seconds.
    less: fewer is better.
    where: only rows with COLUMN=VALUE; several joined by commas.
    operations: names of the operations, where columns of edges (e01, e02, ...) hold their numbers.
    plot: SVG file: Kendall's tau against labels.
    """
    from netwright.bench import BENCHES, Bench
    from netwright.core.errors import UnknownName

    if name not in BENCHES:
        raise UnknownName("benchmark", name, BENCHES)
    if table is not None:
        options = {"seeds": seeds, "less": less, "predictors": _names(predictors), "where": _names(where),
                   "operations": _names(operations)}  # fmt: skip
        return _table(name, table, columns, labels, options, out, plot, json)
    module = importlib.import_module(BENCHES[name])
    with progress(quiet=json) as bars:
        cells = {"again": again} if "again" in inspect.signature(module.run).parameters else {}
        done: Bench = module.run(rounds=rounds, seed=seed, progress=bars, **cells)
    if out is not None:
        done.write_csv(out)
    if json:
        return write_json(done.to_json())
    from rich.table import Table

    view = Table("", "claim", "value", "bound", "against", "unit or reason")
    for claim in done.claims:
        value = "none" if claim.value is None else f"{claim.value:.3g}"
        against = f"{claim.reference.get('name', '')}"
        mark = "holds" if done.holds(claim) else "OPEN"
        view.add_row(mark, claim.id, value, " ".join(map(str, done.bounds[claim.id])), against, claim.why or claim.unit)
    return write(view)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _table(name: str, path: Path, columns: str, labels: str, options: dict[str, Any], out: Path | None, plot: Path | None,
           json: bool) -> None:  # fmt: skip
    from netwright.bench.estimate.table import run
    from netwright.core.errors import DataError
    from netwright.core.files import write_text

    if name != "estimate":
        raise DataError(f"--table is for `netwright bench estimate`, not for {name}.")
    try:
        sizes = tuple(int(part) for part in _names(labels))
    except ValueError:
        raise DataError(f"--labels takes whole numbers joined by commas, like 32,128, not {labels!r}.") from None
    with progress(quiet=json) as bars:
        done = run(path, columns, labels=sizes, progress=bars, **options)
    if out is not None:
        done.write_csv(out)
    if plot is not None:
        plot.parent.mkdir(parents=True, exist_ok=True)
        write_text(plot, done.plot())
    if json:
        return write_json(done.to_json())
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    facts = done.facts
    kind = f"as {'graphs' if facts['graphs'] else 'codes'}, {facts['classes']:,} different"
    write(f"{done.table}: {facts['architectures']:,} architectures {kind}; label {done.columns.label}")
    for note in done.notes:
        write(f"  {note}")
    write("  regret: of the best of ten ranked first; inside: labels in their 90 % interval; width: its mean; s: of one fit")
    view = Table(
        "labels",
        "predictor",
        "tau",
        "rho",
        "regret",
        "inside",
        "width",
        "s",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )

    def of(value: float | None, form: str) -> str:
        return "" if value is None else f"{value:{form}}"

    size = 0
    for row in done.rows:
        first, size = str(row.labels) if row.labels != size else "", row.labels
        tau = f"{row.tau:.3f} ±{row.tau_sd:.3f}"
        cells = (of(row.rho, ".3f"), of(row.regret, ".3g"), of(row.coverage, ".3f"), of(row.width, ".3g"), of(row.seconds, ".1f"))
        view.add_row(first, row.predictor, tau, *cells)
    return write(view)
