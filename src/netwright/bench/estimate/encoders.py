"""Encoders that learn without labels first: what pre-training on free statistics is worth, by S194 and by S248.

Each seed draws its own labels; both sides of a difference see the same ones, start from the same random weights and take the same
steps on labels, and the pool is the whole table, without its labels. FBNetV3's encoder reads the wiring and the words of a cell,
not the statistics that it is pre-trained to tell; beside it stands the same network without pre-training that reads these too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean, stdev

import numpy as np

from netwright.bench.cells import Cells, Values
from netwright.bench.claim import Claim
from netwright.bench.estimate.accuracy import Accuracy, ranks
from netwright.estimate.predictors.fbnetv3 import FBNetV3
from netwright.estimate.predictors.onnx_net import OnnxNet
from netwright.estimate.predictors.role import normal_scores
from netwright.estimate.tables import Table, split
from netwright.pipeline.fitting import Progress

SEEDS = (0, 1, 2, 3, 4)
BUDGETS = (32, 100, 172)
TABLES = ("nb101", "nb201", "spikenas")
METHODS: dict[str, FBNetV3 | OnnxNet] = {"fbnetv3": FBNetV3(), "onnx-net": OnnxNet()}
BOUNDS: dict[str, tuple[str, float]] = {
    "fbnetv3_pretraining_gain_nb101_tau": (">", 0.0),
    "fbnetv3_pretraining_gain_nb201_tau": (">", 0.0),
    "fbnetv3_pretraining_gain_spikenas_tau": (">", 0.0),
    "onnx_net_pretraining_gain_nb101_tau": (">", 0.0),
}


@dataclass
class Encoders:
    """The measurements, one cell a method, table and seed."""

    cells: Cells
    progress: Progress | None = None

    def __post_init__(self) -> None:
        self.accuracy = Accuracy(self.cells, self.progress)

    def table(self, name: str) -> Table:
        """All of NAS-Bench-101's sample, the 9,445 of NAS-Bench-201 whose operations are all reached, all of SpikeNAS-Bench."""
        if name == "nb201":
            return self.accuracy.nb201[np.isfinite(self.accuracy.nb201.columns["params"])]
        return self.accuracy.nb101 if name == "nb101" else self.accuracy.spike

    def taus(self, method: str, name: str) -> list[Values]:
        """Kendall's tau at each budget, with the pre-training and without, one cell a seed."""
        predictor = METHODS[method]

        def make(seed: int) -> Values:
            table, found = self.table(name), Values()
            sides = {"pre-trained": predictor, "scratch": predictor.scratch}
            if isinstance(predictor, FBNetV3):
                sides["scratch, statistics as inputs"] = replace(predictor.scratch, inputs=("graph", "words"))
            for which, taken in sides.items():
                ready = taken.pretrain(table.features, np.random.default_rng([seed, 0]))
                for labels in BUDGETS:
                    train, test = split(table.classes, labels, np.random.default_rng([seed, 1]))
                    rng = np.random.default_rng([seed, 2])
                    learned = ready.learn(table.features[train], normal_scores(table.y[train]), rng)
                    found[f"{which} {labels}"] = ranks(learned(table.features[test])[0], table.y[test], rng)["tau"]
            return found

        key = {"method": repr(predictor), "table": name, "budgets": list(BUDGETS), "features": 2}
        return [self.cells.get(f"{method}-{name}-{seed}", {**key, "seed": seed}, partial(make, seed)) for seed in SEEDS]

    def gain(self, method: str, name: str) -> Iterator[Claim]:
        """The smallest mean gain over the budgets, paired over seeds."""
        found = self.taus(method, name)
        gains = {n: [v[f"pre-trained {n}"] - v[f"scratch {n}"] for v in found] for n in BUDGETS}
        least = min(BUDGETS, key=lambda n: mean(gains[n]))
        reference = {
            "name": "the same network without pre-training",
            "at labels": least,
            "deviation": round(stdev(gains[least]), 4),
        }
        for which in sorted(found[0].keys() - {"seconds"}):
            reference[which] = round(mean(v[which] for v in found), 4)
        spread = (float(np.quantile(gains[least], 0.1)), float(np.quantile(gains[least], 0.9)))
        unit = f"Kendall's tau, least mean gain over {', '.join(map(str, BUDGETS))} labels, {len(SEEDS)} seeds"
        id = f"{method.replace('-', '_')}_pretraining_gain_{name}_tau"
        yield Claim(id, mean(gains[least]), unit, "measured", len(SEEDS), spread, reference)

    def stages(self) -> dict[str, tuple[Callable[[], Iterator[Claim]], tuple[str, ...]]]:
        """Name -> the measurement and the claims it gives."""
        ids = tuple(BOUNDS)
        pairs = [*(("fbnetv3", name) for name in TABLES), ("onnx-net", "nb101")]
        return {f"pre-training of {m} on {n}": (partial(self.gain, m, n), (ids[i],)) for i, (m, n) in enumerate(pairs)}
