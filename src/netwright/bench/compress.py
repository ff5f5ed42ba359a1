"""`netwright bench compress`: every method beside its baselines, on one network and one budget.

What trains for minutes is kept in cells (`benchmarks/cells/compress`), one file a method and seed, and read from there where the
recipe is the same; `--again` trains anew. Without the CIFAR-10 archive or the text, and without cells, a claim stands open.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.bench.cells import Cells, Values
from netwright.bench.cifar import STEPS, TAUGHT, Cifar, method
from netwright.bench.claim import Bench, Claim, collect
from netwright.bench.gradients import largest_gradient_error
from netwright.bench.language import Language
from netwright.bench.networks import small_resnet
from netwright.compress import CATALOGUE, NUPES, OTO, BitNet, BiViT, Int8, Lottery, RandomTicket, Uniform
from netwright.compress.stitch import Stitchable
from netwright.deploy.c99 import build
from netwright.design import trace
from netwright.measure.latency import time_side_by_side
from netwright.pipeline.fitting import Fitting, Progress
from netwright.train import fit
from netwright.train.evaluate import accuracy

SEEDS = (0, 1, 2)
FEW, ONE = SEEDS[:2], SEEDS[:1]  # where the bound is far from the spread of the seeds
BOUNDS: dict[str, tuple[str, float]] = {
    "one_bit_best_gap_points": ("<=", 8.0),
    "biper_minus_ste_points": (">", 0.0),
    "reste_minus_ste_points": (">", 0.0),
    "react_minus_ste_points": (">", 0.0),
    "ternary_median_gap_points": ("<=", 2.0),
    "int8_ptq_gap_points": ("<=", 0.3),
    "nupes4_minus_uniform4_points": (">=", 0.0),
    "binary_lm_vs_bigram_loss": ("<", 0.0),
    "ternary_lm_vs_bigram_loss": ("<", 0.0),
    "oto_macs_removed": (">=", 0.5),
    "oto_loss_points": ("<=", 1.5),
    "oto_compiled_speedup": (">=", 1.7),
    "lottery_minus_random_points": (">", 0.0),
    "stitch_points_between_anchors": (">=", 10.0),
    "stitch_worst_below_line_points": ("<=", 2.0),
    "estimator_gradient_max_error": ("<=", 1e-6),
    "compiled_mismatches": ("==", 0.0),
}
TICKET = 400  # steps that a ticket is trained for, of either kind


def paired(id: str, better: Sequence[float], than: Sequence[float], name: str) -> Claim:
    """Mean over seeds of the differences in points; the spread is the least and the largest of them."""
    points = [100 * (a - b) for a, b in zip(better, than, strict=True)]
    reference = {"name": name, "mean": round(100 * mean(than), 2), "ours": round(100 * mean(better), 2)}
    unit = "points of test accuracy, mean of paired differences"
    return Claim(
        id, round(mean(points), 6), unit, "measured", len(points), (round(min(points), 3), round(max(points), 3)), reference
    )


class ExampleCNN(nn.Module):
    """What integer networks are made of: residual sum, depthwise, gate, pooling, concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.a = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8))
        self.gate = nn.Conv2d(8, 8, 1)
        self.mix = nn.Sequential(nn.Conv2d(16, 33, 3, padding=1), nn.BatchNorm2d(33), nn.PReLU(33))
        self.last = nn.Sequential(nn.Conv2d(33, 12, 3, padding=1), nn.BatchNorm2d(12))
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.depthwise(self.a(x)))
        x = F.max_pool2d(torch.cat([x, x * torch.sigmoid(self.gate(x))], 1), 2)
        return self.head(F.relu(self.last(self.mix(x))).mean((2, 3)))


