"""Roofline: what each layer attains against its operations per byte, under the roof that memory and arithmetic make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from netwright.report.plots.axes import Format, Scale, around, frame, svg, text

WIDTH, HEIGHT = 520.0, 360.0


@dataclass(frozen=True)
class Place:
    """A layer: operations per byte, operations a second, its share of the time (the size of the mark), CSS class, tip."""

    x: float
    y: float
    share: float
    tip: str
    cls: str = ""


def _roof(x: Scale, y: Scale, peak: float, bandwidth: float, name: str, cls: str) -> str:
    """The slope of memory up to the waterline peak / bandwidth, the ceiling of arithmetic behind it."""
    knee = min(max(peak / bandwidth, x.low), x.high)
    left = max(x.low, y.low / bandwidth)
    path = f"M{x(left):.1f} {y(left * bandwidth):.1f}L{x(knee):.1f} {y(min(peak, knee * bandwidth)):.1f}H{x.end:.1f}"
    parts = [f'<path class={quoteattr("curve " + cls)} d="{path}"/>']
    parts.append(f'<path class="level" d="M{x(knee):.1f} {y(min(peak, knee * bandwidth)):.1f}V{y.start:.1f}"/>')
    parts.append(text(x.end - 4, y(min(peak, knee * bandwidth)) - 7, name, "callout soft", "end"))
    return "".join(parts)


def roofs(places: Sequence[Place], peaks: Mapping[str, tuple[float, str, str]], bandwidth: float, *, about: str, x_label: str,
          y_label: str, y_format: Format) -> str:  # fmt: skip
    """SVG of the layers under the roof of each of `peaks`: kind -> (operations a second, name, CSS class)."""
    places = [p for p in places if p.x > 0 and p.y > 0]
    if not places:
        return ""
    lines = [peak / bandwidth for peak, _, _ in peaks.values()]
    x = around([p.x for p in places] + [v * f for v in lines for f in (0.5, 2)], 72, WIDTH - 16, log=True)
    y = around([p.y for p in places] + [peak * f for peak, _, _ in peaks.values() for f in (1, 1.3)], HEIGHT - 52, 14, log=True)
    parts = [frame(x, y, x_label, y_label, lambda v: f"{v:g}", y_format)]
    parts += [_roof(x, y, peak, bandwidth, name, cls) for peak, name, cls in peaks.values()]
    for p in sorted(places, key=lambda p: -p.share):
        tip, radius = f"<title>{escape(p.tip)}</title>", 3.2 + 10 * p.share**0.5
        parts.append(
            f'<circle class={quoteattr("dot " + p.cls)} cx="{x(p.x):.1f}" cy="{y(p.y):.1f}" r="{radius:.1f}">{tip}</circle>'
        )
    return svg(WIDTH, HEIGHT, about, "".join(parts))
