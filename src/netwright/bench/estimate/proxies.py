"""Are our proxies the published ones? Their values on networks of NAS-Bench-201 beside those of NAS-Bench-Suite-Zero.

A hundred networks are drawn from those of the table, built anew by our own space, and scored on CIFAR-10 training images with
shifts and flips, each network on a batch of its own, as the authors did. A proxy is the same one if its values rank the networks
as the table does (0.85). One that falls short is scored with a second seed, too: weights, images and labels anew. It is the same
one if the table agrees with ours no less than ours with each other, up to what a hundred networks can tell. The table has
batches of 64, as ours have where inputs are compared with each other; other proxies get 32, as in the authors' second table,
whose agreement with the first is shown too: it needs no network of ours.

Krishnakumar et al., NAS-Bench-Suite-Zero, NeurIPS 2022.
"""

from __future__ import annotations

import csv
import gzip
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata, spearmanr

from netwright.bench.cells import Cells, Values
from netwright.bench.cifar import DATA
from netwright.bench.claim import Claim
from netwright.core.errors import DataError
from netwright.design.spaces import NASBench201
from netwright.estimate.improvement import relative_improvement, seed_deviation
from netwright.estimate.proxies import CATALOGUE
from netwright.pipeline.fitting import Progress
from netwright.tasks import Task, load_task

SAMPLE, FEW, BLOCK, SEEDS = 100, 30, 10, (0, 1)
BATCH, HALF = 64, 32  # those that compare inputs with each other take the whole batch, the others half of it, for time
ENOUGH = 0.85
BOUNDS: dict[str, tuple[str, float]] = {
    "proxy_min_rank_correlation_with_table": (">=", ENOUGH),
    "proxies_unlike_the_table": ("==", 0.0),
    "proxy_signs_against_accuracy": ("==", 0.0),
    "proxy_pick_relative_improvement": (">", 0.0),
}
SAME = ("proxy_min_rank_correlation_with_table", "proxies_unlike_the_table")
COLUMNS = {  # proxy -> column of the table
    "grad_norm": "c10_grad_norm", "snip": "c10_snip", "grasp": "c10_grasp", "synflow": "c10_synflow", "fisher": "c10_fisher",
    "jacob_cov": "c10_jacov", "epe_nas": "c10_epe_nas", "naswot": "c10_nwot", "plain": "c10_plain", "zen": "c10_zen",
    "l2_norm": "c10_l2_norm", "parameters": "params", "macs": "flops",
}  # fmt: skip
OTHERS = ("zico", "gradsign", "entropy")  # in no table: their sign is checked against accuracy, on FEW networks
ACCURACY, TESTED = "c10_val_acc_hp200", "c10_test_acc_hp200"
PICKED, PICKS = 100, 200
OPERATIONS = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")  # numbers of the second table
PAIRS = ("jacob_cov", "epe_nas", "naswot")  # compare the inputs of a batch
Row = Mapping[str, str]
Array = NDArray[np.float64]


def rows(name: str) -> list[Row]:
    """The rows of a table of architectures.

    Raises:
        DataError: the table is not there.
    """
    folder = os.environ.get("NETWRIGHT_DATA")
    path = Path(folder or ".") / "nas" / f"{name}.csv.gz"
    if not folder or not path.exists():
        raise DataError(f"The table {name}.csv.gz is not here. Set NETWRIGHT_DATA to the folder that holds nas/{name}.csv.gz.")
    with gzip.open(path, "rt") as file:
        return list(csv.DictReader(file))


def rank(a: list[float], b: list[float]) -> float:
    """Spearman's rank correlation; ties share their mean rank."""
    return float(spearmanr(a, b).statistic)


