"""The figures of the page, from facts to SVG; a figure without facts is empty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from netwright.report import units
from netwright.report.plots import Bar, Point, Series, bars, histogram, line, scatter
from netwright.report.table import latency_of

Facts = Mapping[str, Any]


def _share(value: float) -> str:
    return f"{100 * value:.3g} %"


def _tip(trial: Mapping[str, Any], kind: str) -> str:
    o = trial["objectives"]
    blocks = [f"{v}" for k, v in trial["arch"].get("values", {}).items() if k.endswith(".block")]
    numbers = [
        f"error {_share(o['error'])}" if "error" in o else "",
        units.size(o["bytes"]) if "bytes" in o else "",
        units.duration(o["latency_us"]) if "latency_us" in o else "",
        "over budget" if kind == "infeasible" else "",
    ]
    return f"trial {trial['number']}: {', '.join(n for n in numbers if n)}{' | ' + ' · '.join(blocks) if blocks else ''}"


def _front(facts: Facts, objective: str, label: str, form: Any) -> str:
    """Validation error against one cost."""
    search = facts.get("search") or {}
    front, chosen = set(search.get("front", [])), search.get("chosen")
    points = []
    for trial in search.get("trials", []):
        if not {"error", objective} <= trial["objectives"].keys():
            continue
        number = trial["number"]
        kind = "chosen" if number == chosen else "front" if number in front else "trial"
        kind = kind if trial.get("feasible", True) else "infeasible"
        points.append(Point(trial["objectives"][objective], trial["objectives"]["error"], _tip(trial, kind), kind))
    about = f"{len(points)} networks tried by the search: validation error against {label}"
    return scatter(points, x_label=label, y_label="validation error", about=about, x_format=form, y_format=_share)


def _forms(facts: Facts) -> dict[str, str]:
    variants = facts["summary"]["variants"]

    def rows(value: Any, spread: Any = None, other: Any = None) -> list[Bar]:
        return [Bar(v["name"], value(v), v["name"], spread(v) if spread else None, other(v) if other else None) for v in variants]

    latencies = rows(
        lambda v: v["latency_us"]["median"],
        lambda v: (v["latency_us"]["p10"], v["latency_us"]["p90"]),
        lambda v: latency_of(v.get("onnxruntime_latency_us")),
    )
    return {
        "accuracy": bars(
            rows(lambda v: v["accuracy"]), about="Test accuracy of each compiled form", form=units.percent, dots=True
        ),
        "weights": bars(rows(lambda v: v["weight_bytes"]), about="Weight bytes of each form", form=units.size),
        "latency": bars(
            latencies,
            about="Latency of each compiled form and of ONNX Runtime",
            form=units.duration,
            other="ONNX Runtime",
        ),
        "energy": bars(rows(lambda v: v["energy_pj"]["value"]), about="Modelled energy of each form", form=units.energy),
    }


def _training(facts: Facts) -> dict[str, str]:
    history = facts.get("history") or []
    loss = [(r["step"], r["loss"]) for r in history if r.get("loss") is not None]
    accuracy = [(r["step"], r["accuracy"]) for r in history if r.get("accuracy") is not None]
    return {
        "loss": line(
            [Series("loss", loss)],
            x_label="step",
            y_label="training loss",
            about="Training loss by step",
            y_format=lambda v: f"{v:.3g}",
        ),
        "validation": line(
            [Series("accuracy", accuracy)],
            x_label="step",
            y_label="validation accuracy",
            about="Validation accuracy by step",
            y_format=_share,
        ),
    }


def _indicators(facts: Facts) -> dict[str, str]:
    """What the papers of the compression methods watch, by step: one figure an indicator."""
    found: dict[str, str] = {}
    for form, records in (facts.get("indicators") or {}).items():
        for name in [k for k in records[0] if k != "step"]:
            points = [(r["step"], r[name]) for r in records]
            about = f"{name.capitalize()} of the {form} form's weights by step, mean over layers"
            label, key = f"{name}, {form}", f"{form} {name}"
            found[key] = line([Series(name, points)], x_label="step", y_label=label, about=about, y_format=lambda v: f"{v:.3g}")
    return found


def _over_time(facts: Facts) -> str:
    """Accuracy of the spiking network after every step, beside that of the float network; the exit where it has one."""
    points = [(t, a) for t, a in facts.get("accuracy_over_time") or []]
    stops = facts.get("exit") or {}
    mark = [(stops["mean_steps"], stops["accuracy"])] if stops and points else []
    levels = {v["name"]: v["accuracy"] for v in facts["summary"]["variants"] if v["name"] == "float"}
    about = "Accuracy of the spiking network after each time step"
    return line(
        [Series("spiking", points, "spiking"), Series("exit, mean", mark, "chosen")],
        x_label="time step",
        y_label="accuracy so far",
        about=about,
        y_format=_share,
        levels=levels,
    )


def _exits(facts: Facts) -> str:
    """How many of the test inputs stop after each time step."""
    counts = (facts.get("exit") or {}).get("histogram") or []
    shares = [(t, n / sum(counts)) for t, n in enumerate(counts, 1)]
    about = "Share of the test inputs that stop after each time step"
    return histogram(shares, x_label="time step", y_label="inputs that stop", about=about, y_format=_share, cls="spiking")


def _rates(facts: Facts) -> str:
    rates = facts.get("spike_rates") or {}
    return bars([Bar(name, rate, "spiking") for name, rate in rates.items()], about="Spike rate of each layer", form=_share)


def all_figures(facts: Facts) -> dict[str, Markup]:
    """Name -> SVG, empty where the run has no such facts."""
    found = {
        "front_bytes": _front(facts, "bytes", "float weights", units.size),
        "front_latency": _front(facts, "latency_us", "latency of the compiled float network", units.duration),
        "over_time": _over_time(facts),
        "exits": _exits(facts),
        "rates": _rates(facts),
        **_forms(facts),
        **_training(facts),
    }
    return {name: Markup(svg) for name, svg in found.items()}


def indicators(facts: Facts) -> dict[str, Markup]:
    """Title -> SVG of what the papers of the compression methods watch."""
    return {name: Markup(svg) for name, svg in _indicators(facts).items()}
