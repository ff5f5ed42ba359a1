"""Waterline: bars as high as a layer's operations per byte and as wide as its operations; the line is the device's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from netwright.report.plots.axes import Scale, around, frame, svg

WIDTH, HEIGHT = 520.0, 300.0


@dataclass(frozen=True)
class Column:
    """A layer: its share of the operations, operations per byte, those of the device for its kind of product, CSS class, tip."""

    share: float
    height: float
    line: float
    tip: str
    cls: str = ""


def waterline(columns: Sequence[Column], *, about: str, x_label: str, y_label: str) -> str:
    """SVG of the layers in order; what stays under the dashed line is bound by memory."""
    columns = [c for c in columns if c.share > 0 and c.height > 0]
    if not columns:
        return ""
    x = Scale(0.0, sum(c.share for c in columns), 72, WIDTH - 16)
    y = around([v for c in columns for v in (c.height, c.line)], HEIGHT - 52, 14, log=True, margin=0.08)
    parts, lines, at = [frame(x, y, x_label, y_label, lambda v: f"{100 * v:g} %", lambda v: f"{v:g}")], list[str](), 0.0
    for c in columns:
        left, right, top = x(at), x(at + c.share), y(c.height)
        tip = f"<title>{escape(c.tip)}</title>"
        shape = f'x="{left:.2f}" y="{top:.1f}" width="{max(0.6, right - left - 0.4):.2f}" height="{max(0.5, y.start - top):.1f}"'
        parts.append(f"<rect class={quoteattr(f'bar {c.cls}'.strip())} {shape}>{tip}</rect>")
        lines.append(f"M{left:.2f} {y(c.line):.1f}H{right:.2f}")
        at += c.share
    parts.append(f'<path class="whisker" stroke-dasharray="5 4" d="{"".join(lines)}"/>')
    return svg(WIDTH, HEIGHT, about, "".join(parts))
