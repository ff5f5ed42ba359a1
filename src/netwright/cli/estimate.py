"""netwright estimate MODEL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from netwright.cli.console import write, write_json
from netwright.core.errors import NetwrightError


def estimate(
    model: str,
    *,
    input: str | None = None,
    target: str = "cmos45",
    compare: str | None = None,
    measure: bool = False,
    threads: str = "1",
    rounds: int = 20,
    html: Path | None = None,
    json: bool = False,
) -> None:
    """What a network costs: shapes, MACs, parameters, memory and modelled energy by layer, and the totals.

    Weights are not needed, unless it is timed.

    Parameters
    ----------
    model: a name of ours (netwright design list), SPACE:ARCHITECTURE, timm:NAME, transformers:TYPE, file.py:callable, a .pt2
        program or a bundle folder.
    input: shape of one input, like 1x3x224x224; whole numbers (tokens) where int precedes it, like int:1x128.
    target: device whose energies and peaks are used; a name of ours or a TOML file.
    compare: another network, for the same input: both totals side by side.
    measure: time it here, operator by operator and whole: a module in PyTorch, a bundle as its C file.
    threads: numbers of threads to time it on, like 1,2; the first one stands in the table.
    rounds: runs that are timed.
    html: file for one page with the drawing, where the time is lost, memory and every layer.
    json: print JSON.
    """
    from netwright.cli.model import counted_graph, example
    from netwright.core import Target
    from netwright.estimate import compare as compared
    from netwright.estimate.count import cost
    from netwright.pipeline import costing

    given, device = example(input) if input else None, Target.load(target)
    if compare is not None:
        priced = device if device.energy_pj else None
        totals = [cost(counted_graph(name, given), priced) for name in (model, compare)]
        return _side_by_side(model, compare, compared(*totals), json)
    if measure:
        graph, timings = _timed(model, given, _counts(threads), rounds)
    else:
        graph, timings = counted_graph(model, given), []
    found = costing.known(model, graph, device, timings, peaks=costing.peaks_here if html else None)
    if html is not None:
        from netwright.report.estimate import write_estimate

        write_estimate(html, found.to_facts())
    if json:
        return write_json(found.to_json())
    _print(found)
    return None if html is None else write(f"The page: {html}")


def _counts(threads: str) -> list[int]:
    """`1,2` -> [1, 2]."""
    parts = [part.strip() for part in threads.split(",")]
    if not all(part.isdigit() and int(part) for part in parts):
        raise NetwrightError(f"--threads {threads!r} is no list of numbers of threads. Write for example 1,2.")
    return [int(part) for part in parts]


def _timed(model: str, given: Any, threads: list[int], rounds: int) -> tuple[Any, Any]:
    from netwright.cli.model import default_input, load_module
    from netwright.pipeline.costing import time_bundle, time_module

    if Path(model).is_dir():
        from netwright.deploy.bundle import Bundle

        return time_bundle(Bundle.load(model), threads, rounds)
    if Path(model).suffix == ".pt2":
        raise NetwrightError("A .pt2 program is counted, not timed. Give the module (file.py:callable) or a bundle to --measure.")
    module = load_module(model)
    return time_module(module, given or default_input(model, module), threads, rounds)


def _side_by_side(model: str, other: str, rows: list[dict[str, Any]], json: bool) -> None:
    if json:
        return write_json({"models": [model, other], "rows": rows})
    from rich.table import Table

    view = Table("", model, other, "ratio", "unit", "how")
    for row in rows:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3g}"
        a, b = ("" if row[side] is None else f"{row[side]:,.6g}" for side in ("a", "b"))
        view.add_row(row["name"], a, b, ratio, row["unit"], row["how_a"] or row["how_b"])
    return write(view)


def _print(found: Any) -> None:
    from netwright.report.units import count, duration, energy, exact, size

    rows, timed, line = found.rows, bool(found.timings), found.roofline
    extra = {key: head for key, head in (("energy", "arithmetic"), ("energy_traffic", "memory")) if rows and key in rows[0]}
    heads = ["layer", "operation", "output", "MACs", "params", "bits", "out", *extra.values()]
    lines = [heads + ["least"] * bool(line) + ["measured"] * timed + ["efficiency"] * bool(line)]
    for row in rows:
        bits = str(row["weight_bits"]) if row["params"] else ""
        cells = [row["path"] or row["name"], row["op"], "x".join(map(str, row["shape"]))]
        cells += [count(row["macs"]), count(row["params"]), bits, size(row["activation_bytes"])]
        cells += [energy(row[key]) for key in extra]
        if line is not None:
            cells += [duration(row.get("bound")), *[duration(row.get("latency"))] * timed]
            cells.append(f"{row['efficiency']:.1%}" if row["macs"] and "efficiency" in row else "")
        lines.append(cells)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    write(found.name)
    for cells in lines:  # text and no table: a narrow terminal shall wrap lines, not letters
        write("  ".join(c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))).rstrip())
    for name, q in found.total.items():
        spread = f" [{q.spread[0]:,.4g}, {q.spread[1]:,.4g}]" if q.spread else ""
        write(f"{name:>18}  {exact(q.value)}{spread} {q.unit} ({q.how})")
    for t in found.timings:
        write(f"{t.engine}, {t.threads} thread(s): {t.elsewhere:,.4g} us of the whole are in no operation of the graph")
    for note in found.notes:
        write(note)