def tau(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b."""
    return float(kendalltau(a, b).statistic)


@dataclass(frozen=True)
class Agreement:
    """Rank correlations of a proxy's values under two seeds and of published ones.

    Attributes:
        table: with the published values, mean of both seeds.
        own: between the seeds.
        low, high: 90 % bootstrap interval, over networks, of table - own.
    """

    table: float
    own: float
    low: float
    high: float

    @property
    def noise(self) -> bool:
        """Whether the published values differ from ours no more than ours do from each other."""
        return self.high >= 0

    def __str__(self) -> str:
        return f"{self.table:.3f} (own {self.own:.3f}, difference {self.low:+.2f} to {self.high:+.2f})"


def agreement(first: list[float], second: list[float], published: list[float], rounds: int = 2000) -> Agreement:
    """How alike published values are to ours, beside how alike ours are to themselves; ties share their mean rank."""

    def differences(rows: NDArray[np.intp]) -> tuple[Array, Array]:
        a, b, c = (standard_ranks(np.array(v)[rows]) for v in (first, second, published))
        return ((a + b) * c).sum(1) / 2, (a * b).sum(1)

    rng, n = np.random.default_rng(0), len(first)
    table, own = differences(np.arange(n)[None])
    drawn_table, drawn_own = differences(rng.integers(n, size=(rounds, n)))
    low, high = np.quantile(drawn_table - drawn_own, [0.05, 0.95])
    return Agreement(float(table[0]), float(own[0]), float(low), float(high))


def standard_ranks(values: Array) -> Array:
    """Ranks along rows, of mean 0 and length 1 (0 where all are equal)."""
    ranks = rankdata(values, axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    return np.asarray(ranks / np.maximum(np.linalg.norm(ranks, axis=1, keepdims=True), 1e-12))


@dataclass
class Proxies:
    """The measurements; a cell is ten networks under one seed, with all proxies."""

    cells: Cells
    progress: Progress | None = None
    sample: int = SAMPLE

    @cached_property
    def table(self) -> list[Row]:
        return rows("nb201_zc_proxies")

    @cached_property
    def texts(self) -> dict[str, str]:
        """Number of an architecture -> its cell."""
        return {r["idx"]: r["arch"] for r in rows("nb201_main")}

    @cached_property
    def drawn(self) -> list[Row]:
        return random.Random(0).sample(self.table, self.sample)

    @cached_property
    def task(self) -> Task:
        return load_task(DATA, seed=0, progress=self.progress)

    def score(self, seed: int, block: list[Row], names: list[str]) -> Values:
        """Value and CPU milliseconds of every proxy on some networks."""
        space, train = NASBench201().space((3, 32, 32), 10), self.task.train
        augment = self.task.augmentation(("shift", "flip"))
        found: Values = {n: [] for n in names}
        took: Values = {n: [] for n in names}
        for row in block:
            generator = torch.Generator().manual_seed(1_000_003 * seed + int(row["idx"]))
            index = torch.randperm(len(train), generator=generator)[:BATCH]
            x, y = augment(train.tensor(index), generator), train.y[index]
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1_000_003 * seed + int(row["idx"]))
                network = space.fill(NASBench201.parse(self.texts[row["idx"]])).build()
            for name in names:
                size = BATCH if name in PAIRS else HALF
                start = time.process_time()
                found[name].append(CATALOGUE[name]()(network, (x[:size], y[:size]), generator=generator))
                took[name].append(round(1000 * (time.process_time() - start), 2))
        return {"values": found, "cpu_ms": took}

    def scored(self, seed: int, proxies: Sequence[str] = tuple(COLUMNS)) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """Proxy -> values of all drawn networks, and -> CPU milliseconds; under the first seed also those of `OTHERS`, of FEW."""
        values: dict[str, list[float]] = {}
        took: dict[str, list[float]] = {}
        for i in range(0, self.sample, BLOCK):
            block = self.drawn[i : i + BLOCK]
            names = [*proxies, *(OTHERS if seed == SEEDS[0] and i < FEW else ())]
            fields = {n: asdict(CATALOGUE[n]()) for n in names}
            key = {"networks": [r["idx"] for r in block], "seed": seed, "batch": [BATCH, HALF], "proxies": fields}
            cell = self.cells.get(f"nb201-proxies-{seed}-{i // BLOCK}", key, partial(self.score, seed, block, names))
            for into, name in ((values, "values"), (took, "cpu_ms")):
                for proxy, found in cell[name].items():
                    into.setdefault(proxy, []).extend(found)
        return values, took

    def second_table(self) -> dict[str, float]:
        """Proxy -> rank correlation between the authors' two tables, over the networks in both."""
        numbers = {text: idx for idx, text in self.texts.items()}
        by_number = {r["idx"]: r for r in self.table}
        pairs: list[tuple[Row, Row]] = []
        for row in rows("zc_nb201"):
            if row["task"] == "cifar10":
                o = [OPERATIONS[int(v)] for v in row["arch"].strip("()").split(",")]  # edges 01 02 03 12 13 23
                text = f"|{o[0]}~0|+|{o[1]}~0|{o[3]}~1|+|{o[2]}~0|{o[4]}~1|{o[5]}~2|"
                if (other := by_number.get(numbers[text])) is not None:
                    pairs.append((row, other))
        found = {}
        for proxy, column in COLUMNS.items():
            if (short := column.removeprefix("c10_")) in pairs[0][0]:
                found[proxy] = rank([float(a[short]) for a, _ in pairs], [float(b[column]) for _, b in pairs])
        return found

    def same(self) -> Iterator[Claim]:
        """Rank correlation with the table, beside the proxy's own from seed to seed and that of two published tables."""
        try:
            first, took = self.scored(SEEDS[0])
            published = {p: [float(r[c]) for r in self.drawn] for p, c in COLUMNS.items()}
            doubtful = [p for p in COLUMNS if rank(first[p], published[p]) < ENOUGH]
            second = self.scored(SEEDS[1], doubtful)[0] if doubtful else {}
        except DataError as error:
            for id in SAME:
                yield Claim(id, None, "", "measured", why=str(error))
            return
        theirs = self.second_table()
        firm = {p: rank(first[p], published[p]) for p in COLUMNS if p not in doubtful}
        seeds = {p: agreement(first[p], second[p], published[p]) for p in doubtful}
        shown = {p: f"{v:.3f}" for p, v in firm.items()} | {p: str(a) for p, a in seeds.items()}
        shown = {p: f"{s}, {median(took[p]):.0f} ms" for p, s in shown.items()}
        shown = {p: f"{s}, two published tables {theirs[p]:.3f}" if p in theirs else s for p, s in shown.items()}
        noisy = [p for p, a in seeds.items() if a.noise]
        judged = firm | {p: a.table for p, a in seeds.items() if not a.noise}
        worst = min(judged, key=judged.__getitem__)
        by_noise = ", ".join(noisy) or "none"
        unit = f"Spearman, least of {len(judged)} proxies; judged by their own noise: {by_noise}"
        yield Claim("proxy_min_rank_correlation_with_table", judged[worst], unit, "measured", self.sample,
                    reference={"name": f"NAS-Bench-Suite-Zero, {worst}", **shown})  # fmt: skip
        unlike = [p for p, a in seeds.items() if not a.noise]
        unit = f"proxies that rank as the table does neither with {ENOUGH} nor as well as their own second seed does"
        yield Claim("proxies_unlike_the_table", len(unlike), unit, "measured", self.sample,
                    reference={"name": "judged by their own noise", **{p: shown[p] for p in noisy}})  # fmt: skip

    def signs(self) -> Iterator[Claim]:
        """Whether what is said to be better goes with accuracy: over the table, or over the drawn networks."""
        try:
            values, took = self.scored(SEEDS[0])
        except DataError as error:
            yield Claim("proxy_signs_against_accuracy", None, "", "measured", why=str(error))
            return
        accuracy = [float(r[ACCURACY]) for r in self.drawn]
        found = {p: rank([float(r[c]) for r in self.table], [float(r[ACCURACY]) for r in self.table]) for p, c in COLUMNS.items()}
        found |= {p: rank(values[p], accuracy[: len(values[p])]) for p in OTHERS}
        wrong = [p for p, v in found.items() if (v > 0) != CATALOGUE[p].larger_is_better]
        values["random"] = random.Random(0).sample(range(self.sample), self.sample)
        shown = {p: f"tau {tau(v, accuracy[: len(v)]):.3f} on {len(v)}" for p, v in values.items()}
        shown = {p: f"{s}, {median(took[p]):.0f} ms, Spearman {found[p]:.3f}" if p in found else s for p, s in shown.items()}
        unit = "proxies whose declared sign is not that of their Spearman correlation with accuracy (table, or networks of ours)"
        yield Claim("proxy_signs_against_accuracy", len(wrong), unit, "measured", len(self.table),
                    reference={"name": "200-epoch validation accuracy, CIFAR-10; tau by our values", **shown})  # fmt: skip

    def picked(self) -> Iterator[Claim]:
        """What a proxy finds: the best by it of PICKED networks of the table, against the average network; ties at random."""
        id = "proxy_pick_relative_improvement"
        try:
            main = {r["idx"]: r for r in rows("nb201_main")}
            twins = {r["arch_idx"]: r["rep_arch_idx"] for r in rows("nb201_isomorph_rep")}
            rated = self.table
        except DataError as error:
            yield Claim(id, None, "", "measured", why=str(error))
            return
        tested = np.array([float(main[r["idx"]][TESTED]) for r in rated])
        rng = np.random.default_rng(0)
        draws = [rng.choice(len(rated), PICKED, replace=False) for _ in range(PICKS)]
        sign = {p: 1 if CATALOGUE[p].larger_is_better else -1 for p in COLUMNS}
        scores = {p: sign[p] * np.array([float(r[c]) for r in rated]) for p, c in COLUMNS.items()}
        scores["12 epochs"] = np.array([float(main[r["idx"]]["c10_val_acc_hp12"]) for r in rated])
        scores["random"] = rng.random(len(rated))
        best = {p: [int(d[np.lexsort((rng.random(PICKED), v[d]))[-1]]) for d in draws] for p, v in scores.items()}
        gains = {p: relative_improvement(tested[found].tolist(), tested.tolist()) for p, found in best.items()}
        top = relative_improvement([float(tested[d].max()) for d in draws], tested.tolist())
        again = seed_deviation(tested.tolist(), [twins[r["idx"]] for r in rated])
        reference = {
            "name": f"average of {len(rated)} networks, {tested.mean():.2f} %", **{p: str(g) for p, g in gains.items()},
            "best there is": str(top), "deviation of the same network trained again, points": round(again, 3),
        }  # fmt: skip
        unit = f"% over the average network's test accuracy (S093), best by synflow of {PICKED}, mean of {PICKS} draws"
        gain = gains["synflow"]
        spread = (round(gain.percent - 1.64 * gain.error, 3), round(gain.percent + 1.64 * gain.error, 3))
        yield Claim(id, gain.percent, unit, "measured", PICKS, spread, reference)

    def stages(self) -> dict[str, tuple[Callable[[], Iterator[Claim]], tuple[str, ...]]]:
        """Name -> the measurement and the claims it gives."""
        return {
            "the published proxies": (self.same, SAME),
            "which way they point": (self.signs, ("proxy_signs_against_accuracy",)),
            "what they find": (self.picked, ("proxy_pick_relative_improvement",)),
        }
