"""Mixes of proxies: RoBoT's search with few queries, and whether ParZC's ranking loss is worth its name.

RoBoT searches the 9,445 valid cells of NAS-Bench-201 with their 13 proxies: a query gives the validation accuracy after 12
epochs on CIFAR-10, and what counts is the final test accuracy of the cell whose query was best. Beside it: as many queries at
random, and down the ranking by each proxy alone, in its declared direction, ties at random.

ParZC's network is trained on one set of labels, from one seed and with one set of settings: with its differentiable Kendall's
tau, with squared errors of accuracies, as is usual, and with squared errors of their normal scores, as our other predictors are.
Rate and steepness were chosen on another table (the 5-vertex cells of EC-NAS-Bench), where one rate was best for both losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from statistics import mean, stdev

import numpy as np

from netwright.bench.cells import Cells, Values
from netwright.bench.claim import Claim
from netwright.bench.estimate.accuracy import SEEDS, Accuracy
from netwright.bench.estimate.proxies import COLUMNS
from netwright.estimate.predictors import ParZC, RoBoT
from netwright.estimate.predictors.role import normal_scores, tau
from netwright.estimate.proxies import CATALOGUE
from netwright.estimate.tables import Features, Table, split
from netwright.estimate.tables.features import Array
from netwright.pipeline.fitting import Progress

QUERIES, ORDERS = (20, 100), 100  # orders: how often the ties of a baseline are broken anew
ASKED = "c10_val_acc_hp12"
LOSSES = ("kendall", "mse of accuracies", "mse of normal scores")
SHOWN = 3000  # unseen architectures, drawn at random
FEW = (("nb101", 172), ("spikenas", 200))
BOUNDS: dict[str, tuple[str, float]] = {
    "robot_nb201_20_minus_random_points": (">", 0.0),
    "robot_nb201_100_minus_random_points": (">", 0.0),
    "robot_nb201_100_minus_mean_proxy_points": (">", 0.0),
    "parzc_kendall_minus_mse_tau": (">", 0.0),
}


def best_of(ranking: Array, queries: int, asked: Array, counted: Array, rng: np.random.Generator) -> float:
    """What counts of the best query among the first of a ranking [N], ties at random."""
    order = np.lexsort((rng.random(len(ranking)), ranking))[::-1][:queries]
    return float(counted[order[np.argmax(asked[order])]])


@dataclass
class Mixing:
    """The measurements, through cells."""

    cells: Cells
    progress: Progress | None = None

    @cached_property
    def accuracy(self) -> Accuracy:
        return Accuracy(self.cells, self.progress)

    @cached_property
    def proxies(self) -> Features:
        """The 13 proxies of the valid cells, as normal scores of their ranks."""
        return self.accuracy.valid.features.only("numbers")

    def searches(self, queries: int) -> list[Values]:
        """One cell a seed."""
        key = {"table": "nb201", "predictor": repr(RoBoT()), "queries": queries, "asked": ASKED}

        def make(seed: int) -> Values:
            asked = self.accuracy.valid.columns[ASKED]
            found = RoBoT().search(self.proxies, lambda row: float(asked[row]), queries, np.random.default_rng(seed))
            weights = dict(zip(self.proxies.names["numbers"], (round(float(w), 4) for w in found.weights), strict=True))
            return {
                "accuracy": float(self.accuracy.valid.y[found.best]), "explored": found.explored, "weights": weights,
            }  # fmt: skip

        return [self.cells.get(f"robot-{queries}-{s}", {**key, "seed": s}, partial(make, s)) for s in SEEDS]

    def orders(self, queries: int) -> dict[str, Values]:
        """Ranking -> mean and deviation of the test accuracy over `ORDERS` orders of the ties; `random` is all ties."""
        table, rng = self.accuracy.valid, np.random.default_rng(0)
        found = {}
        for name in ("random", *COLUMNS):
            ranking = np.zeros(len(table))
            if name != "random":
                ranking = table.columns[COLUMNS[name]] * (1 if CATALOGUE[name].larger_is_better else -1)
            each = [best_of(ranking, queries, table.columns[ASKED], table.y, rng) for _ in range(ORDERS)]
            found[name] = {"mean": mean(each), "deviation": stdev(each)}
        return found

    def mixed(self) -> Iterator[Claim]:
        """RoBoT less random, less the mean of the single proxies."""
        for queries in QUERIES:
            ours = [v["accuracy"] for v in self.searches(queries)]
            others = self.orders(queries)
            shown = {n: f"{v['mean']:.3f} ± {v['deviation']:.3f}" for n, v in others.items()}
            reference = {"ours": round(mean(ours), 3), "best of the table": round(float(self.accuracy.valid.y.max()), 3)}
            reference |= {"explored": mean(v["explored"] for v in self.searches(queries)), **shown}
            spread = (float(np.quantile(ours, 0.1)), float(np.quantile(ours, 0.9)))
            unit = f"points of final test accuracy after {queries} queries of 12 epochs, mean of {len(ours)} seeds"
            alone = mean(others[n]["mean"] for n in COLUMNS)
            rows = [("random", others["random"]["mean"])] + ([("mean_proxy", alone)] if queries == max(QUERIES) else [])
            for name, level in rows:
                id = f"robot_nb201_{queries}_minus_{name}_points"
                yield Claim(id, mean(ours) - level, unit, "measured", len(ours),
                            (spread[0] - level, spread[1] - level), {"against": round(level, 3), **reference})  # fmt: skip

    def table(self, name: str) -> Table:
        return self.accuracy.nb101 if name == "nb101" else self.accuracy.spike

    def twins(self, name: str, labels: int) -> list[Values]:
        """Kendall's tau of the networks on what was not seen, one cell a seed."""
        key = {"table": name, "labels": labels, "predictor": repr(ParZC()), "losses": LOSSES, "shown": SHOWN, "features": 1}

        def make(seed: int) -> Values:
            table = self.table(name)
            train, test = split(table.classes, labels, np.random.default_rng(seed))
            seen, shown, y = table.features[train], test[:SHOWN], table.y[train]
            z, raw, plain = normal_scores(y), (y - y.mean()) / y.std(), ParZC(loss="mse")
            runs = dict(zip(LOSSES, ((ParZC(), z), (plain, raw), (plain, z)), strict=True))
            learned = {name: p.learn(seen, target, np.random.default_rng(seed)) for name, (p, target) in runs.items()}
            return {name: tau(f(table.features[shown])[0], table.y[shown]) for name, f in learned.items()}

        return [self.cells.get(f"parzc-{name}-{labels}-{s}", {**key, "seed": s}, partial(make, s)) for s in SEEDS]

    def losses(self) -> Iterator[Claim]:
        """Tau with the ranking loss less tau with squared errors of accuracies, over tables and seeds."""
        found = {f"{name} {labels}": self.twins(name, labels) for name, labels in FEW}
        gains = [v[LOSSES[0]] - v[LOSSES[1]] for values in found.values() for v in values]
        shown = {f"{n}, {loss}": round(mean(v[loss] for v in values), 4) for n, values in found.items() for loss in LOSSES}
        spread = (float(np.quantile(gains, 0.1)), float(np.quantile(gains, 0.9)))
        error = stdev(gains) / len(gains) ** 0.5
        unit = f"Kendall's tau, mean of {len(gains)} paired differences, {len(FEW)} tables, {len(SEEDS)} seeds"
        yield Claim("parzc_kendall_minus_mse_tau", mean(gains), unit, "measured", len(gains), spread,
                    {"standard error": round(error, 4), **shown})  # fmt: skip

    def stages(self) -> dict[str, tuple[Callable[[], Iterator[Claim]], tuple[str, ...]]]:
        """Name -> the measurement and the claims it gives."""
        return {
            "a mix of proxies": (self.mixed, tuple(list(BOUNDS)[:3])),
            "a ranking loss": (self.losses, ("parzc_kendall_minus_mse_tau",)),
        }
