"""Accuracy predicted from few labels, on measured tables, beside the trivial rankings, with the coverage of the intervals.

Splits are by isomorphism class and each seed has its own. Large classes are drawn sooner and leave the test whole, so that with
twins (NAS-Bench-201, SpikeNAS-Bench) the test is not quite like the labels, and intervals hold a little less there than on
NAS-Bench-101, which has none. Ties are broken at random. `auto` sees nothing but the labels of its budget and, of all
architectures, the features; on NAS-Bench-201 also the 13 proxies of the table, as the baseline there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from scipy.stats import kendalltau, spearmanr

from netwright.bench.cells import Cells, Values
from netwright.bench.claim import Claim
from netwright.core.errors import DataError
from netwright.estimate.predictors import Auto, Predictor, Ridge, Transfer
from netwright.estimate.tables import Features, Table, make_table, read_rows, split
from netwright.estimate.tables.features import Array
from netwright.estimate.tables.table import column
from netwright.pipeline.fitting import Progress

SEEDS = (0, 1, 2, 3, 4)
NB101, NB201, SPIKE = (100, 172, 424), (32, 128, 1024), (200,)
SOURCE, CALIBRATION = 10_000, 100  # labels of the source; labels of the target, for its interval alone
PLAIN = Transfer()
ELSEWHERE = Transfer(prior=("parameters", "flow"), shift=True)  # best from 101 to SpikeNAS and from 201 to 101
KINDS = ("conv1x1", "conv3x3", "pool3x3")
EDGES = ("e01", "e02", "e03", "e12", "e13", "e23")
SPIKING = ("none", "skip", "lif0.5-conv3x3", "lif1.0-conv3x3", "lif1.5-conv3x3")
PROXIES = ("epe_nas", "fisher", "grad_norm", "grasp", "jacov", "l2_norm", "nwot", "plain", "snip", "synflow", "zen")
BOUNDS: dict[str, tuple[str, float]] = {
    "nb101_to_nb201_zero_shot_rho": (">=", 0.86),
    "nb101_100_tau": (">=", 0.68),
    "nb101_172_tau": (">=", 0.73),
    "nb101_424_tau": (">=", 0.78),
    "nb201_32_tau": (">=", 0.76),
    "nb201_128_tau": (">=", 0.81),
    "nb201_1024_tau": (">=", 0.87),
    "spikenas_200_rho": (">=", 0.65),
    "interval_coverage_min": (">=", 0.87),
    "interval_coverage_max": ("<=", 0.93),
    "auto_predictions_per_second": (">=", 20000.0),
}
PUBLISHED = {
    "nb101_to_nb201_zero_shot_rho": {"GENNAPE": 0.815, "FLAN, mean of 2": 0.849, "boosted trees, 16 features": 0.832},
    "nb101_100_tau": {"PINAT": 0.667, "boosted trees, 16 features": 0.636},
    "nb101_172_tau": {"PINAT": 0.722, "boosted trees, 16 features": 0.649},
    "nb101_424_tau": {"PINAT": 0.776, "boosted trees, 16 features": 0.672},
    "nb201_32_tau": {"forest, graph features and proxies": 0.732},
    "nb201_128_tau": {"forest, graph features and proxies": 0.790},
    "nb201_1024_tau": {"forest, graph features and proxies": 0.847},
    "spikenas_200_rho": {"boosted trees, one-hot": 0.536},
}


def ranks(predicted: Array, y: Array, rng: np.random.Generator) -> Values:
    """Kendall's tau, Spearman's rho and the regret of the best of the ten ranked first, ties of `predicted` broken at random."""
    order = np.lexsort((rng.random(len(y)), predicted))
    place = np.empty(len(y))
    place[order] = np.arange(len(y))
    top = float(y.max() - y[order[-10:]].max())
    return {"tau": float(kendalltau(place, y)[0]), "rho": float(spearmanr(place, y)[0]), "regret": top}


def evaluate(table: Table, labels: int, seed: int, predictor: Predictor, baselines: dict[str, Array] | None = None) -> Values:
    """Fit on `labels` classes of a table and predict all others.

    Args:
        table: any, see `make_table`.
        baselines: rankings [N] of all rows, by name.

    Returns:
        ranks of the predictor, coverage of its interval, its reason, and ranks of the baselines and of chance.
    """
    rng = np.random.default_rng(seed)
    train, test = split(table.classes, labels, rng)
    fitted = predictor.fit(table.features[train], table.y[train], rng)
    found = fitted.predict(table.features[test])
    y = table.y[test]
    others = {"random": rng.random(len(table)), **(baselines or {})}
    return {
        **ranks(fitted.score(table.features[test]), y, rng),
        "coverage": float(((found.low <= y) & (y <= found.high)).mean()),
        "held-out tau": fitted.tau,
        "why": fitted.why,
        "baselines": {name: ranks(values[test], y, rng) for name, values in others.items()},
    }


def ceiling(table: Table, rng: np.random.Generator) -> Values:
    """How well a label is known by its own repetition: one pair of isomorphic twins of each class, each trained on its own.

        r = sin( pi t / 2 ),    ceiling = 2/pi asin( sqrt(r) )          for normal labels, noise and truth apart

    Args:
        table: with classes of more than one row.

    Returns:
        tau and rho between the twins, the pairs, and the tau that a predictor which knows the truth would have with one label.
    """
    order = rng.permutation(len(table))
    order = order[np.argsort(table.classes[order], kind="stable")]
    same = table.classes[order[1:]] == table.classes[order[:-1]]
    first = np.flatnonzero(same & ~np.concatenate([[False], same[:-1]]))
    a, b = table.y[order[first]], table.y[order[first + 1]]
    t = float(kendalltau(a, b)[0])
    top = 2 / np.pi * np.arcsin(np.sqrt(max(0.0, np.sin(np.pi * t / 2))))
    return {"pairs": len(first), "tau": t, "rho": float(spearmanr(a, b)[0]), "ceiling": float(top)}


@dataclass
class Accuracy:
    """The measurements, one cell a table, budget and seed."""

    cells: Cells
    progress: Progress | None = None

    @cached_property
    def folder(self) -> Path:
        if not (root := os.environ.get("NETWRIGHT_DATA")):
            raise DataError("the tables of measured architectures are read from $NETWRIGHT_DATA/nas, which is not set.")
        return Path(root) / "nas"

    @cached_property
    def nb101(self) -> Table:
        rows = read_rows(self.folder / "nb101_20k.csv.gz")
        table = make_table(rows, "val_acc_e108", ("adjacency", "ops"), kinds=KINDS)
        table.columns["params"] = column(rows, "params")
        return table

    @cached_property
    def nb201(self) -> Table:
        """All 15,625, in the file's order, with the proxies of the 9,445 cells that have them as further columns (nan else)."""
        rows = read_rows(self.folder / "nb201_main.csv.gz")
        table = make_table(rows, "c10_test_acc_hp200", EDGES, kinds=KINDS)
        measured = read_rows(self.folder / "nb201_zc_proxies.csv.gz")
        at = {row["idx"]: i for i, row in enumerate(measured)}
        here = np.array([at.get(row["idx"], -1) for row in rows])
        for name in (*(f"c10_{p}" for p in PROXIES), "flops", "params"):
            table.columns[name] = np.where(here >= 0, column(measured, name)[here], np.nan)
        table.columns["MACs"], table.columns["parameters"] = column(rows, "flops_M"), column(rows, "params_M")
        table.columns["c10_val_acc_hp12"] = column(rows, "c10_val_acc_hp12")
        return table

    @cached_property
    def valid(self) -> Table:
        """The 9,445 cells without operations that nothing reaches, with 13 proxies as numbers."""
        from netwright.estimate.tables.table import scores

        table = self.nb201[np.isfinite(self.nb201.columns["params"])]
        names = (*(f"c10_{p}" for p in PROXIES), "flops", "params")
        block = np.stack([scores(table.columns[n]) for n in names], 1)
        return Table(table.features | Features({"numbers": block}, {"numbers": names}), table.y, table.classes, table.columns)

    @cached_property
    def spike(self) -> Table:
        rows = read_rows(self.folder / "spikenasbench_cifar10.csv.gz")
        table = make_table(rows, "val_acc_e100", EDGES, operations=SPIKING)
        table.columns["params"] = column(rows, "params")
        return table

    def graph(self, table: Table, name: str) -> Array:
        return table.features.blocks["graph"][:, table.features.names["graph"].index(name)]

    def few(self, name: str, labels: int, table: Callable[[], Table], baselines: Callable[[], dict[str, Array]]) -> list[Values]:
        """One cell a seed."""
        key = {"table": name, "labels": labels, "predictor": repr(Auto()), "features": 1}

        def make(seed: int) -> Values:
            return evaluate(table(), labels, seed, Auto(), baselines())

        return [self.cells.get(f"{name}-{labels}-{seed}", {**key, "seed": seed}, partial(make, seed)) for seed in SEEDS]

    def nb101_few(self, labels: int) -> list[Values]:
        return self.few("nb101", labels, lambda: self.nb101, lambda: {
            "parameters": self.nb101.columns["params"], "MACs, of a cell of width 1": self.graph(self.nb101, "parameters"),
            "synflow, as path products": self.graph(self.nb101, "flow"),
        })  # fmt: skip

    def nb201_few(self, labels: int) -> list[Values]:
        return self.few("nb201", labels, lambda: self.valid, lambda: {
            "parameters": self.valid.columns["parameters"], "MACs": self.valid.columns["MACs"],
            "synflow": self.valid.columns["c10_synflow"],
        })  # fmt: skip

    def spike_few(self, labels: int) -> list[Values]:
        return self.few("spikenas", labels, lambda: self.spike, lambda: {
            "parameters": self.spike.columns["params"],
            "MACs, as convolutions that are reached": self.graph(self.spike, "convolutions nodes"),
            "synflow, as path products": self.graph(self.spike, "flow"),
        })  # fmt: skip

    def crossing(self, method: Transfer = PLAIN, name: str = "nb101-to-nb201") -> list[Values]:
        """NAS-Bench-101 to 201 without a label of 201; the interval with `CALIBRATION` labels of it, by ridge on the rank."""
        key = {"method": repr(method), "source": SOURCE, "calibration": CALIBRATION, "features": 1}

        def make(seed: int) -> Values:
            rng = np.random.default_rng(seed)
            source, target = self.nb101, self.nb201
            chosen, _ = split(source.classes, SOURCE, rng)
            rank = method.rank(source.features[chosen], source.y[chosen], target.features, rng)
            known = {
                target.classes[i]: target.columns["c10_synflow"][i]
                for i in np.flatnonzero(np.isfinite(target.columns["c10_synflow"]))
            }
            synflow = np.array([known.get(c, -np.inf) for c in target.classes])
            others = {"random": rng.random(len(target)), "parameters": target.columns["parameters"],
                      "MACs": target.columns["MACs"], "synflow": synflow,
                      "parameters that are reached": self.graph(target, "parameters")}  # fmt: skip
            train, test = split(target.classes, CALIBRATION, rng)
            found = Ridge().fit(rank[train, None], target.y[train], rng).predict(rank[test, None])
            y = target.y[test]
            covered = float(((found.low <= y) & (y <= found.high)).mean())
            baselines = {k: ranks(v, target.y, rng) for k, v in others.items()}
            return {**ranks(rank, target.y, rng), "coverage": covered, "baselines": baselines}

        return [self.cells.get(f"{name}-{seed}", {**key, "seed": seed}, partial(make, seed)) for seed in SEEDS]

    def noise(self, name: str, table: Callable[[], Table]) -> dict[str, str]:
        """What isomorphic twins of a table say of its labels."""
        found = self.cells.get(f"{name}-twins", {"table": name, "seed": 0}, lambda: ceiling(table(), np.random.default_rng(0)))
        rho = 6 / np.pi * np.arcsin(np.sin(np.pi * found["ceiling"] / 2) / 2)
        text = f"tau {found['tau']:.3f}, rho {found['rho']:.3f}, {found['pairs']} pairs; so at most about "
        text += f"tau {found['ceiling']:.3f}, rho {rho:.3f}"
        return {"label noise, isomorphic twins": text}

    def claim(self, id: str, found: Sequence[Values], which: str, more: Mapping[str, str] | None = None) -> Claim:
        values = [v[which] for v in found]
        other = "rho" if which == "tau" else "tau"
        reference: dict[str, Any] = {"deviation": round(stdev(values), 4), **PUBLISHED[id]}
        reference |= {n: round(mean(v["baselines"][n][which] for v in found), 4) for n in found[0]["baselines"]}
        reference |= {
            other: round(mean(v[other] for v in found), 4),
            "regret of the top 10": round(mean(v["regret"] for v in found), 3),
        }
        reference |= {"coverage": round(mean(v["coverage"] for v in found), 4), **(more or {})}
        unit = {"tau": "Kendall's tau", "rho": "Spearman's rho"}[which]
        spread = (float(np.quantile(values, 0.1)), float(np.quantile(values, 0.9)))
        return Claim(id, mean(values), f"{unit}, mean of {len(values)} seeds", "measured", len(values), spread, reference)

    def zero_shot(self) -> Iterator[Claim]:
        """No label of the target; beside it the settings that were best between other spaces, run once."""
        elsewhere = mean(v["rho"] for v in self.crossing(ELSEWHERE, "nb101-to-nb201-elsewhere"))
        more = {"settings chosen between other spaces": f"{elsewhere:.4f}"}
        yield self.claim("nb101_to_nb201_zero_shot_rho", self.crossing(), "rho", more)

    def budgets(self) -> Iterator[Claim]:
        """Few labels of the table itself."""
        yield from (self.claim(f"nb101_{n}_tau", self.nb101_few(n), "tau") for n in NB101)
        noise = self.noise("nb201", lambda: self.valid)
        yield from (self.claim(f"nb201_{n}_tau", self.nb201_few(n), "tau", noise) for n in NB201)
        noise = self.noise("spikenas", lambda: self.spike)
        yield from (self.claim(f"spikenas_{n}_rho", self.spike_few(n), "rho", noise) for n in SPIKE)

    def coverage(self) -> Iterator[Claim]:
        """The smallest and the largest share of labels in their 90 % interval, over the tables and budgets."""
        found = {f"nb101 {n}": self.nb101_few(n) for n in NB101} | {f"nb201 {n}": self.nb201_few(n) for n in NB201}
        found |= {f"spikenas {n}": self.spike_few(n) for n in SPIKE}
        found[f"nb101 to nb201, interval from {CALIBRATION} labels"] = self.crossing()
        means = {k: round(mean(v["coverage"] for v in values), 4) for k, values in found.items()}
        unit = f"share of labels inside the 90 % interval, mean of {len(SEEDS)} seeds"
        yield Claim("interval_coverage_min", min(means.values()), unit, "measured", len(SEEDS), None, means)
        yield Claim("interval_coverage_max", max(means.values()), unit, "measured", len(SEEDS), None, means)

    def throughput(self, rounds: int = 5) -> Iterator[Claim]:
        """Means, spreads and intervals of 15,625 described cells by `auto` after 200 labels, the median of some rounds."""
        table, rng = self.spike, np.random.default_rng(0)
        train, _ = split(table.classes, 200, rng)
        fitted = Auto().fit(table.features[train], table.y[train], rng)
        rates = []
        for _ in range(rounds):
            start = time.perf_counter()
            fitted.predict(table.features)
            rates.append(len(table) / (time.perf_counter() - start))
        spread = (float(np.quantile(rates, 0.1)), float(np.quantile(rates, 0.9)))
        unit = "architectures/s, 1 thread, mean, spread and interval, from features"
        yield Claim("auto_predictions_per_second", float(np.median(rates)), unit, "measured", rounds, spread, {"why": fitted.why})

    def stages(self) -> dict[str, tuple[Callable[[], Iterator[Claim]], tuple[str, ...]]]:
        """Name -> the measurement and the claims it gives."""
        ids = tuple(BOUNDS)
        return {
            "across spaces": (self.zero_shot, ids[:1]),
            "few labels": (self.budgets, ids[1:8]),
            "intervals": (self.coverage, ids[8:10]),
            "speed of auto": (self.throughput, ids[10:]),
        }
