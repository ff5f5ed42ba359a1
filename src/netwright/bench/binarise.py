"""`netwright bench binarise`: BiBench's protocol, methods x networks x tasks under one budget, with latency and size measured.

Every network is trained in float, then binarised by every method from there in the same number of steps, taught by the float
network. A row has the mean accuracy over three seeds with its standard deviation, relative to the float network's; the time of
the compiled C program beside the float one's, and the bytes. The paper's overall score of a track is the root of the mean square
of the relative scores.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import mean, stdev
from typing import ClassVar

import torch
from torch import Tensor, nn

from netwright.bench.cells import Cells, Values
from netwright.bench.claim import Bench, Claim
from netwright.bench.networks import small_resnet, vgg, vit
from netwright.compress import CATALOGUE
from netwright.core.paper import Paper
from netwright.deploy.c99 import build
from netwright.design import trace
from netwright.measure.latency import time_side_by_side
from netwright.measure.machine import machine
from netwright.pipeline.fitting import Fitting, Progress, TaskData
from netwright.tasks import Task, load_task
from netwright.train import fit
from netwright.train.evaluate import accuracy
from netwright.train.recipe import Recipe

paper = Paper(
    "qin2023bibench", "BiBench: Benchmarking and Analyzing Network Binarization",
    "Qin, Haotong and Zhang, Mingyuan and Ding, Yifu and Li, Aoyu and Cai, Zhongang and Liu, Ziwei and Yu, Fisher and "
    "Liu, Xianglong",
    "ICML", 2023, "https://arxiv.org/abs/2301.11233", "S129",
)  # fmt: skip
SEEDS = (0, 1, 2)
METHODS = ("ste", "bireal", "irnet", "recu", "reste", "biper", "react")
TRANSFORMERS = ("bivit", "bipft")  # on the ViT alone
NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "resnet": lambda seed: small_resnet(16, seed=seed, channels=1, stem=1),
    "vgg": lambda seed: vgg(24, seed=seed),
    "vit": lambda seed: vit(8, seed=seed),
}
START = Recipe(steps=500, lr=4e-3, weight_decay=0.02, evaluations=1)
TAUGHT = START.with_(steps=300, label_smoothing=0.0, distil_weight=0.7, distil_temperature=2.0)


def methods(network: str) -> tuple[str, ...]:
    """What is tried on a network."""
    return METHODS + (TRANSFORMERS if network == "vit" else ())


@dataclass
class Binarise:
    """The table, one cell a (network, method, seed)."""

    cells: Cells
    rounds: int = 9
    progress: Progress | None = None

    name: ClassVar[str] = "binarise"

    @cached_property
    def task(self) -> Task:
        return load_task("digits", seed=0)

    @cached_property
    def data(self) -> TaskData:
        return TaskData(self.task, self.task.augmentation(("shift",)))

    @cached_property
    def calibration(self) -> Tensor:
        return self.task.train.tensor(slice(0, 256))

    def test(self) -> tuple[Tensor, Tensor]:
        return self.task.test.x, self.task.test.y

    def floats(self, network: str, seed: int) -> tuple[nn.Module, float]:
        """The float network and its accuracy."""
        module = fit(NETWORKS[network](seed), self.data, START.with_(seed=seed), progress=self.progress).module
        return module, accuracy(module, self.test())

    def row(self, network: str, seed: int) -> dict[str, Values]:
        """All methods on one network and seed; the float network is trained once, when the first cell is missing."""
        made: list[tuple[nn.Module, float]] = []

        def start() -> tuple[nn.Module, float]:
            if not made:
                made.append(self.floats(network, seed))
            return made[0]

        def make(name: str) -> Values:
            module, best = start()
            method = CATALOGUE[name]()
            fitting = Fitting(self.data, TAUGHT.with_(seed=seed), module, progress=self.progress, name=f"binarise {network}")
            binary = method.compress(module, self.calibration[:1], self.calibration, fitting)
            return {"float": best, "accuracy": accuracy(binary, self.test())}

        found = {}
        for name in methods(network):
            key = {"network": network, "seed": seed, "start": START.to_json(), "taught": TAUGHT.to_json(),
                   "fields": asdict(CATALOGUE[name]()), "stages": [asdict(s) for s in CATALOGUE[name].stages]}  # fmt: skip
            found[name] = self.cells.get(f"digits-{network}-{name}-{seed}", key, partial(make, name))
        return found

    def price(self, network: str, name: str) -> tuple[float, float]:
        """How many times faster the C program is and how many times smaller the weights; training does not change either."""
        module, example = NETWORKS[network](0), self.calibration[:1]
        binary = CATALOGUE[name]().compress(module, example, self.calibration, lambda trainee, **_: trainee.eval())
        graphs = {"float": trace(module, example), "binary": trace(binary, example)}
        with tempfile.TemporaryDirectory() as folder:
            runs = {k: partial(build(g, Path(folder) / k).run_one, example.numpy()) for k, g in graphs.items()}
            timed = time_side_by_side(runs, rounds=self.rounds, seed=0)
        return timed["float"].value / timed["binary"].value, graphs["float"].weight_bytes / graphs["binary"].weight_bytes

    def claims(self) -> Iterator[Claim]:
        """Relative accuracy of each (network, method), then each method's overall score."""
        scores: dict[str, list[float]] = {}
        for network in NETWORKS:
            rows = [self.row(network, seed) for seed in SEEDS]
            for name in methods(network):
                cells = [r[name] for r in rows]
                relative = [100 * c["accuracy"] / c["float"] for c in cells]
                scores.setdefault(name, []).append(mean(relative))
                faster, smaller = self.price(network, name)
                facts = {"name": "float", "accuracy": round(100 * mean(c["float"] for c in cells), 2),
                         "ours": round(100 * mean(c["accuracy"] for c in cells), 2), "stdev": round(stdev(relative), 2),
                         "times_faster": round(faster, 2), "times_smaller": round(smaller, 2)}  # fmt: skip
                unit = "per cent of the float network's test accuracy, mean of 3 seeds"
                yield Claim(
                    f"{network}_{name}", mean(relative), unit, "measured", len(SEEDS), (min(relative), max(relative)), facts
                )
        for name in METHODS:
            values = scores[name]
            overall = math.sqrt(mean(v * v for v in values))
            yield Claim(f"overall_{name}", overall, "root of the mean square over the networks", "measured", len(values))


def run(
    *,
    rounds: int = 9,
    seed: int = 0,
    progress: Progress | None = None,
    cells: Path = Path("benchmarks/cells"),
    again: bool = False,
) -> Bench:
    """The table as claims; the bound of each is chance, 10 % of the accuracy."""
    torch.set_num_threads(1)
    claims = list(Binarise(Cells(cells / "binarise", again), rounds, progress).claims())
    return Bench("binarise", machine(), {c.id: (">", 20.0) for c in claims}, claims)