@dataclass
class Compress:
    """The measurements, each giving claims."""

    cells: Cells
    runs: Path
    rounds: int
    seed: int
    progress: Progress | None = None

    def __post_init__(self) -> None:
        self.cifar = Cifar(self.cells, self.runs, progress=self.progress)
        self.language = Language(self.cells, self.runs, progress=self.progress)

    def accuracies(self, name: str, seeds: Sequence[int] = SEEDS) -> list[float]:
        values = [self.cifar.float_twin(s) if name == "float" else self.cifar.trained(method(name), s) for s in seeds]
        return [v["accuracy"] for v in values]

    def binary(self) -> Iterator[Claim]:
        floats, ste = self.accuracies("float"), self.accuracies("ste")
        found = {name: self.accuracies(name) for name in ("biper", "reste", "react")}
        best = max({"ste": ste, **found}.items(), key=lambda item: mean(item[1]))
        gap = paired("one_bit_best_gap_points", floats, best[1], best[0])
        yield gap
        for name, values in found.items():
            yield paired(f"{name}_minus_ste_points", values, ste, "ste")

    def ternary(self) -> Iterator[Claim]:
        yield paired("ternary_median_gap_points", self.accuracies("float"), self.accuracies("bitnet"), "bitnet, median")

    def posttraining(self) -> Iterator[Claim]:
        def of(compressor: Any, label: str) -> list[float]:
            return [self.cifar.posttraining(compressor, s, label)["accuracy"] for s in SEEDS]

        yield paired("int8_ptq_gap_points", self.accuracies("float"), of(Int8(), "int8"), "int8")
        four = of(NUPES(bits=4), "nupes4"), of(Uniform(bits=4), "uniform4")
        yield paired("nupes4_minus_uniform4_points", *four, "uniform, 4 bits")

    def languages(self) -> Iterator[Claim]:
        for id, compressor in (("binary_lm_vs_bigram_loss", BiViT()), ("ternary_lm_vs_bigram_loss", BitNet())):
            found = [self.language.trained(compressor, s) for s in ONE]
            floats = [self.language.floats(s) for s in ONE]
            above = [v["loss"] - v["bigram"] for v in found]
            means = {"float": round(mean(v["loss"] for v in floats), 4), "ours": round(mean(v["loss"] for v in found), 4)}
            reference = {"name": "counted bigrams", "nats": round(found[0]["bigram"], 4), **means}
            yield Claim(id, max(above), "nats a character above the bigram model, the worst seed", "measured", len(found),
                        (round(min(above), 4), round(max(above), 4)), reference)  # fmt: skip

    def oto(self) -> Iterator[Claim]:
        """Half of the trained float network's MACs erased in one run of `STEPS` steps; its C program beside the dense one's."""
        compressor = OTO(target=0.5, multiple=16)

        def make(seed: int) -> Values:
            c = self.cifar
            network = compressor.compress(c.twin(seed), c.calibration[:1], c.calibration, c.fitting(seed))
            dense, x = trace(c.twin(seed), c.calibration[:1]), c.calibration[:1].numpy()
            with tempfile.TemporaryDirectory() as folder:
                graphs = {"dense": dense, "erased": trace(network, c.calibration[:1])}
                runs = {k: partial(build(g, Path(folder) / k).run_one, x) for k, g in graphs.items()}
                timed = time_side_by_side(runs, rounds=self.rounds, seed=self.seed)
            return {"accuracy": accuracy(network, c.test), "removed": 1 - graphs["erased"].macs / dense.macs,
                    "us": {k: q.value for k, q in timed.items()}}  # fmt: skip

        key = {"method": "oto", "from": "twin", "fields": asdict(compressor)}
        found = [self.cells.get(f"cifar-oto-{s}", self.cifar.key(s, **key), partial(make, s)) for s in FEW]
        least = min(v["removed"] for v in found)
        yield Claim("oto_macs_removed", least, "share of the MACs, the least of the seeds", "counted", len(FEW))
        yield paired("oto_loss_points", self.accuracies("float", FEW), [v["accuracy"] for v in found], "oto")
        ratios = [v["us"]["dense"] / v["us"]["erased"] for v in found]
        reference = {"name": "dense float C program", "us": round(found[0]["us"]["dense"], 1)}
        yield Claim("oto_compiled_speedup", min(ratios), "times faster, medians, 1 thread, batch 1, the worst seed", "measured",
                    self.rounds, (round(min(ratios), 3), round(max(ratios), 3)), reference)  # fmt: skip

    def tickets(self) -> Iterator[Claim]:
        """Found and drawn tickets at 80 % zeros, each trained for the same number of steps at the end."""
        winning, drawn = Lottery(sparsity=0.8, rounds=2), RandomTicket(sparsity=0.8)
        steps = {"lottery": math.ceil(TICKET / winning.stages[-1].share), "random": TICKET}

        def make(compressor: Any, seed: int, label: str) -> Values:
            c = self.cifar
            recipe = c.recipe(TAUGHT, seed).with_(steps=steps[label], lr=4e-3, weight_decay=0.02)
            fitting = Fitting(c.data, recipe, None, progress=self.progress, name=label)
            network = compressor.compress(small_resnet(c.width, seed=seed), c.calibration[:1], c.calibration, fitting)
            return {"accuracy": accuracy(network, c.test)}

        found = {}
        for label, compressor in (("lottery", winning), ("random", drawn)):
            key = {"ticket": label, "sparsity": 0.8, "steps": steps[label]}
            found[label] = [
                self.cells.get(f"cifar-{label}-{s}", self.cifar.key(s, **key), partial(make, compressor, s, label))["accuracy"]
                for s in SEEDS
            ]
        yield paired("lottery_minus_random_points", found["lottery"], found["random"], "random tickets, same last training")

    def stitches(self) -> Iterator[Claim]:
        """The float start of two widths as anchors, stitched and trained together."""

        def make(seed: int) -> Values:
            c = self.cifar
            small = Cifar(self.cells, self.runs, width=c.width // 2, progress=self.progress)
            small.__dict__["task"] = c.task
            large = c.start(seed)
            family = Stitchable().build([small.start(seed), large], c.calibration[:256])
            recipe = c.recipe(TAUGHT, seed).with_(steps=STEPS, lr=2e-3, weight_decay=0.02)
            fit(family, c.data, recipe, teacher=large, progress=self.progress)
            points = [(family.macs(s), accuracy(family.network(s), c.test)) for s in family.stitches()]
            return {"points": points}

        seed = SEEDS[0]
        key = self.cifar.key(seed, half=self.cifar.width // 2, joint=STEPS, lr=2e-3)
        points = self.cells.get(f"cifar-stitch-{seed}", key, partial(make, seed))["points"]
        (m0, a0), (m1, a1) = points[0], points[-1]
        between = [(m, a) for m, a in points[1:-1] if m0 < m < m1]
        below = [100 * (a0 + (a1 - a0) * (m - m0) / (m1 - m0) - a) for m, a in between]
        anchors = {"name": "anchors", "small": round(100 * a0, 2), "large": round(100 * a1, 2)}
        count, spread = len({m for m, _ in between}), (round(min(below), 3), round(max(below), 3))
        yield Claim("stitch_points_between_anchors", float(count), "networks of different MACs", "counted", 1, None, anchors)
        unit = "points of accuracy below the line between the anchors"
        yield Claim("stitch_worst_below_line_points", max(below), unit, "measured", len(between), spread, anchors)

    def gradients(self) -> Iterator[Claim]:
        worst, name, count = largest_gradient_error()
        unit = "largest difference from the stated derivative, float64"
        yield Claim("estimator_gradient_max_error", worst, unit, "measured", count, None, {"name": name})

    def exactness(self) -> Iterator[Claim]:
        """Every integer method on a network of awkward widths: the C program against the integer graph in PyTorch."""
        generator = torch.Generator().manual_seed(self.seed)
        x = torch.rand(64, 1, 8, 8, generator=generator)
        y = torch.randint(0, 10, (64,), generator=generator)

        def steps(trainee: nn.Module, **_: Any) -> nn.Module:
            trainee.train()
            optimiser = torch.optim.Adam([p for p in trainee.parameters() if p.requires_grad], 3e-3)
            for _step in range(5):
                optimiser.zero_grad()
                F.cross_entropy(trainee(x), y).backward()
                optimiser.step()
            return trainee.eval()

        wrong = compared = 0
        for name in CATALOGUE:
            compressor = CATALOGUE[name]()
            if compressor.form == "float":
                continue
            with torch.random.fork_rng():
                torch.manual_seed(self.seed)
                network = compressor.compress(ExampleCNN().eval(), x[:1], x, steps)
            with tempfile.TemporaryDirectory() as folder, torch.no_grad():
                compiled = build(trace(network, x[:1]), folder)
                got = np.concatenate([np.array(compiled.run_one(one[None].numpy())).reshape(1, -1) for one in x])
                expected = network(x).numpy()
            wrong += int((got != expected).sum())
            compared += expected.size
        text = sum(self.language.trained(m, s)["different_characters"] for m in (BiViT(), BitNet()) for s in ONE)
        unit = "logits of all methods, and greedy characters of the language models, that differ from PyTorch's"
        yield Claim("compiled_mismatches", float(wrong + text), unit, "measured", compared + 200 * 2 * len(ONE))

    def stages(self) -> dict[str, tuple[Callable[[], Iterator[Claim]], tuple[str, ...]]]:
        """Name -> the measurement and the claims it gives."""
        return {
            "estimators": (self.gradients, ("estimator_gradient_max_error",)),
            "binary networks": (self.binary, tuple(list(BOUNDS)[:4])),
            "ternary networks": (self.ternary, ("ternary_median_gap_points",)),
            "post-training": (self.posttraining, ("int8_ptq_gap_points", "nupes4_minus_uniform4_points")),
            "language models": (self.languages, ("binary_lm_vs_bigram_loss", "ternary_lm_vs_bigram_loss")),
            "erased channels": (self.oto, ("oto_macs_removed", "oto_loss_points", "oto_compiled_speedup")),
            "tickets": (self.tickets, ("lottery_minus_random_points",)),
            "stitches": (self.stitches, ("stitch_points_between_anchors", "stitch_worst_below_line_points")),
            "exactness": (self.exactness, ("compiled_mismatches",)),
        }


def run(
    *,
    rounds: int = 15,
    seed: int = 0,
    progress: Progress | None = None,
    cells: Path = Path("benchmarks/cells"),
    again: bool = False,
) -> Bench:
    """All claims of `BOUNDS`; one that cannot be measured here has no value and says why."""
    bench = Compress(Cells(cells / "compress", again), Path("runs/bench-compress"), rounds, seed, progress)
    return collect("compress", BOUNDS, bench.stages(), progress)
