"""Are our proxies the published ones? Their values on networks of NAS-Bench-201 beside those of NAS-Bench-Suite-Zero.

A hundred networks are drawn from those of the table, built anew by our own space, and scored on CIFAR-10 training images with
shifts and flips, each network on a batch of its own, as the authors did; all of it twice, with two seeds. A proxy is the same
one if its values rank the networks as the table does, or, where they repeat themselves under another seed with less than 0.85, as
well as they do that. The table has batches of 64, as ours have where inputs are compared with each other; other proxies get 32,
as in the authors' second table, whose agreement with the first is shown too.

Krishnakumar et al., NAS-Bench-Suite-Zero, NeurIPS 2022.
"""

from __future__ import annotations

import csv
import gzip
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import median

import torch
from scipy.stats import spearmanr

from netwright.bench.cells import Cells, Values
from netwright.bench.cifar import DATA
from netwright.bench.claim import Claim
from netwright.core.errors import DataError
from netwright.design.spaces import NASBench201
from netwright.estimate.proxies import CATALOGUE
from netwright.pipeline.fitting import Progress
from netwright.tasks import Task, load_task

SAMPLE, FEW, BLOCK, SEEDS = 100, 30, 10, (0, 1)
BATCH, HALF = 64, 32  # those that compare inputs with each other take the whole batch, the others half of it, for time
ENOUGH = 0.85
BOUNDS: dict[str, tuple[str, float]] = {
    "proxy_min_rank_correlation_with_table": (">=", ENOUGH),
    "proxy_noisy_rank_correlation_minus_own": (">=", -0.2),
    "proxy_signs_against_accuracy": ("==", 0.0),
}
COLUMNS = {  # proxy -> column of the table
    "grad_norm": "c10_grad_norm", "snip": "c10_snip", "grasp": "c10_grasp", "synflow": "c10_synflow", "fisher": "c10_fisher",
    "jacob_cov": "c10_jacov", "epe_nas": "c10_epe_nas", "naswot": "c10_nwot", "plain": "c10_plain", "zen": "c10_zen",
    "l2_norm": "c10_l2_norm", "parameters": "params", "macs": "flops",
}  # fmt: skip
OTHERS = ("zico", "gradsign", "entropy")  # in no table: their sign is checked against accuracy, on FEW networks
ACCURACY = "c10_val_acc_hp200"
OPERATIONS = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")  # numbers of the second table
PAIRS = ("jacob_cov", "epe_nas", "naswot")  # compare the inputs of a batch
Row = Mapping[str, str]


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

    def scored(self, seed: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """Proxy -> values of all drawn networks, and -> CPU milliseconds."""
        values: dict[str, list[float]] = {}
        took: dict[str, list[float]] = {}
        for i in range(0, self.sample, BLOCK):
            block = self.drawn[i : i + BLOCK]
            names = [*COLUMNS, *(OTHERS if seed == SEEDS[0] and i < FEW else ())]
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
        """Rank correlation with the table, beside the proxy's own from seed to seed."""
        try:
            (first, took), (second, _) = (self.scored(s) for s in SEEDS)
        except DataError as error:
            for id in list(BOUNDS)[:2]:
                yield Claim(id, None, "", "measured", why=str(error))
            return
        published = {p: [float(r[c]) for r in self.drawn] for p, c in COLUMNS.items()}
        ours = {p: rank(first[p], published[p]) for p in COLUMNS}
        own = {p: rank(first[p], second[p]) for p in COLUMNS}
        theirs = self.second_table()
        shown = {p: f"{ours[p]:.3f} (own {own[p]:.3f}, {median(took[p]):.0f} ms" for p in COLUMNS}
        shown = {p: f"{s}, two published tables {theirs[p]:.3f})" if p in theirs else f"{s})" for p, s in shown.items()}
        firm = [p for p in COLUMNS if own[p] >= ENOUGH]
        worst = min(firm, key=ours.__getitem__)
        unit = f"Spearman, the least of {len(firm)} proxies that repeat themselves from seed to seed with {ENOUGH} or more"
        yield Claim("proxy_min_rank_correlation_with_table", ours[worst], unit, "measured", self.sample,
                    reference={"name": f"NAS-Bench-Suite-Zero, {worst}", **shown})  # fmt: skip
        noisy = {p: ours[p] - own[p] for p in COLUMNS if p not in firm}
        worst = min(noisy, key=noisy.__getitem__, default="")
        unit = "Spearman with the table less that from seed to seed, the least of the proxies of which the latter is below 0.85"
        yield Claim("proxy_noisy_rank_correlation_minus_own", noisy.get(worst, 0.0), unit, "measured", self.sample,
                    reference={"name": f"own seed-to-seed correlation, {worst}", **{p: shown[p] for p in noisy}})  # fmt: skip

    def signs(self) -> Iterator[Claim]:
        """Whether what is said to be better goes with accuracy: over the table, or over FEW networks of ours."""
        try:
            values, took = self.scored(SEEDS[0])
        except DataError as error:
            yield Claim("proxy_signs_against_accuracy", None, "", "measured", why=str(error))
            return
        accuracy = [float(r[ACCURACY]) for r in self.table]
        found = {p: rank([float(r[c]) for r in self.table], accuracy) for p, c in COLUMNS.items()}
        few = [float(r[ACCURACY]) for r in self.drawn[:FEW]]
        found |= {p: rank(values[p], few) for p in OTHERS}
        wrong = [p for p, v in found.items() if (v > 0) != CATALOGUE[p].larger_is_better]
        shown = {p: f"{v:.3f} ({median(took[p]):.0f} ms)" for p, v in found.items()}
        unit = "proxies whose declared sign is not that of their rank correlation with accuracy"
        yield Claim("proxy_signs_against_accuracy", len(wrong), unit, "measured", len(self.table),
                    reference={"name": "200-epoch validation accuracy, CIFAR-10", **shown})  # fmt: skip

    def stages(self) -> dict[str, tuple[Callable[[], Iterator[Claim]], tuple[str, ...]]]:
        """Name -> the measurement and the claims it gives."""
        return {
            "the published proxies": (self.same, tuple(list(BOUNDS)[:2])),
            "which way they point": (self.signs, ("proxy_signs_against_accuracy",)),
        }
