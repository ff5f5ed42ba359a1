"""netwright estimate MODEL."""

from __future__ import annotations

from typing import Any

from netwright.cli.console import write, write_json


def estimate(model: str, *, input: str | None = None, target: str = "cmos45", json: bool = False) -> None:
    """What a network costs: shapes, MACs, parameters and memory by layer, and the totals.

    Parameters
    ----------
    model: a name of ours (netwright design list), timm:NAME, file.py:callable, a .pt2 program or a bundle folder.
    input: shape of one input, like 1x3x224x224.
    target: device whose energy constants are used; a name of ours or a TOML file.
    json: print JSON.
    """
    from netwright.cli.model import load_graph, shape
    from netwright.core import Target
    from netwright.estimate.count import cost, table

    graph = load_graph(model, shape(input) if input else None)
    rows, total = table(graph), cost(graph, Target.load(target))
    if json:
        return write_json({"model": model, "total": total.to_json(), "layers": rows})
    return _print(model, rows, total)


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
