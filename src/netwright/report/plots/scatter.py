"""Scatter: candidates in two objectives, the front joined by steps, the chosen one named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from netwright.report.plots.axes import Format, around, frame, svg, text

WIDTH, HEIGHT = 520.0, 360.0


@dataclass(frozen=True)
class Point:
    """A candidate; `kind` is trial, infeasible, front or chosen, `tip` what the reader sees on it."""

    x: float
    y: float
    tip: str
    kind: str = "trial"


def _mark(at_x: float, at_y: float, point: Point) -> str:
    radius = {"front": 5.5, "chosen": 8.0}.get(point.kind, 4.0)
    focus = ' tabindex="0"' if point.kind in ("front", "chosen") else ""
    tip = f"<title>{escape(point.tip)}</title>"
    return f'<circle class="point {point.kind}" cx="{at_x:.1f}" cy="{at_y:.1f}" r="{radius:g}"{focus}>{tip}</circle>'


def scatter(
    points: Sequence[Point], *, x_label: str, y_label: str, about: str, x_format: Format, y_format: Format, log_x: bool = True
) -> str:
    """SVG of the points; both objectives are better when smaller. The step line joins the best pairs of these two objectives."""
    usable = [p for p in points if not log_x or p.x > 0]
    if not usable:
        return ""
    x = around([p.x for p in usable], 72, WIDTH - 16, log_x)
    y = around([p.y for p in usable], HEIGHT - 52, 14, floor=0.0)
    parts = [frame(x, y, x_label, y_label, x_format, y_format)]
    best, steps = float("inf"), list[str]()
    for p in sorted((p for p in usable if p.kind != "infeasible"), key=lambda p: (p.x, p.y)):
        if p.y < best:
            steps.append(f"{'H' if steps else 'M'}{x(p.x):.1f}" + (f"V{y(p.y):.1f}" if steps else f" {y(p.y):.1f}"))
            best = p.y
    parts.append(f'<path class="front-line" d="{"".join(steps)}H{x.end:.1f}"/>' if steps else "")
    rank = {"infeasible": 0, "trial": 1, "front": 2, "chosen": 3}
    for p in sorted(usable, key=lambda p: rank[p.kind]):
        parts.append(_mark(x(p.x), y(p.y), p))
        if p.kind == "chosen":
            right = x(p.x) > WIDTH - 110
            parts.append(text(x(p.x) + (-13 if right else 13), y(p.y) - 9, "chosen", "callout", "end" if right else "start"))
    return svg(WIDTH, HEIGHT, about, "".join(parts))
