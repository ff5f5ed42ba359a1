"""Histogram: how many of some things fall on each whole number, as upright bars."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

from netwright.report.plots.axes import Format, Scale, frame, svg

WIDTH, HEIGHT = 520.0, 300.0


def histogram(shares: Sequence[tuple[int, float]], *, x_label: str, y_label: str, about: str, y_format: Format,
              cls: str = "") -> str:  # fmt: skip
    """SVG of (whole number, share) pairs, in order."""
    if not shares:
        return ""
    first, last = shares[0][0], shares[-1][0]
    x = Scale(first - 0.5, last + 0.5, 72, WIDTH - 16)
    y = Scale(0.0, max(v for _, v in shares) * 1.06 or 1.0, HEIGHT - 52, 14)
    parts = [frame(x, y, x_label, y_label, lambda v: f"{v:g}" if v == int(v) else "", y_format)]
    for at, value in shares:
        left, top, wide = x(at - 0.4), y(value), x(at + 0.4) - x(at - 0.4)
        tip = f"<title>{escape(f'{x_label} {at}: {y_format(value)}')}</title>"
        shape = f'x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{y.start - top:.1f}"'
        parts.append(f"<rect class={quoteattr(f'bar {cls}'.strip())} {shape}>{tip}</rect>")
    return svg(WIDTH, HEIGHT, about, "".join(parts))
