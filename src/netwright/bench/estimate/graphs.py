"""Predictors that read graphs, GENNAPE and AIO-P: across spaces without a label, and with few, beside `auto`.

Splits, seeds and tables are those of the accuracy benchmark, so the figures stand beside its own. What a part of each method
adds is measured in pairs, one difference a seed: the mix of GENNAPE's heads against the mean of the heads, AIO-P with an adapter
against the same base without one, and with labels divided by work against plain ones. The bounds were set before the first run:
a part that its paper adds should not harm. Where one does, the claim stands there and does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from statistics import mean, stdev
from typing import Any

import numpy as np

from netwright.bench.cells import Cells, Values
from netwright.bench.claim import Claim
from netwright.bench.estimate.accuracy import SEEDS, SOURCE, Accuracy, evaluate, ranks
from netwright.estimate.predictors import AIOP, GENNAPE, Auto, Predictor
from netwright.estimate.predictors.role import normal_scores
from netwright.estimate.tables import Table, split
from netwright.pipeline.fitting import Progress

NB101, NB201 = (100, 172), (32, 128)
TASK, UNLABELLED = 2000, 5000  # labels of each task that AIO-P learns first; graphs that GENNAPE's encoder learns from
BOUNDS: dict[str, tuple[str, float]] = {
    "gennape_mix_minus_mean_of_heads_rho": (">=", 0.0),
    "gennape_mix_minus_mean_of_heads_tau": (">=", 0.0),
    "aiop_adapter_minus_none_tau": (">=", 0.0),
    "aiop_work_scaling_minus_none_rho": (">=", 0.0),
}


def without(model: AIOP) -> AIOP:
    """The same base without its adapters."""
    assert model.backbone is not None
    return replace(model, backbone=replace(model.backbone, adapters=()))


@dataclass
class Graphs:
    """The measurements; a cell is a table, a budget and a seed."""

    cells: Cells
    progress: Progress | None = None
    encoders: dict[tuple[str, int], GENNAPE] = field(default_factory=dict)
    backbones: dict[tuple[str, int], AIOP] = field(default_factory=dict)

    @cached_property
    def accuracy(self) -> Accuracy:
        return Accuracy(self.cells, self.progress)

    def crossing(self) -> list[Values]:
        """NAS-Bench-101 to 201 without a label of 201."""
        key = {"methods": [repr(GENNAPE()), repr(AIOP())], "source": SOURCE, "task": TASK}

        def make(seed: int) -> Values:
            rng = np.random.default_rng(seed)
            source, target, spiking = self.accuracy.nb101, self.accuracy.nb201, self.accuracy.spike
            chosen, _ = split(source.classes, SOURCE, rng)
            x, y = source.features[chosen], source.y[chosen]
            model, heads, mix = GENNAPE().transfer(x, y, rng)
            assert model.pretrained is not None
            graphs = model.pretrained.reader(target.features)
            g = model.pretrained.vectors(graphs)
            each = np.stack([head(graphs, g) for head in heads], 1)
            found = {"gennape": mix(each, model.members(g))[0], "equal weights": each.mean(1)}
            found |= {f"head {i}": each[:, i] for i in range(each.shape[1])}
            few, _ = split(spiking.classes, TASK, rng)
            tasks = [(x, y), (spiking.features[few], spiking.y[few])]
            both = AIOP().pretrain(tasks, np.random.default_rng(seed))
            found["aio-p"] = without(both).zero_shot(target.features)
            found["aio-p, adapter of spiking cells"] = both.zero_shot(target.features)
            plain = AIOP(by_work=False).pretrain(tasks, np.random.default_rng(seed))
            found["aio-p, plain labels"] = without(plain).zero_shot(target.features)
            return {name: ranks(values, target.y, rng) for name, values in found.items()} | {"why": mix.why}

        return [self.cells.get(f"graphs-nb101-to-nb201-{s}", {**key, "seed": s}, partial(make, s)) for s in SEEDS]

    def encoder(self, name: str, seed: int) -> GENNAPE:
        """GENNAPE with an encoder from graphs of the table, without their labels."""
        if (name, seed) not in self.encoders:
            table, rng = self.table(name), np.random.default_rng(1000 + seed)
            chosen, _ = split(table.classes, UNLABELLED, rng)
            self.encoders[name, seed] = GENNAPE().pretrain(table.features[chosen], rng)
        return self.encoders[name, seed]

    def backbone(self, name: str, seed: int) -> AIOP:
        """AIO-P with a base from the other of the two tables, and an adapter for spiking cells."""
        if (name, seed) not in self.backbones:
            rng, tasks = np.random.default_rng(1000 + seed), []
            for table in (self.table("nb201" if name == "nb101" else "nb101"), self.accuracy.spike):
                chosen, _ = split(table.classes, TASK, rng)
                tasks.append((table.features[chosen], table.y[chosen]))
            self.backbones[name, seed] = AIOP().pretrain(tasks, rng)
        return self.backbones[name, seed]

    def table(self, name: str) -> Table:
        """A table with its graphs and what is counted from them, without proxies."""
        found = self.accuracy.nb101 if name == "nb101" else self.accuracy.valid
        return Table(found.features.only("graph", "words"), found.y, found.classes, found.columns)

    def few(self, name: str, labels: int) -> dict[str, list[Values]]:
        """Each method on each seed; all on the same labels, and `auto` on what is counted from the graphs, without proxies."""
        models: dict[str, tuple[Predictor, Callable[[int], Predictor]]] = {
            "gennape": (GENNAPE(), partial(self.encoder, name)),
            "aio-p": (AIOP(), partial(self.backbone, name)),
            "aio-p, no adapter": (AIOP(), lambda seed: without(self.backbone(name, seed))),
            "auto": (Auto(), lambda seed: Auto()),
        }

        def make(method: str, seed: int) -> Values:
            return evaluate(self.table(name), labels, seed, models[method][1](seed))

        found = {}
        for method, (predictor, _) in models.items():
            key = {"table": name, "labels": labels, "method": method, "predictor": repr(predictor), "task": TASK,
                   "unlabelled": UNLABELLED}  # fmt: skip
            label = method.replace(", ", "-").replace(" ", "-")
            found[method] = [
                self.cells.get(f"graphs-{name}-{labels}-{label}-{s}", {**key, "seed": s}, partial(make, method, s)) for s in SEEDS
            ]
        return found

    def heads(self, labels: int) -> list[Values]:
        """GENNAPE's heads one by one on NAS-Bench-101."""
        key = {"predictor": repr(GENNAPE()), "labels": labels, "unlabelled": UNLABELLED}

        def make(seed: int) -> Values:
            table, rng = self.table("nb101"), np.random.default_rng(seed)
            train, test = split(table.classes, labels, rng)
            model, heads, mix, *_ = self.encoder("nb101", seed).parts(table.features[train], normal_scores(table.y[train]), rng)
            assert model.pretrained is not None
            graphs = model.pretrained.reader(table.features[test])
            g = model.pretrained.vectors(graphs)
            each = np.stack([head(graphs, g) for head in heads], 1)
            found = {"gennape": mix(each, model.members(g))[0], "equal weights": each.mean(1)}
            found |= {f"head {i}": each[:, i] for i in range(each.shape[1])}
            return {name: ranks(values, table.y[test], rng) for name, values in found.items()} | {"why": mix.why}

        return [self.cells.get(f"graphs-heads-{labels}-{s}", {**key, "seed": s}, partial(make, s)) for s in SEEDS]

    @staticmethod
    def paired(id: str, differences: Sequence[float], unit: str, reference: dict[str, Any]) -> Claim:
        spread = (float(np.quantile(differences, 0.1)), float(np.quantile(differences, 0.9)))
        reference = {"deviation of the difference": round(stdev(differences), 4), **reference}
        return Claim(id, mean(differences), unit, "measured", len(differences), spread, reference)

    def against_heads(self, id: str, found: Sequence[Values], which: str) -> Claim:
        """The mix minus the mean over the heads, each alone."""
        heads = [name for name in found[0] if name.startswith("head")]
        differences = [v["gennape"][which] - mean(v[h][which] for h in heads) for v in found]
        names = [n for n, value in found[0].items() if isinstance(value, dict)]
        reference = {n: f"{mean(v[n][which] for v in found):.4f}+-{stdev(v[n][which] for v in found):.4f}" for n in names}
        return self.paired(id, differences, f"difference of {which}, mean of {len(found)} seeds", reference)

    def zero_shot(self) -> Iterator[Claim]:
        """No label of the target."""
        found = self.crossing()
        yield self.against_heads("gennape_mix_minus_mean_of_heads_rho", found, "rho")
        differences = [v["aio-p"]["rho"] - v["aio-p, plain labels"]["rho"] for v in found]
        unit = f"difference of rho, mean of {len(found)} seeds"
        yield self.paired("aiop_work_scaling_minus_none_rho", differences, unit, {})

    def budgets(self) -> Iterator[Claim]:
        """Few labels, all methods on the same ones."""
        yield self.against_heads("gennape_mix_minus_mean_of_heads_tau", self.heads(NB101[1]), "tau")
        reference: dict[str, Any] = {}
        for name, budgets in (("nb101", NB101), ("nb201", NB201)):
            for labels in budgets:
                found = self.few(name, labels)
                for method, values in found.items():
                    taus, covered = [v["tau"] for v in values], mean(v["coverage"] for v in values)
                    reference[f"{name} {labels} {method}"] = f"{mean(taus):.4f}+-{stdev(taus):.4f}, coverage {covered:.3f}"
        found = self.few("nb201", NB201[0])
        differences = [a["tau"] - b["tau"] for a, b in zip(found["aio-p"], found["aio-p, no adapter"], strict=True)]
        unit = f"difference of tau, {NB201[0]} labels of NAS-Bench-201, mean of {len(differences)} seeds"
        yield self.paired("aiop_adapter_minus_none_tau", differences, unit, reference)

    def stages(self) -> dict[str, tuple[Callable[[], Iterator[Claim]], tuple[str, ...]]]:
        """Name -> the measurement and the claims it gives."""
        ids = tuple(BOUNDS)
        return {"graphs across spaces": (self.zero_shot, (ids[0], ids[3])), "graphs, few labels": (self.budgets, ids[1:3])}
