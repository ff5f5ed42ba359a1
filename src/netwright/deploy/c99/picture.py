"""The arena over time: a rectangle for every buffer, from the step that writes it first to the one that reads it last."""

from __future__ import annotations

from xml.sax.saxutils import escape

from netwright.deploy.c99.emit import Emitted

WIDTH, HEIGHT, LEFT, TOP = 900, 420, 70, 34
COLOURS = ("#3f74c8", "#218c88", "#7653c4", "#c77a1d", "#6c9130", "#a8479a", "#c03a55", "#4a5f82")


def draw_arena(emitted: Emitted) -> str:
    """The plan of the arena as an SVG: steps from left to right, bytes from bottom to top, the peak as a line."""
    steps, total = max(len(emitted.live), 1), max(emitted.arena_bytes, 1)
    peak = max((bytes_ for _, bytes_ in emitted.live), default=0)

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - 10) * step / steps

    def y(byte: float) -> float:
        return TOP + HEIGHT * (1 - byte / total)

    boxes = []
    for i, place in enumerate(emitted.places):
        a, size = place.interval, place.interval.size
        names = f"{emitted.live[a.first][0]} to {emitted.live[a.last][0]}"
        boxes.append(
            f'<rect x="{x(a.first):.1f}" y="{y(place.offset + size):.1f}" width="{x(a.last + 1) - x(a.first):.1f}" '
            f'height="{y(place.offset) - y(place.offset + size):.1f}" fill="{COLOURS[i % len(COLOURS)]}" fill-opacity="0.55" '
            f'stroke="#fff" stroke-width="0.7"><title>{size:,} bytes at {place.offset:,}, steps {a.first} to {a.last}, '
            f"{escape(names)}</title></rect>"
        )
    text = f"{emitted.arena_bytes:,} bytes of arena, {peak:,} in use at the busiest of {steps} steps"
    ticks = "".join(
        f'<text x="{LEFT - 6}" y="{y(total * k / 4) + 4:.1f}" text-anchor="end">{total * k // 4:,}</text>' for k in range(5)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {TOP + HEIGHT + 30}" role="img" aria-label="{text}" '
        f'font-family="system-ui, sans-serif" font-size="11" fill="#777"><title>{text}</title>'
        f'<text x="{LEFT}" y="20" font-size="13">{text}</text>{ticks}{"".join(boxes)}'
        f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y(peak):.1f}" y2="{y(peak):.1f}" stroke="#c03a55" stroke-dasharray="5 4"/>'
        f'<text x="{LEFT}" y="{TOP + HEIGHT + 20}">step 0</text>'
        f'<text x="{WIDTH - 10}" y="{TOP + HEIGHT + 20}" text-anchor="end">step {steps - 1}</text></svg>\n'
    )
