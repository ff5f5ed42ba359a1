"""Bars: one quantity of several things, horizontal and from zero; or dots where zero would hide the differences.

A bar more than four times as long as the next is cut, with a gap in it and its number beside it, so that the others can be
compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from netwright.report.plots.axes import Format, Scale, svg, text

WIDTH, ROW, RIGHT = 520.0, 40.0, 118.0


@dataclass(frozen=True)
class Bar:
    """A value with its spread, and beside it `other`, the same quantity by another way (drawn thinner)."""

    name: str
    value: float | None
    cls: str = ""
    spread: tuple[float, float] | None = None
    other: float | None = None


def _whisker(bar: Bar, x: Scale, y: float) -> str:
    if bar.spread is None:
        return ""
    low, high = (min(x(v), x.end) for v in bar.spread)
    return f'<path class="whisker" d="M{low:.1f} {y - 4:.1f}v8M{low:.1f} {y:.1f}H{high:.1f}M{high:.1f} {y - 4:.1f}v8"/>'


def _limit(values: Sequence[float]) -> float:
    """The end of the axis: the largest value, or half as much again as the next where that one is four times as large."""
    ordered = sorted(values)
    if len(ordered) > 2 and ordered[-1] > 4 * ordered[-2] > 0:
        return 1.5 * ordered[-2]
    return ordered[-1] or 1.0


def _gap(y: float, thick: float) -> str:
    """Two slanted strokes that cut a bar."""
    at = WIDTH - RIGHT - 26
    return f'<path class="gap" d="M{at:.1f} {y + thick / 2 + 3:.1f}l8 -{thick + 6:g}h7l-8 {thick + 6:g}z"/>'


def _second(row: Bar, left: float, end: float, y: float, value: str, other: str) -> str:
    tip = f"<title>{escape(f'{row.name}, {other}: {value}')}</title>"
    shape = f'x="{left:.1f}" y="{y + 4:.1f}" width="{max(2.0, end - left):.1f}" height="8" rx="2"'
    return f'<rect class="bar other" {shape}>{tip}</rect>' + text(end + 10, y + 12, f"{value} {other}", "tick")


def bars(rows: Sequence[Bar], *, about: str, form: Format, other: str = "", dots: bool = False) -> str:
    """SVG with one row a bar. `other` names the second bars; `dots` starts the axis near the smallest value."""
    values = [v for r in rows for v in (r.value, r.other) if v is not None]
    if not values:
        return ""
    low, high = (min(values), max(values)) if dots else (0.0, _limit(values))
    room = (high - low) * 0.25 or 0.01
    left = min(240.0, max(84.0, 12 + 7.4 * max(len(r.name) for r in rows)))
    x = Scale(low - room, high, left, WIDTH - RIGHT) if dots else Scale(low, high, left, WIDTH - RIGHT)
    parts = []
    for i, row in enumerate(rows):
        y = ROW * i + ROW / 2
        parts.append(text(left - 12, y + 4, row.name, "row", "end"))
        if row.value is None:
            parts.append(text(left, y + 4, "not available", "tick"))
            continue
        tip = f"<title>{escape(f'{row.name}: {form(row.value)}')}</title>"
        end = min(x(row.value), WIDTH - RIGHT)
        if dots:
            parts.append(f'<path class="grid" d="M{left:.1f} {y:.1f}H{WIDTH - RIGHT:.1f}"/>')
            parts.append(f'<circle class={quoteattr("bar " + row.cls)} cx="{end:.1f}" cy="{y:.1f}" r="7">{tip}</circle>')
            parts.append(text(max(end, WIDTH - RIGHT) + 16, y + 4, form(row.value), "value"))
            continue
        top, thick = (y - 13, 14) if row.other is not None else (y - 9, 18)
        shape = f'x="{left:.1f}" y="{top:.1f}" width="{max(2.0, end - left):.1f}" height="{thick}" rx="3"'
        parts.append(f"<rect class={quoteattr('bar ' + row.cls)} {shape}>{tip}</rect>")
        cut = row.value > high
        parts.append(_gap(top + thick / 2, thick) if cut else _whisker(row, x, top + thick / 2))
        reach = max(end, x(row.spread[1]) if row.spread else 0)
        parts.append(text(min(reach, WIDTH - RIGHT) + 10, top + thick / 2 + 4, form(row.value), "value"))
        if row.other is not None:
            parts.append(_second(row, left, min(x(row.other), WIDTH - RIGHT), y, form(row.other), other))
    return svg(WIDTH, ROW * len(rows), about, "".join(parts))
