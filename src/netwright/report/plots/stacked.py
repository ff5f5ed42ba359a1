"""Stacked bars: what a quantity of several things is made of, horizontal and from zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from netwright.report.plots.axes import Format, Scale, svg, text

WIDTH, ROW, RIGHT = 520.0, 30.0, 92.0


@dataclass(frozen=True)
class Stack:
    """A thing and its parts in order: (name, value of at least 0, CSS class); `total` is written beside the bar."""

    name: str
    parts: Sequence[tuple[str, float, str]]
    total: float


def stacked(rows: Sequence[Stack], *, about: str, form: Format) -> str:
    """SVG with one bar a row."""
    longest = max((sum(v for _, v, _ in r.parts) for r in rows), default=0.0)
    if not longest:
        return ""
    left = min(250.0, max(84.0, 12 + 6.7 * max(len(r.name) for r in rows)))
    x, parts = Scale(0.0, longest, left, WIDTH - RIGHT), []
    for i, row in enumerate(rows):
        y, at = ROW * i + ROW / 2, 0.0
        parts.append(text(left - 12, y + 4, row.name, "tick", "end"))
        for name, value, cls in row.parts:
            if value <= 0:
                continue
            tip = f"<title>{escape(f'{row.name}, {name}: {form(value)}')}</title>"
            shape = f'x="{x(at):.1f}" y="{y - 8:.1f}" width="{max(0.5, x(at + value) - x(at)):.1f}" height="16"'
            parts.append(f"<rect class={quoteattr('bar ' + cls)} {shape}>{tip}</rect>")
            at += value
        parts.append(text(x(at) + 8, y + 4, form(row.total), "value"))
    return svg(WIDTH, ROW * len(rows), about, "".join(parts))
