"""Proof: every form compiled, run on the whole test split, timed side by side; the facts for machines and for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netwright import __version__, compress, report
from netwright.core.cost import Cost, Quantity
from netwright.core.errors import NetwrightError
from netwright.core.files import write_json
from netwright.core.paper import Paper
from netwright.core.target import Target
from netwright.deploy.c99 import emit
from netwright.deploy.c99.picture import draw_arena
from netwright.deploy.onnx import OrtModel
from netwright.design import GraphModule, blocks
from netwright.design.draw import draw
from netwright.estimate.count import cost, table
from netwright.measure.latency import time_side_by_side
from netwright.measure.machine import machine
from netwright.pipeline.chain import Chain, Form
from netwright.pipeline.devices import run_elsewhere
from netwright.search.hypervolume import hypervolume
from netwright.search.strategies import CATALOGUE as STRATEGIES
from netwright.spike import convert, exits, unroll
from netwright.train.distil.kd import KnowledgeDistillation
from netwright.train.elastic import Sandwich

ELSEWHERE = 8  # test images that run on other processors
LOSS = 0.001  # share of right answers that stopping early may cost, on the validation split
RATE_IMAGES = 512  # test images on which spike rates are observed; the accuracy is of the whole split


def _logits(module: torch.nn.Module, x: Tensor, batch: int = 64) -> np.ndarray:
    with torch.no_grad():
        return torch.cat([module(part) for part in x.split(batch)]).numpy()


def _latency(q: Quantity) -> dict[str, Any]:
    low, high = q.spread or (q.value, q.value)
    return {"median": q.value, "p10": low, "p90": high, "how": q.how, "threads": 1}


def _check(chain: Chain, form: Form, x: Tensor, y: np.ndarray) -> dict[str, Any]:
    """Accuracy of the compiled network and of PyTorch on the test split, and how far they agree."""
    compiled = form.bundle.run(x.numpy())
    reference = _logits(chain.torch_module(form), x)
    return {
        "accuracy": float((compiled.argmax(1) == y).mean()),
        "torch_accuracy": float((reference.argmax(1) == y).mean()),
        "n_test": len(y),
        "agreement": float((compiled.argmax(1) == reference.argmax(1)).mean()),
        "max_abs_diff": float(np.abs(compiled - reference).max()),
    }


def _runs(forms: Mapping[str, Form], x: np.ndarray) -> dict[str, Any]:
    """What is timed: one image through every compiled form, and through ONNX Runtime where the form has an ONNX file."""
    runs: dict[str, Any] = {}
    for name, form in forms.items():
        runs[name] = partial(form.bundle.model.run_one, x)
        if onnx := form.bundle.onnx:
            ort = OrtModel(onnx, threads=1)
            runs[f"{name}/onnxruntime"] = partial(ort.session.run, None, {ort.names[0]: x})
    return runs


def _variant(form: Form, facts: Mapping[str, Any], counted: Cost, timed: Mapping[str, Quantity]) -> dict[str, Any]:
    sizes, ort = form.bundle.sizes, timed.get(f"{form.name}/onnxruntime")
    return {
        "name": form.name,
        **facts,
        **{key: sizes[key] for key in ("weight_bytes", "arena_bytes", "code_bytes")},
        "params": int(counted["parameters"].value),
        "macs": int(counted["macs"].value),
        "binary_ops": int(counted["binary_ops"].value),
        "synaptic_ops": counted["synaptic_ops"].value,
        "latency_us": _latency(timed[form.name]),
        "onnxruntime_latency_us": _latency(ort) if ort else None,
        "energy_pj": {"value": counted["energy"].value, "how": counted["energy"].how, "note": counted["energy"].note},
        "time_steps": form.info.get("steps", 1),
        "bundle": f"forms/{form.name}/bundle",
    }


def papers(chain: Chain) -> list[Paper]:
    """The methods that this run used, each once."""
    recipe, used = chain.recipe, []
    kinds = {v for name, v in chain.searched.chosen.arch.values if name.endswith(".block")}
    used += [blocks.CATALOGUE[kind].paper for kind in sorted(kinds)]
    used += [chain.options.paper] if hasattr(chain.options, "paper") else []
    used += [Sandwich.paper, *Sandwich.also, STRATEGIES[recipe.search.strategy].paper]
    for name in ("int8", "ternary", "binary"):
        if name in recipe.forms:
            used.append(compress.CATALOGUE[getattr(recipe.compress, name).method].paper)
    if {"ternary", "binary"} & set(recipe.forms):
        used.append(KnowledgeDistillation.paper)
    if "spiking" in recipe.forms:
        used.append(convert.CATALOGUE[recipe.spike.method].paper)
    return list({p.key: p for p in used}.values())


def prove(chain: Chain, reproduce: str) -> dict[str, Any]:
    """Run the chain to its end: measure every form, write summary.json and the report; returns the summary.

    Raises:
        NetwrightError: an integer form whose compiled result differs from PyTorch's.
    """
    with chain.threads():
        return _prove(chain, reproduce)


def _prove(chain: Chain, reproduce: str) -> dict[str, Any]:
    recipe, task = chain.recipe, chain.task
    forms: dict[str, Form] = {name: chain.form(name) for name in recipe.forms}
    x, y = task.test.x, task.test.y.numpy()
    checks = {}
    for i, (name, form) in enumerate(forms.items()):
        chain.progress(i, len(forms), "measure: accuracy of the compiled networks")
        checks[name] = _check(chain, form, x, y)
        if name != "float" and checks[name]["max_abs_diff"] != 0:
            raise NetwrightError(
                f"The compiled {name} network differs from PyTorch by {checks[name]['max_abs_diff']:.3g}; integer forms must be "
                f"equal. The bundle is {form.bundle.path}; please report it with its graph.json."
            )
    chain.progress(len(forms), len(forms), "measure: accuracy of the compiled networks")
    one = np.ascontiguousarray(x[:1].numpy())
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    timed = time_side_by_side(
        _runs(forms, one), rounds=recipe.measure.rounds, seed=recipe.seed, progress=chain._named("measure: latency")
    )
    torch.set_num_threads(before)
    target = Target.load(recipe.measure.target)
    counted = {name: cost(form.graph, target) for name, form in forms.items()}
    facts = machine()
    summary: dict[str, Any] = {
        "task": task.name,
        "seed": recipe.seed,
        "machine": {k: v for k, v in facts.items() if k != "versions"},
        "versions": {"netwright": __version__, **facts["versions"]},
        "search": {
            "trials": len(chain.searched.trials),
            "space_size": chain.space.size,
            "seconds": chain.searched.seconds,
        },
        "variants": [_variant(forms[name], checks[name], counted[name], timed) for name in forms],
    }
    if recipe.measure.devices:
        chain.progress(0, 1, "measure: other processors")
        some = np.ascontiguousarray(x[:ELSEWHERE].numpy())
        graphs = {name: form.graph for name, form in forms.items()}
        here = {name: np.asarray(form.bundle.run(some)) for name, form in forms.items()}
        summary["devices"] = run_elsewhere(graphs, recipe.measure.devices, some, here, chain.root / "devices")
        chain.progress(1, 1, "measure: other processors")
    write_json(chain.root / "summary.json", summary)
    write_facts(chain, forms, summary, reproduce)
    return summary


def write_facts(chain: Chain, forms: Mapping[str, Form], summary: Mapping[str, Any], reproduce: str) -> None:
    """Gather what the report shows, keep it as facts.json, and write the report."""
    recipe, found = chain.recipe, chain.searched
    over_time: list[tuple[int, float]] = []
    rates: dict[str, float] = {}
    stops: Mapping[str, Any] = {}
    if "spiking" in forms:
        module = GraphModule(forms["spiking"].graph).eval()
        x, y = chain.task.test.x, chain.task.test.y
        over_time = list(enumerate(unroll.accuracy_over_time(module, (x, y)), 1))
        rates = unroll.spike_rates(module, x[:RATE_IMAGES])
        held_out = chain.task.validation
        early = exits.calibrate(module, (held_out.x, held_out.y), epsilon=LOSS)
        stops = early.rule.evaluate(early.network(module), (x, y)).to_json()
    facts = {
        "name": recipe.name,
        "summary": summary,
        "task": chain.task.to_json(),
        "forms_wanted": list(recipe.forms),
        "refused": chain.refused,
        "search": {
            "strategy": recipe.search.strategy,
            "trials": [t.to_json() for t in found.trials],
            "front": [t.number for t in found.front],
            "chosen": found.chosen.number,
            "hypervolume": search_quality(chain),
        },
        "accuracy_over_time": over_time,
        "exit": stops,
        "spike_rates": rates,
        "layers": {name: table(form.graph) for name, form in forms.items()},
        "arena": draw_arena(emit(forms["float"].graph)) if "float" in forms else "",
        "drawing": draw(forms["float"].graph, f"{recipe.name}: the chosen network"),
        "recipe": recipe.model_dump(),
        "reproduce": reproduce,
        "history": chain.history,
        "indicators": {name: form.info["indicators"] for name, form in forms.items() if "indicators" in form.info},
        "bibliography": [{**asdict(p), "bibtex": p.bibtex()} for p in papers(chain)],
    }
    write_json(chain.root / "facts.json", facts)
    report.write_report(chain.root, facts)


def search_quality(chain: Chain) -> dict[str, float]:
    """Share of the objectives' box that the front dominates, beside that of the first, random, population."""
    trials = [t for t in chain.searched.trials if t.feasible]
    names = list(trials[0].objectives)
    points = np.array([[t.objectives[n] for n in names] for t in trials])
    low, high = points.min(0), points.max(0)
    scaled = (points - low) / np.where(high > low, high - low, 1)
    first = max(1, min(chain.recipe.search.population, len(trials) // 2))
    reference = [1.1] * len(names)

    def share(part: np.ndarray) -> float:
        return hypervolume(part.tolist(), reference) / 1.1 ** len(names)

    return {"all": share(scaled), f"first {first} (random)": share(scaled[:first])}
