"""The five forms in the terminal, at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from netwright.report import units

if TYPE_CHECKING:
    from rich.table import Table

HEADS = ("form", "accuracy", "agrees", "weights", "code", "arena", "latency p10-p90", "ONNX Runtime", "energy (modelled)")


def latency_of(value: Any) -> float | None:
    """The median of a latency, given as a number or with its percentiles."""
    return value["median"] if isinstance(value, Mapping) else value


def rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Cells of one line a form, in the order of HEADS."""
    found = []
    for v in summary["variants"]:
        latency = v["latency_us"]
        spread = f"{units.duration(latency['median'])} ({latency['p10']:.3g}-{latency['p90']:.3g})"
        name = f"{v['name']}, T={v['time_steps']}" if (v.get("time_steps") or 1) > 1 else v["name"]
        found.append(
            (
                name,
                units.percent(v["accuracy"]),
                units.percent(v["agreement"], 1),
                *(units.size(v[key]) for key in ("weight_bytes", "code_bytes", "arena_bytes")),
                spread,
                units.duration(latency_of(v.get("onnxruntime_latency_us"))),
                units.energy(v["energy_pj"]["value"]),
            )
        )
    return found


def title(summary: Mapping[str, Any]) -> str:
    tests = {v["n_test"] for v in summary["variants"]}
    return f"{summary['task']}: compiled networks on {'/'.join(map(str, sorted(tests)))} test inputs, seed {summary['seed']}"


def summary_table(summary: Mapping[str, Any]) -> Table:
    """The summary of a run as a rich table."""
    from rich.table import Table

    view = Table(title=title(summary), title_justify="left")
    for i, head in enumerate(HEADS):
        view.add_column(head, justify="right" if i else "left", no_wrap=True)
    for row in rows(summary):
        view.add_row(*row)
    return view


def summary_text(summary: Mapping[str, Any]) -> str:
    """The same as plain text in columns, for logs and pipes."""
    lines = [HEADS, *rows(summary)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADS))]

    def written(line: tuple[str, ...]) -> str:
        return "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))).rstrip()

    return "\n".join([title(summary), *map(written, lines)]) + "\n"
