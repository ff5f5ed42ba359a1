"""Rank correlation against labels, from the cells of `netwright bench estimate`, as SVG.

    python -m netwright.bench.estimate.picture --out docs/pictures/few-labels.svg

One panel a table: our line with the least and the largest seed, rankings that need no label as dashed lines, published figures as
marks. Reads cells only, so it needs no table. Sources of the published figures: `accuracy.PUBLISHED`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from netwright.bench.cells import Values
from netwright.bench.estimate.accuracy import PUBLISHED
from netwright.core.errors import DataError
from netwright.core.files import write_text
from netwright.report.plots.axes import around, frame, svg, text

WIDTH, HEIGHT, LINE = 380.0, 330.0, 13.0
STYLE = """
.plot{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;background:#fff}
.plot text{fill:#1b1f27;font-size:12px}.plot .tick,.plot .label{fill:#5b6473;font-size:11.5px}
.plot .title{font-size:14px;font-weight:650}.plot .grid{stroke:#e1e5eb;fill:none}.plot .axis{stroke:#8b94a3;fill:none}
.plot .curve{fill:none;stroke:#2f62b5;stroke-width:2.2}.plot .dot{fill:#2f62b5;stroke:#fff;stroke-width:1.5}
.plot .whisker{stroke:#2f62b5;stroke-width:1.3;fill:none}.plot .level{stroke:#8b94a3;stroke-dasharray:5 5;fill:none}
.plot .soft{fill:#5b6473;font-size:11px;stroke:#fff;stroke-width:3px;paint-order:stroke}
.plot .ours{fill:#2f62b5;font-weight:650}.plot .mark{fill:#c77a1d;stroke:#fff}
"""


@dataclass(frozen=True)
class Panel:
    """A table: its name in the cells, its title, and the correlation that is shown."""

    name: str
    title: str
    which: str


PANELS = (
    Panel("nb101", "NAS-Bench-101", "tau"),
    Panel("nb201", "NAS-Bench-201, 9,445 valid cells", "tau"),
    Panel("spikenas", "SpikeNAS-Bench", "rho"),
)
NAMES = {"tau": "Kendall's tau", "rho": "Spearman's rho"}
Found = Mapping[int, Sequence[Values]]


def read(folder: Path, name: str) -> dict[int, list[Values]]:
    """Labels -> values of each seed's cell."""
    found: dict[int, list[Values]] = {}
    for path in sorted(folder.glob(f"{name}-*-*.json")):
        if at := re.fullmatch(rf"{name}-(\d+)-\d+", path.stem):
            found.setdefault(int(at[1]), []).append(json.loads(path.read_text())["values"])
    return dict(sorted(found.items()))


def panel(about: Panel, found: Found, left: float) -> str:
    """One plot as SVG elements, `left` from the left."""
    which = about.which
    ours = {n: [float(v[which]) for v in values] for n, values in found.items()}
    levels: dict[str, list[float]] = {}
    for values in found.values():
        for v in values:
            for name, ranks in v["baselines"].items():
                levels.setdefault(name, []).append(ranks[which])
    flat = {name: mean(v) for name, v in levels.items() if name != "random"}
    marks = [(n, name, v) for n in found for name, v in PUBLISHED.get(f"{about.name}_{n}_{which}", {}).items()]
    x = around(list(found), left + 62, left + WIDTH - 14, log=True)
    y = around([*flat.values(), *(v for _, _, v in marks), *(v for values in ours.values() for v in values)], HEIGHT - 50, 38)
    parts = [frame(x, y, "labels", NAMES[which], lambda v: f"{v:g}", lambda v: f"{v:.2f}")]
    parts.append(text((x.start + x.end) / 2, 22, about.title, "title", "middle"))
    above = HEIGHT
    for name, level in sorted(flat.items(), key=lambda pair: pair[1]):
        parts.append(f'<path class="level" d="M{x.start:.1f} {y(level):.1f}H{x.end:.1f}"/>')
        above = min(y(level) - 4, above - LINE)
        parts.append(text(x.end - 4, above, f"{name} {level:.3f}", "soft", "end"))
    for n, name, value in marks:
        parts.append(f'<circle class="mark" cx="{x(n):.1f}" cy="{y(value):.1f}" r="3.6"><title>{name}: {value}</title></circle>')
    for name in dict.fromkeys(name for _, name, _ in marks):
        own = [(n, v) for n, other, v in marks if other == name]
        n, value = own[len(own) // 2]
        parts.append(text(x(n), y(value) + 17, name, "soft", "middle"))
    for n, seeds in ours.items():
        parts.append(f'<path class="whisker" d="M{x(n):.1f} {y(min(seeds)):.1f}V{y(max(seeds)):.1f}"/>')
    places = [(x(n), y(mean(seeds))) for n, seeds in ours.items()]
    parts.append(f'<path class="curve" d="M{"L".join(f"{a:.1f} {b:.1f}" for a, b in places)}"/>')
    for (a, b), (n, seeds) in zip(places, ours.items(), strict=True):
        tip = f"<title>auto, {n} labels: {mean(seeds):.3f}</title>"
        parts.append(f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="4.2">{tip}</circle>')
    parts.append(text(places[-1][0] - 2, places[-1][1] - 10, "auto", "ours", "end"))
    return "".join(parts)


def picture(folder: Path) -> str:
    """The SVG of a folder of cells.

    Raises:
        DataError: it holds no cell of any of the tables.
    """
    found = [(about, read(folder, about.name)) for about in PANELS]
    found = [(about, values) for about, values in found if values]
    if not found:
        raise DataError(f"{folder} holds no cells of {', '.join(p.name for p in PANELS)}. Run `netwright bench estimate` first.")
    drawn = "".join(panel(about, values, i * WIDTH) for i, (about, values) in enumerate(found))
    about = "Rank correlation of predicted and measured accuracy against the number of labels, beside rankings without labels"
    return svg(WIDTH * len(found), HEIGHT, about, f"<style>{STYLE}</style>{drawn}")


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cells", type=Path, default=Path("benchmarks/cells/estimate"))
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/few-labels.svg"))
    asked = parser.parse_args()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(asked.out, picture(asked.cells) + "\n")


if __name__ == "__main__":
    main()
