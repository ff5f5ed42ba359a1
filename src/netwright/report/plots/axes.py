"""Scales, ticks and the frame that all plots share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

Format = Callable[[float], str]


@dataclass(frozen=True)
class Scale:
    """Maps low..high to the pixels start..end, linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        at = math.log(max(value, self.low * 1e-3)) if self.log else value
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round numbers (1, 2, 5 times a power of ten) inside low..high."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if self.high / self.low < 300 else (1,)
            found = [k * 10.0**p for p in powers for k in steps]
        else:
            rough = (self.high - self.low) / wanted
            unit = 10.0 ** math.floor(math.log10(rough))
            step = next(k * unit for k in (1, 2, 5, 10) if k * unit >= rough * 0.999)
            first = math.ceil(self.low / step - 1e-9)
            found = [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]
        return [t for t in found if self.low * (1 - 1e-9) <= t <= self.high * (1 + 1e-9) or t == 0 == self.low]


def around(
    values: Sequence[float], start: float, end: float, log: bool = False, margin: float = 0.06, floor: float | None = None
) -> Scale:
    """The scale that holds all values with some room; `floor` is never gone below; a single value gets room of its own."""
    low, high = min(values), max(values)
    if log:
        room = max((high / low) ** margin, 1.1)
        return Scale(low / room, high * room, start, end, True)
    room = (high - low) * margin or abs(high) * 0.1 or 1.0
    return Scale(low - room if floor is None else max(floor, low - room), high + room, start, end)


def text(x: float, y: float, content: str, cls: str = "", anchor: str = "start", turn: bool = False) -> str:
    rotate = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" class={quoteattr(cls)} text-anchor="{anchor}"{rotate}>{escape(content)}</text>'


def frame(x: Scale, y: Scale, x_label: str, y_label: str, x_format: Format, y_format: Format) -> str:
    """Grid lines, tick labels and axis names; y.start is the bottom."""
    parts = []
    for tick in x.ticks(6):
        at = x(tick)
        parts.append(f'<path class="grid" d="M{at:.1f} {y.end:.1f}V{y.start:.1f}"/>')
        parts.append(text(at, y.start + 17, x_format(tick), "tick", "middle"))
    for tick in y.ticks():
        at = y(tick)
        parts.append(f'<path class="grid" d="M{x.start:.1f} {at:.1f}H{x.end:.1f}"/>')
        parts.append(text(x.start - 8, at + 4, y_format(tick), "tick", "end"))
    parts.append(f'<path class="axis" d="M{x.start:.1f} {y.end:.1f}V{y.start:.1f}H{x.end:.1f}"/>')
    parts.append(text((x.start + x.end) / 2, y.start + 38, x_label, "label", "middle"))
    parts.append(text(x.start - 52, (y.start + y.end) / 2, y_label, "label", "middle", turn=True))
    return "".join(parts)


def svg(width: float, height: float, about: str, content: str) -> str:
    """The plot as an image with a name for those who cannot see it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" role="img" aria-label={quoteattr(about)} '
        f'viewBox="0 0 {width:g} {height:g}">{content}</svg>'
    )
