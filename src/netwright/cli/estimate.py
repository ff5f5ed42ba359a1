"""netwright estimate MODEL."""

from __future__ import annotations

from typing import Any

from netwright.cli.console import write, write_json


def estimate(
    model: str, *, input: str | None = None, target: str = "cmos45", compare: str | None = None, json: bool = False
) -> None:
    """What a network costs: shapes, MACs, parameters and memory by layer, and the totals. Weights are not needed.

    Parameters
    ----------
    model: a name of ours (netwright design list), timm:NAME, file.py:callable, a .pt2 program or a bundle folder.
    input: shape of one input, like 1x3x224x224.
    target: device whose energy constants are used; a name of ours or a TOML file.
    compare: another network, for the same input: both totals side by side.
    json: print JSON.
    """
    from netwright.cli.model import counted_graph, shape
    from netwright.core import Target
    from netwright.estimate import compare as compared
    from netwright.estimate.count import cost, table

    sizes, device = shape(input) if input else None, Target.load(target)
    graph = counted_graph(model, sizes)
    rows, total = table(graph), cost(graph, device)
    if compare is not None:
        return _side_by_side(model, compare, compared(total, cost(counted_graph(compare, sizes), device)), json)
    if json:
        return write_json({"model": model, "total": total.to_json(), "layers": rows})
    return _print(model, rows, total)


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


def _print(model: str, rows: list[dict[str, Any]], total: Any) -> None:
    from rich.table import Table

    view = Table("layer", "operation", "output", "MACs", "parameters", "bits", "bytes out", title=model)
    for row in rows:
        cells = (row["macs"], row["params"], row["weight_bits"] if row["params"] else "", row["activation_bytes"])
        shape = "x".join(map(str, row["shape"]))
        view.add_row(row["path"] or row["name"], row["op"], shape, *(f"{c:,}" if isinstance(c, int) else str(c) for c in cells))
    write(view)
    for name, quantity in total.items():
        write(f"{name:>18}  {quantity.value:,.6g} {quantity.unit} ({quantity.how})")
