# ruff: noqa: RUF001  the signs of multiplication and of ranges are meant
"""Draw: a Graph as one SVG, top to bottom, with the shape of every tensor on its arrow.

A weighted layer and the norms, activations and views that follow it alone are one box. A network of more than sixty boxes
is drawn by module: consecutive operations of one module become one box, at the finest depth of module paths that fits,
and a module repeated in a chain is drawn once with its count. Arrows that skip rows run in lanes to the right.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import groupby
from xml.sax.saxutils import escape, quoteattr

from netwright.core.graph import Graph, Node, Spec
from netwright.design.caption import FOLLOWS, describe, kind_of, shape_text, si

LARGEST = 60  # boxes
LINE, PAD, GAP, SIDE = 17, 11, 46, 28
KINDS = {  # kind: (legend, fill, edge, fill in the dark, edge in the dark)
    "conv": ("convolution", "#e3edfd", "#3f74c8", "#1b2c49", "#7aa7f0"),
    "depthwise": ("depthwise", "#dcf3f2", "#218c88", "#12363a", "#5cc4bf"),
    "linear": ("linear, product", "#ece6fb", "#7653c4", "#2c2347", "#ad92f0"),
    "integer": ("integer", "#fdeedc", "#c77a1d", "#41290f", "#eeb063"),
    "binary": ("ternary, binary", "#fbe3e6", "#c03a55", "#45191f", "#f08a9c"),
    "spike": ("spiking", "#fdf6cf", "#a88a05", "#3a3208", "#e3c94a"),
    "act": ("norm, activation", "#edf4e2", "#6c9130", "#263317", "#a9cd6c"),
    "merge": ("merge", "#e9ebef", "#636c7c", "#2b303a", "#a4adbd"),
    "pool": ("pooling", "#f8e6f4", "#a8479a", "#3c1c37", "#dd8fd1"),
    "data": ("data", "#ffffff", "#8a919e", "#1d2027", "#7f8795"),
    "module": ("module", "#eef2f8", "#4a5f82", "#212a3a", "#8fa6cc"),
}


@dataclass
class _Box:
    """One box: the nodes in it, its text and, once laid out, its place (x is the middle, y the top)."""

    nodes: list[Node]
    kind: str
    lines: list[str]
    path: str = ""
    count: int = 1
    inputs: list[tuple[int, Spec]] = field(default_factory=list)  # (box, tensor on the arrow)
    row: int = 0
    x: float = 0.0
    y: float = 0.0

    @property
    def foot(self) -> str:
        macs, params = (self.count * sum(v) for v in zip(*((n.macs, n.attrs.get("_params", 0)) for n in self.nodes), strict=True))
        return " · ".join([f"{si(macs)} MACs"] * bool(macs) + [f"{si(params)} parameters"] * bool(params))

    @property
    def width(self) -> float:
        small = [self.path, self.foot, *self.lines[1:]]
        return max(132.0, 7.6 * len(self.lines[0]) + 28, *(6.2 * len(t) + 28 for t in small))

    @property
    def height(self) -> float:
        return 2 * PAD + LINE * (len(self.lines) + bool(self.path) + bool(self.foot)) - 3


# --- boxes ------------------------------------------------------------------------------------------------------------
def _with_counts(graph: Graph) -> list[Node]:
    """The nodes, each with the number of parameters it is the first to use."""
    params = graph.parameters_at
    return [replace(node, attrs={**node.attrs, "_params": params[node.name]}) for node in graph]


def _fused(graph: Graph) -> list[list[Node]]:
    """Chains of a node and what follows it alone."""
    readers, groups, place = graph.consumers(), list[list[Node]](), dict[str, int]()
    for node in _with_counts(graph):
        source = node.inputs[0] if len(node.inputs) == 1 else None
        alone = source is not None and len(readers[source]) == 1 and source not in graph.outputs
        if alone and node.op in FOLLOWS and graph[source or ""].op != "input":
            place[node.name] = place[source or ""]
            groups[place[node.name]].append(node)
        else:
            place[node.name] = len(groups)
            groups.append([node])
    return groups


def _prefix(group: list[Node], depth: int) -> str:
    return ".".join(group[0].path.split(".")[:depth])


def _by_module(groups: list[list[Node]]) -> list[list[Node]]:
    """Runs of consecutive groups with the same module path, cut at the deepest level that gives LARGEST boxes at most.

    A run is an interval of the execution order, so the boxes never depend on each other in a circle.
    """
    deepest = max(g[0].path.count(".") + 1 for g in groups)
    merged = groups
    for depth in range(deepest, 0, -1):
        runs = groupby(groups, key=lambda g: (_prefix(g, depth), g[0].op if g[0].op in ("input", "constant") else ""))
        merged = [[n for g in run for n in g] for _, run in runs]
        if len(merged) <= LARGEST:
            break
    return merged


def _boxes(graph: Graph) -> tuple[list[_Box], list[int]]:
    """Boxes in execution order with their inputs, and the boxes that hold the outputs."""
    groups = _fused(graph)
    by_module = len(groups) > LARGEST
    if by_module:
        groups = _by_module(groups)
    boxes, place = list[_Box](), dict[str, int]()
    for group in groups:
        if by_module and len(group) > 1:
            counts = Counter(describe(n, graph) for n in group if n.op not in ("reshape", "constant", "permute"))
            top = sorted(counts.items(), key=lambda item: -item[1])[:5]
            lines = [_common_path(group) or f"{len(group)} operations"]
            lines += [f"{k} × {text}" if k > 1 else text for text, k in top]
            lines += [f"and {len(counts) - len(top)} more"] if len(counts) > len(top) else []
            box = _Box(group, "module", lines)
        else:
            lines = [describe(n, graph) for n in group if n.op != "reshape" or n is group[0]]
            box = _Box(group, kind_of(group[0]), lines, group[0].path)
        inside = {n.name for n in group}
        sources = dict.fromkeys(i for n in group for i in n.inputs if i not in inside)
        box.inputs = [(place[i], graph[i].spec) for i in sources]
        place.update(dict.fromkeys(inside, len(boxes)))
        boxes.append(box)
    outputs = sorted({place[o] for o in graph.outputs})
    return _without_repeats(boxes, outputs) if by_module else (boxes, outputs)


def _common_path(group: list[Node]) -> str:
    parts = [n.path.split(".") for n in group]
    same = [level[0] for level in zip(*parts, strict=False) if len(set(level)) == 1]
    return ".".join(same)


def _without_repeats(boxes: list[_Box], outputs: list[int]) -> tuple[list[_Box], list[int]]:
    """A box that reads only the box before it and equals it is counted there."""
    readers = Counter(i for b in boxes for i, _ in b.inputs)
    kept, place = list[_Box](), dict[int, int]()
    for i, box in enumerate(boxes):
        last = kept[-1] if kept else None
        chained = [j for j, _ in box.inputs] == [i - 1] and readers[i - 1] == 1 and i - 1 not in outputs
        same = (
            last is not None
            and box.kind == "module"
            and box.lines[1:] == last.lines[1:]
            and box.nodes[-1].spec == last.nodes[-1].spec
        )
        if last is not None and same and chained:
            last.count += 1
            place[i] = len(kept) - 1
        else:
            box.inputs = [(place[j], s) for j, s in box.inputs]
            place[i] = len(kept)
            kept.append(box)
    for box in kept:
        if box.count > 1:
            box.lines[0] += f"  × {box.count} in a row"
    return kept, sorted({place[i] for i in outputs})


# --- layout -----------------------------------------------------------------------------------------------------------
def _place(boxes: list[_Box], top: float) -> list[list[_Box]]:
    """Rows by longest path, boxes in a row by the mean place of what they read, rows centred on x = 0."""
    for box in boxes:
        box.row = max((boxes[i].row + 1 for i, _ in box.inputs), default=0)
    rows: list[list[_Box]] = [[] for _ in range(max(b.row for b in boxes) + 1)]
    for box in boxes:
        rows[box.row].append(box)
    for row in rows:
        row.sort(key=lambda b: sum(boxes[i].x for i, _ in b.inputs) / max(1, len(b.inputs)))
        left = -(sum(b.width for b in row) + SIDE * (len(row) - 1)) / 2
        for box in row:
            box.x, box.y = left + box.width / 2, top
            left += box.width + SIDE
        top += max(b.height for b in row) + GAP
    return rows


def _bottom(row: Iterable[_Box]) -> float:
    return max(b.y + b.height for b in row)


def _label_width(spec: Spec) -> float:
    return 5.9 * len(shape_text(spec))


def _sides(boxes: list[_Box]) -> list[float]:
    """Everything to the left and right that boxes and the labels of short arrows reach."""
    found = [b.x + side * b.width / 2 for b in boxes for side in (-1, 1)]
    for box in boxes:
        found += [boxes[i].x + 10 + _label_width(s) for i, s in box.inputs if box.row - boxes[i].row == 1]
        if len(box.inputs) == 1 and abs(box.x - boxes[box.inputs[0][0]].x) > 2:
            out = 10 + _label_width(box.inputs[0][1])
            found.append(box.x + math.copysign(out, box.x - boxes[box.inputs[0][0]].x))
    return found


def _lanes(boxes: list[_Box], rows: list[list[_Box]]) -> dict[tuple[int, int], float]:
    """x of the lane of every arrow that skips rows: right of the rows it passes and of shorter lanes beside it."""
    skips = [(i, j) for j, b in enumerate(boxes) for i, _ in b.inputs if b.row - boxes[i].row > 1]
    lanes: dict[tuple[int, int], float] = {}
    for i, j in sorted(skips, key=lambda e: (boxes[e[1]].row - boxes[e[0]].row, e)):
        low, high = boxes[i].row, boxes[j].row
        passed = [b for row in rows[low + 1 : high] for b in row]
        x = max(b.x + max(b.width / 2, _label_width(b.nodes[-1].spec)) for b in passed) + 20
        beside = sorted(x2 for (a, c), x2 in lanes.items() if boxes[a].row < high and low < boxes[c].row)
        for taken in beside:
            x = taken + 22 if abs(taken - x) < 22 else x
        lanes[i, j] = x
    return lanes


# --- SVG --------------------------------------------------------------------------------------------------------------
def _style() -> str:
    def colours(fill: int, edge: int) -> str:
        rules = (f".netwright-drawing .{k} rect{{fill:{v[fill]};stroke:{v[edge]}}}.netwright-drawing .{k} .bar{{fill:{v[edge]}}}"
                 for k, v in KINDS.items())  # fmt: skip
        return "".join(rules)

    scope = ".netwright-drawing"
    return (
        f"{scope}{{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}}"
        f"{scope} .page{{fill:#fff}}{scope} text{{fill:#20242c;font-size:11px}}{scope} .name{{font-size:13px;font-weight:600}}"
        f"{scope} .title{{font-size:19px;font-weight:650}}{scope} .soft{{fill:#626b7a}}"
        f"{scope} .arrow{{fill:none;stroke:#7d8696;stroke-width:1.4}}{scope} .skip{{stroke:#4a5f82;stroke-width:1.6}}"
        f"{scope} .head{{fill:#7d8696}}{scope} .shape{{font-size:10.5px;fill:#4b5363;stroke:#fff;stroke-width:4px;"
        f"paint-order:stroke}}"
        f"{colours(1, 2)}"
        f"@media (prefers-color-scheme:dark){{{scope} .page{{fill:#14161b}}"
        f"{scope} text{{fill:#e7eaf0}}{scope} .soft{{fill:#a0a8b6}}"
        f"{scope} .shape{{fill:#c3cad6;stroke:#14161b}}{scope} .skip{{stroke:#8fa6cc}}{colours(3, 4)}}}"
    )


def _label(x: float, y: float, text: str, cls: str, anchor: str = "start", turn: bool = False) -> str:
    rotate = f' transform="rotate(90 {x:.1f} {y:.1f})"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{cls}" text-anchor="{anchor}"{rotate}>{escape(text)}</text>'


def _draw_box(box: _Box) -> str:
    x, y, w, h = box.x - box.width / 2, box.y, box.width, box.height
    tip = f"{box.path or box.nodes[0].name}: {', '.join(n.op for n in box.nodes[:12])}"
    parts = [f'<g class="{box.kind}"><title>{escape(tip)}</title>']
    if box.count > 1:
        parts += [f'<rect x="{x + d:.1f}" y="{y + d:.1f}" width="{w:.1f}" height="{h:.1f}" rx="7"/>' for d in (8, 4)]
    parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="7"/>')
    parts.append(f'<path class="bar" d="M{x + 7:.1f} {y:.1f}a7 7 0 0 0 -7 7v{h - 14:.1f}a7 7 0 0 0 7 7h-2v-{h:.1f}z"/>')
    texts = [(text, "" if i else "name") for i, text in enumerate(box.lines)] + [(t, "soft") for t in (box.foot, box.path) if t]
    parts += [_label(x + 14, y + PAD + 10 + LINE * i, text, cls) for i, (text, cls) in enumerate(texts)]
    return "".join([*parts, "</g>"])


def _arrow(
    source: _Box, target: _Box, rows: list[list[_Box]], lane: float | None, spec: Spec, shift: float, forks: bool
) -> tuple[str, str]:
    """(arrow, label) from one box to another; `shift` moves its end sideways; `forks`: a lane leaves the source."""
    x1, y1, x2, y2 = source.x, source.y + source.height, target.x + shift, target.y
    floor = _bottom(rows[source.row])
    end = f'<path class="head" d="M{x2:.1f} {y2:.1f}l-4 -7.5h8z"/>'
    if lane is None:
        middle = (floor + y2 - 7) / 2
        path = f"M{x1:.1f} {y1:.1f}V{floor:.1f}C{x1:.1f} {middle + 4:.1f} {x2:.1f} {middle:.1f} {x2:.1f} {y2 - 7:.1f}"
        y, text = middle + 4, shape_text(spec)
        if abs(x1 - x2) < 2:
            label = _label(x2 + 8, y2 - 12 if forks else y, text, "shape")
        elif abs(x1 - x2) < 40:
            label = _label(min(x1, x2) - 7, y, text, "shape", "end")
        elif len(target.inputs) == 1:  # a fan: outside of the arrow's end
            label = _label(x2 + math.copysign(8, x2 - x1), y2 - 11, text, "shape", "start" if x2 > x1 else "end")
        else:
            label = _label((x1 + x2) / 2, y, text, "shape", "middle")
        return f'<path class="arrow" d="{path}"/>{end}', label
    ceiling = y2 - GAP + 4
    path = (
        f"M{x1:.1f} {y1:.1f}V{floor:.1f}C{x1:.1f} {floor + 30:.1f} {lane:.1f} {floor - 4:.1f} {lane:.1f} {floor + GAP - 6:.1f}"
        f"V{ceiling:.1f}C{lane:.1f} {y2 - 8:.1f} {x2:.1f} {ceiling + 4:.1f} {x2:.1f} {y2 - 7:.1f}"
    )
    label = _label(lane + 5, (floor + GAP + ceiling) / 2, shape_text(spec), "shape", "middle", True)
    return f'<path class="arrow skip" d="{path}"/>{end}', label


def _legend(kinds: list[str], x: float, y: float) -> tuple[str, float]:
    parts = []
    for kind in kinds:
        text = KINDS[kind][0]
        parts.append(f'<g class="{kind}"><rect x="{x:.1f}" y="{y - 9:.1f}" width="11" height="11" rx="3"/></g>')
        parts.append(_label(x + 17, y, text, "soft"))
        x += 17 + 6.3 * len(text) + 16
    return "".join(parts), x


def draw(graph: Graph, title: str) -> str:
    """The network as a self-contained SVG (one XML element, no fonts or scripts from elsewhere, light and dark)."""
    boxes, outputs = _boxes(graph)
    rows = _place(boxes, 96.0)
    lanes = _lanes(boxes, rows)
    forking = {i for i, _ in lanes}
    arrows, labels = [], []
    for j, box in enumerate(boxes):
        order = sorted(range(len(box.inputs)), key=lambda k: lanes.get((box.inputs[k][0], j), boxes[box.inputs[k][0]].x))
        step = min(26.0, (box.width - 30) / max(1, len(order)))
        for place, k in enumerate(order):
            i, spec = box.inputs[k]
            shift = (place - (len(order) - 1) / 2) * step
            arrow, label = _arrow(boxes[i], box, rows, lanes.get((i, j)), spec, shift, i in forking)
            arrows.append(arrow)
            labels.append(label)
    for i in outputs:
        box = boxes[i]
        y = box.y + box.height
        head = f'<path class="head" d="M{box.x:.1f} {y + GAP - 4:.1f}l-4 -7.5h8z"/>'
        arrows.append(f'<path class="arrow" d="M{box.x:.1f} {y:.1f}v{GAP - 12}"/>{head}')
        labels.append(_label(box.x + 8, y + GAP / 2 + 1, shape_text(box.nodes[-1].spec), "shape"))
    left, right = min(_sides(boxes)), max(*_sides(boxes), *(x + 16 for x in lanes.values())) + 4
    kinds = [k for k in KINDS if any(b.kind == k for b in boxes)]
    facts = f"{si(graph.parameters)} parameters · {si(graph.macs)} MACs · {len(graph.nodes)} operations"
    head_width = max(_legend(kinds, 0, 0)[1], 12.5 * len(title), 6.3 * len(facts))
    spare = max(0.0, head_width - (right - left)) / 2 + 32  # the drawing stands in the middle of a wider heading
    left, right = left - spare, right + spare
    legend = _legend(kinds, left + 32, 66)[0]
    width, height = right - left, _bottom(rows[-1]) + GAP + 16
    about = quoteattr(f"{title}: a network of {len(graph.nodes)} operations, {graph.parameters} parameters, {graph.macs} MACs")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="netwright-drawing" role="img" aria-label={about} '
        f'viewBox="{left:.1f} 0 {width:.1f} {height:.1f}" width="{math.ceil(width)}" height="{math.ceil(height)}">'
        f"<style>{_style()}</style>"
        f'<rect class="page" x="{left:.1f}" y="0" width="{width:.1f}" height="{height:.1f}"/>'
        f"{_label(left + 32, 31, title, 'title')}{_label(left + 32, 48, facts, 'soft')}{legend}"
        f"{''.join(arrows)}{''.join(map(_draw_box, boxes))}{''.join(labels)}</svg>"
    )
