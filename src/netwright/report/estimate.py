"""The page of `netwright estimate`: one HTML file with the drawing, the totals, where the time is lost, memory and every layer.

facts, as `netwright.pipeline.costing` collects them:
    model, inputs [shapes], total {name: {value, unit, how, note, spread}}, layers [rows of estimate.table], memory [{path, op,
    bytes, live [(node, bytes)]}], drawing (SVG), machine, bibliography; and where there are peaks or timings: peak {kind:
    quantity}, roofline (Roofline.to_json), latency [{engine, threads, whole, elsewhere_us, operators, peak}], notes [text]
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from netwright.core.files import write_text
from netwright.report import units
from netwright.report.plots import Column, Place, Series, Stack, line, roofs, stacked, waterline
from netwright.report.render import checked_svg, page, papers

Facts = Mapping[str, Any]
KINDS = {
    "mac_float32": ("float", "float"), "mac_int8": ("8-bit codes", "int8"), "mac_binary": ("signs", "binary"),
}  # fmt: skip
PARTS = (("ideal", "float"), ("memory's gap", "int8"), ("kernel's gap", "binary"))
WORST, SHOWN = 12, 400


def _rate(value: float) -> str:
    return units.rate(value, "MAC/s")


def _tail(path: str, length: int = 30) -> str:
    return path if len(path) <= length else "…" + path[1 - length :]


def _time(layer: Mapping[str, Any]) -> float:
    """Microseconds: measured, or the bound."""
    return float(layer["bound"] if layer["latency"] is None else layer["latency"])


def _roofs(found: Mapping[str, Any], peak: Mapping[str, Any]) -> str:
    layers = [r for r in found["layers"] if r["macs"] and _time(r) > 0]
    whole = sum(map(_time, layers)) or 1.0
    places = []
    for r in layers:
        rate, name = r["macs"] / _time(r) * 1e6, r["path"] or r["name"]
        tip = (f"{name} ({r['op']}): {r['intensity']:.3g} MACs a byte, {_rate(rate)}, {100 * r['efficiency']:.3g} % of the peak, "
               f"{units.duration(_time(r))}")  # fmt: skip
        places.append(Place(r["intensity"], rate, _time(r) / whole, tip, KINDS[r["kind"]][1]))
    kinds = {r["kind"] for r in layers}
    tops = {k: (peak[k]["value"], f"{KINDS[k][0]} {_rate(peak[k]['value'])}", KINDS[k][1]) for k in KINDS if k in kinds}
    about = f"{len(places)} layers with multiply-accumulates: what they attain against MACs per byte, under the device's roof"
    return roofs(
        places,
        tops,
        peak["byte"]["value"],
        about=about,
        x_label="MACs per byte moved",
        y_label="MACs a second",
        y_format=lambda v: units.rate(v, "").strip(),
    )


def _waterline(found: Mapping[str, Any]) -> str:
    layers = [r for r in found["layers"] if r["macs"]]
    total = sum(r["macs"] for r in layers) or 1
    columns = []
    for r in layers:
        name, share = r["path"] or r["name"], r["macs"] / total
        tip = f"{name}: {r['intensity']:.3g} MACs a byte, the device's line {r['waterline']:.3g}; {share:.2%} of the MACs"
        cls = "other" if r["submerged"] else KINDS[r["kind"]][1]
        columns.append(Column(share, r["intensity"], r["waterline"], tip, cls))
    under = sum(r["macs"] for r in layers if r["submerged"]) / total
    about = (
        f"Operational intensity of each layer, as wide as its multiply-accumulates; {under:.0%} of them lie under the waterline"
    )
    return waterline(columns, about=about, x_label="share of the MACs, in execution order", y_label="MACs per byte moved")


def _gaps(found: Mapping[str, Any]) -> str:
    by_name = {r["name"]: r for r in found["layers"]}
    rows = []
    for name in found["worst"][:WORST]:
        r = by_name[name]
        values = (r["ideal"], max(0.0, min(r["memory_gap"], _time(r) - r["ideal"])), max(0.0, r["kernel_gap"]))
        label = _tail(r["path"] or name) if r["path"] else r["op"]
        rows.append(Stack(label, [(part, v, cls) for (part, cls), v in zip(PARTS, values, strict=True)], _time(r)))
    return stacked(
        rows, about="The layers that lose the most time, split into ideal, memory's and the kernel's part", form=units.duration
    )


def _memory(moments: list[Mapping[str, Any]]) -> str:
    points: list[tuple[float, float]] = []
    for i, m in enumerate(moments):
        points += [(float(i), float(m["bytes"])), (float(i + 1), float(m["bytes"]))]
    top = max((m["bytes"] for m in moments), default=0)
    about = f"Bytes of living tensors while each of {len(moments)} operations runs"
    return line([Series("alive", points, "spiking")], x_label="operation, in execution order", y_label="living activations",
                about=about, y_format=units.size, levels={"peak": top} if moments else None)  # fmt: skip


def _context(facts: Facts) -> dict[str, Any]:
    found, peak = facts.get("roofline"), facts.get("peak") or {}
    moments = list(facts["memory"])
    worst = max(moments, key=lambda m: m["bytes"], default=None)
    figures = {"memory": _memory(moments)}
    if found:
        figures |= {"roofs": _roofs(found, peak), "waterline": _waterline(found), "gaps": _gaps(found)}
    empty = dict.fromkeys(("memory", "roofs", "waterline", "gaps"), "")
    rows = [{**r, "ratio": r["latency"] / r["bound"] if r.get("latency") and r.get("bound") else None} for r in facts["layers"]]
    return {
        "model": facts["model"],
        "inputs": [" \u00d7 ".join(map(str, shape)) for shape in facts["inputs"]],
        "total": facts["total"],
        "rows": rows[:SHOWN],
        "hidden": max(0, len(rows) - SHOWN),
        "measured": bool(found and found["measured"]),
        "roofline": found,
        "peak": [(KINDS.get(k, ("bytes",))[0], units.rate(q["value"], q["unit"]), q) for k, q in peak.items()],
        "worst": worst,
        "timings": facts.get("latency") or [],
        "figures": {**empty, **{k: Markup(v) for k, v in figures.items()}},
        "drawing": checked_svg(facts["drawing"]) if facts.get("drawing") else "",
        "machine": facts.get("machine") or {},
        "papers": papers(facts),
        "notes": list(facts.get("notes") or []),
    }


def render_estimate(facts: Facts) -> str:
    """The page as text.

    Raises:
        NetwrightError: the drawing cannot be shown.
    """
    return page("estimate.html.jinja", _context(facts))


def write_estimate(path: str | Path, facts: Facts) -> Path:
    """Write the page, whole or not at all; returns its path."""
    path = Path(path)
    write_text(path, render_estimate(facts))
    return path
