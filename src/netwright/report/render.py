"""Render: the facts of a run as one HTML page that opens offline.

`facts` is plain JSON. ``summary`` is required (the content of summary.json); a section whose facts are absent is left out:

    name, task {shape, classes, sizes, how}, refused {block: reason}, recipe (mapping or TOML text), reproduce (command),
    search {strategy, trials [{number, arch, objectives {error, bytes, latency_us}, feasible}], front [number], chosen number,
            hypervolume {name: share}},
    history [{step, loss, accuracy}], indicators {form: [{step, NAME: value}]},
    accuracy_over_time [[t, accuracy]], exit {accuracy, mean_steps, histogram [inputs by step]}, spike_rates {layer: rate},
    layers {form: rows of estimate.table}, drawing (SVG), arena (SVG), bibliography [Paper as mapping], notes [text]
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from netwright.core.errors import NetwrightError
from netwright.core.files import write_text
from netwright.core.paper import Paper
from netwright.report import figures, units
from netwright.report.recipe import to_toml
from netwright.report.table import latency_of

Facts = Mapping[str, Any]


def checked_svg(svg: str) -> Markup:
    """The drawing as it goes into the page.

    Raises:
        NetwrightError: it is not well-formed, or holds scripts, event handlers or references to other places.
    """
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise NetwrightError(f"The drawing is not well-formed SVG: {error}. Make it with netwright.design.draw.") from error
    for element in root.iter():
        tag = element.tag.rpartition("}")[2].lower()
        names = [name.rpartition("}")[2].lower() for name in element.attrib]
        if tag in ("script", "foreignobject", "image", "use") or any(n == "href" or n.startswith("on") for n in names):
            raise NetwrightError(
                f"The drawing holds <{tag}> with {names or 'no attributes'}; a report takes shapes and text only."
            )
    return Markup(svg)


def network_in_words(arch: Mapping[str, Any]) -> list[str]:
    """One line a stage of a staged architecture; ``decision = value`` for any other."""
    stages: dict[str, dict[str, Any]] = {}
    rest = []
    for name, value in arch.get("values", {}).items():
        if found := re.fullmatch(r"stages\.(\d+)\.(\w+)", name):
            stages.setdefault(found[1], {})[found[2]] = value
        else:
            rest.append(f"{name} = {value}")
    lines = []
    for number, s in stages.items():
        others = ", ".join(f"{k} {v}" for k, v in s.items() if k not in ("block", "depth"))
        lines.append(f"Stage {int(number) + 1}: {s.get('depth', 1)} \u00d7 {s.get('block', '?')}, {others}")
    return lines + rest


def _asked(facts: Facts) -> list[str]:
    """What was asked: the data, the forms, the budgets."""
    task, recipe = facts.get("task"), facts.get("recipe")
    found = []
    if isinstance(task, Mapping):
        shape = " \u00d7 ".join(map(str, task.get("shape", ())))
        sizes = ", ".join(f"{n:,} {split}" for split, n in task.get("sizes", {}).items())
        found.append(f"tell {len(task.get('classes', ()))} classes apart in inputs of {shape} ({sizes})")
    budgets = recipe.get("search", {}) if isinstance(recipe, Mapping) else {}
    if budgets.get("max_bytes"):
        found.append(f"in at most {units.size(budgets['max_bytes'])} of float weights")
    if budgets.get("max_latency_us"):
        found.append(f"in at most {units.duration(budgets['max_latency_us'])} a piece")
    return found


def _notes(facts: Facts) -> list[str]:
    """What a reader must know before believing a number."""
    variants = facts["summary"]["variants"]
    tests, threads = variants[0]["n_test"], sorted({v["latency_us"].get("threads", 1) for v in variants})
    found = [
        f"Accuracy is that of the compiled networks on {tests:,} test inputs that neither training nor search has seen; "
        f"one input more or less is {100 / tests:.2f} points.",
        "Agreement compares the predictions of the compiled network with those of PyTorch on the same inputs; "
        "the largest difference is between their outputs.",
        f"Latency is the median of one input at a time on the machine named below, {'/'.join(map(str, threads))} thread(s), all "
        "networks and ONNX Runtime interleaved in one process; the range is the 10th to 90th percentile. Other machines differ.",
        "Energy is a model, never a measurement: counted arithmetic times the energy of one operation from the literature. "
        "Memory traffic, which often costs more than arithmetic, is not in it. Compare forms with it; do not plan a battery.",
        "Synaptic operations are counted with spike rates observed on data; they depend on the inputs.",
    ]
    if facts.get("search"):
        found.append(
            "Errors in the search are those of weight-sharing networks on the validation split before their own training; they "
            "rank candidates and are not the final accuracy. Their latency is that of each compiled float network."
        )
    found += [
        f"The block {block} was left out of the search space: {reason}" for block, reason in (facts.get("refused") or {}).items()
    ]
    return found + list(facts.get("notes") or [])


def papers(facts: Facts) -> list[dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for entry in facts.get("bibliography") or []:
        paper = Paper(**{k: v for k, v in entry.items() if k in Paper.__dataclass_fields__})
        found[paper.key] = {"text": str(paper), "url": paper.url, "bibtex": paper.bibtex(), "id": f"bib-{len(found)}"}
    return list(found.values())


def _best(variants: list[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {
        "accurate": max(variants, key=lambda v: v["accuracy"]),
        "small": min(variants, key=lambda v: v["weight_bytes"]),
        "fast": min(variants, key=lambda v: v["latency_us"]["median"]),
        "frugal": min(variants, key=lambda v: v["energy_pj"]["value"]),
    }


def _context(facts: Facts) -> dict[str, Any]:
    summary, search = facts["summary"], facts.get("search") or {}
    by_number = {t["number"]: t for t in search.get("trials", [])}
    chosen = by_number.get(search.get("chosen"))
    drawing = facts.get("drawing")
    return {
        "name": facts.get("name") or summary["task"],
        "summary": summary,
        "task": facts.get("task") or {},
        "asked": _asked(facts),
        "variants": summary["variants"],
        "best": _best(summary["variants"]),
        "search": search,
        "chosen": chosen,
        "network": network_in_words(chosen["arch"]) if chosen else [],
        "front": [by_number[n] for n in search.get("front", []) if n in by_number],
        "figures": figures.all_figures(facts),
        "indicators": figures.indicators(facts),
        "layers": facts.get("layers") or {},
        "drawing": checked_svg(drawing) if drawing else "",
        "arena": checked_svg(facts["arena"]) if facts.get("arena") else "",
        "devices": summary.get("devices") or [],
        "recipe": to_toml(facts.get("recipe") or {}),
        "reproduce": facts.get("reproduce") or "",
        "machine": summary.get("machine") or {},
        "versions": summary.get("versions") or {},
        "papers": papers(facts),
        "notes": _notes(facts),
    }


def render(facts: Facts) -> str:
    """The page.

    Raises:
        NetwrightError: there is no summary with at least one form, or the drawing cannot be shown.
    """
    if not facts.get("summary", {}).get("variants"):
        raise NetwrightError(
            "A report needs the summary of a run with at least one compiled form; this run has none. Finish the run first."
        )
    return page("report.html.jinja", _context(facts))


def page(template: str, context: Mapping[str, Any]) -> str:
    """A page of ours: the template with the style and the script of all pages, in one file that loads nothing."""
    room = files("netwright.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        size=units.size,
        duration=units.duration,
        energy=units.energy,
        count=units.count,
        exact=units.exact,
        percent=units.percent,
        power=units.power_of_ten,
        median=latency_of,
    )
    style, script = (Markup(room.joinpath(name).read_text()) for name in ("report.css", "script.html.jinja"))
    return environment.from_string(room.joinpath(template).read_text()).render(context, style=style, script=script)


def write_report(run_dir: str | Path, facts: Facts) -> Path:
    """Write ``report/index.html`` under the folder of the run, whole or not at all; returns its path."""
    path = Path(run_dir) / "report" / "index.html"
    write_text(path, render(facts))
    return path
