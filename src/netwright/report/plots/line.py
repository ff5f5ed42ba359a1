"""Lines: one or more quantities over steps, with levels to compare against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from netwright.report.plots.axes import Format, Scale, around, frame, svg, text

WIDTH, HEIGHT = 520.0, 300.0


@dataclass(frozen=True)
class Series:
    """(x, y) pairs in order of x; `cls` is the CSS class that colours them."""

    name: str
    points: Sequence[tuple[float, float]]
    cls: str = "series"


def _curve(series: Series, x: Scale, y: Scale, x_name: str, y_format: Format, marks: bool) -> str:
    places = [(x(a), y(b)) for a, b in series.points]
    path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
    parts = [f'<path class={quoteattr("curve " + series.cls)} d="{path}"/>']
    if marks:
        for (a, b), (px, py) in zip(series.points, places, strict=True):
            tip = f"<title>{escape(f'{series.name}, {x_name} {a:g}: {y_format(b)}')}</title>"
            parts.append(f'<circle class={quoteattr("dot " + series.cls)} cx="{px:.1f}" cy="{py:.1f}" r="4.2">{tip}</circle>')
    return "".join(parts)


def line(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    about: str,
    y_format: Format,
    levels: Mapping[str, float] | None = None,
) -> str:
    """SVG of the series; `levels` are dashed horizontal lines with a name."""
    series = [s for s in series if s.points]
    if not series:
        return ""
    levels = levels or {}
    values = [v for s in series for _, v in s.points] + list(levels.values())
    x = around([u for s in series for u, _ in s.points], 72, WIDTH - 16, margin=0.02)
    y = around(values, HEIGHT - 52, 14, floor=0.0 if min(values) >= 0 else None)
    parts = [frame(x, y, x_label, y_label, lambda v: f"{v:g}", y_format)]
    for name, level in levels.items():
        parts.append(f'<path class="level" d="M{x.start:.1f} {y(level):.1f}H{x.end:.1f}"/>')
        parts.append(text(x.start + 8, y(level) + 16, f"{name} {y_format(level)}", "callout soft"))
    parts += [_curve(s, x, y, x_label, y_format, marks=len(s.points) <= 40) for s in series]
    return svg(WIDTH, HEIGHT, about, "".join(parts))
