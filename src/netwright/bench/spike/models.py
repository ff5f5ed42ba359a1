"""Spiking architectures beside the plain networks of the same neurons: equal parameters, equal steps, equal search.

A contest has two sides. Each side's options (learning rate, and time constants where it has them) are tried with the same
number of trials, trained with seed 0, chosen by validation accuracy alone; then seeds 0, 1 and 2 are trained with the chosen
one and meet on the test split. Both sides get the same batches, augmentation, optimiser and number of steps, and their numbers of
parameters differ by at most 5 %. A cell is one training run, so that a stopped bench goes on.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from netwright.bench.cells import Cells, Values
from netwright.bench.claim import Claim
from netwright.bench.compress import paired
from netwright.bench.spike.networks import CIFAR
from netwright.core.errors import NetwrightError
from netwright.pipeline.fitting import Progress, TaskData
from netwright.spike.models import PHCSSM, VARIANTS, Family, LifCnn, LifRnn, LMUFormer, MetaSpikeFormer
from netwright.spike.models.family import LIVELY
from netwright.spike.models.lmuformer import LegendreMemory
from netwright.spike.models.meta_spikeformer import SpikeStage
from netwright.spike.models.phcssm import PHCSSMNet
from netwright.tasks import load_task
from netwright.train import Data, Tensors, fit
from netwright.train.evaluate import accuracy, share_correct
from netwright.train.recipe import Recipe

SEEDS = (0, 1, 2)
BOUNDS: dict[str, tuple[str, float]] = {
    "lmu_parallel_vs_recurrent_max_abs_diff": ("<=", 1e-4),
    "spiking_transformer_minus_lif_cnn_points": (">", 0.0),
    "spiking_transformer_minus_lif_cnn_cifar_points": (">", 0.0),
    "phcssm_minus_lif_rnn_rows_points": (">", 0.0),
    "phcssm_minus_lif_rnn_long_points": (">", 0.0),
}


@dataclass(frozen=True)
class Trial:
    """One way to train one network."""

    config: Family
    lr: float


@dataclass(frozen=True)
class Side:
    """A family and its trials; the first config's size is the side's."""

    name: str
    trials: tuple[Trial, ...]

    @cached_property
    def parameters(self) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in self.trials[0].config.build().parameters())


@dataclass(frozen=True)
class Contest:
    """Two sides, the data and the recipe that they share (its rate and seed are the trial's)."""

    name: str
    ours: Side
    theirs: Side
    data: Callable[[], tuple[Data, tuple[Tensor, Tensor]]]
    recipe: Recipe

    def __post_init__(self) -> None:
        a, b = self.ours.parameters, self.theirs.parameters
        if abs(a - b) > 0.05 * b or len(self.ours.trials) != len(self.theirs.trials):
            raise NetwrightError(f"{self.name} is no fair contest: {a} and {b} parameters, as many trials on either side?")


def digits() -> tuple[Data, tuple[Tensor, Tensor]]:
    """scikit-learn's digits, shifted by up to a pixel in training; images [N, 1, 8, 8], which sequence models read by rows."""
    task = load_task("digits", seed=0)
    return TaskData(task, task.augmentation(("shift",))), (task.test.x, task.test.y)


def photographs() -> tuple[Data, tuple[Tensor, Tensor]]:
    """CIFAR-10 at 16 x 16 pixels, shifted and flipped in training. Raises DataError where it is not at hand."""
    task = load_task(CIFAR, seed=0, size=16)
    return TaskData(task, task.augmentation(("shift", "flip"))), (task.test.x, task.test.y)


def recall(n: int, seed: int, steps: int = 128, symbols: int = 8, shown: int = 4, noise: float = 0.01) -> tuple[Tensor, Tensor]:
    """Copy one symbol over a delay: x [n, steps, symbols + 1] of 0 and 1, y [n].

    Channel y is on in the first `shown` steps, the last channel asks for the answer in the last `shown`; every symbol's channel
    also fires by chance, with probability `noise` a step, all the time.
    """
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(n, steps, symbols + 1, generator=generator) < noise).to(torch.float32)
    y = torch.randint(symbols, (n,), generator=generator)
    x[:, :, symbols] = 0
    x[:, -shown:, symbols] = 1
    x[torch.arange(n), :shown, y] = 1
    return x, y


def recalled() -> tuple[Data, tuple[Tensor, Tensor]]:
    return Tensors(*recall(2048, 1), *recall(512, 2)), recall(1024, 3)


SEQUENCE_RATES = (1e-2, 3e-2, 6e-2)
IMAGE_RATES = (4e-3, 8e-3)


def _trials(configs: Sequence[Family], rates: Sequence[float]) -> tuple[Trial, ...]:
    return tuple(Trial(config, lr) for config in configs for lr in rates)


def transformer() -> Contest:
    """A spiking transformer and a convolutional network of the same neurons on digits, T = 4."""
    ours = Side("meta-spikeformer", _trials([VARIANTS["digits_meta_spikeformer"]], IMAGE_RATES))
    theirs = Side("lif-cnn", _trials([LifCnn((22, 40, 58))], IMAGE_RATES))
    return Contest("digits", ours, theirs, digits, Recipe(steps=600, evaluations=1))


def transformer_on_photographs() -> Contest:
    """The same two families on CIFAR-10, T = 4, one epoch."""
    stages = [SpikeStage(kind, 1, width, stride, 3, 2, 8) for kind, width, stride in (
        ("conv", 16, 1), ("conv", 32, 2), ("transformer", 64, 2))]  # fmt: skip
    config = MetaSpikeFormer(tuple(stages), channels=3, classes=10, neuron=LIVELY)
    ours = Side("meta-spikeformer", _trials([config], IMAGE_RATES))
    theirs = Side("lif-cnn", _trials([LifCnn((42, 84, 126), channels=3)], IMAGE_RATES))
    return Contest("cifar", ours, theirs, photographs, Recipe(steps=800, evaluations=1))


def _recurrent(name: str, ours: PHCSSM, theirs: LifRnn, data: Callable[[], tuple[Data, tuple[Tensor, Tensor]]],
               steps: int) -> Contest:  # fmt: skip
    recipe = Recipe(steps=steps, weight_decay=0.0, label_smoothing=0.0, evaluations=1)
    left, right = (Side(config.name, _trials([config], SEQUENCE_RATES)) for config in (ours, theirs))
    return Contest(name, left, right, data, recipe)


def rows() -> Contest:
    """Digits row by row, 8 steps of 8 pixels; both sides' leaks start spread over 1.5 to 8 steps."""
    taus = (1.5, 8.0)
    return _recurrent("rows", PHCSSM(20, loops=5, dale=False, taus=taus), LifRnn(54, taus), digits, 2000)


def long() -> Contest:
    """`recall` over 128 steps; both sides' leaks start spread over 2 to 128 steps."""
    taus = (2.0, 128.0)
    ours = PHCSSM(loops=2, dale=False, taus=taus, channels=9, classes=8)
    return _recurrent("recall", ours, LifRnn(43, taus, channels=9, classes=8), recalled, 300)


@dataclass
class Models:
    """The measurements, each giving claims."""

    cells: Cells
    progress: Progress | None = None
    seeds: Sequence[int] = SEEDS

    contests: ClassVar[Mapping[str, Callable[[], Contest]]] = {
        "spiking_transformer_minus_lif_cnn_points": transformer,
        "spiking_transformer_minus_lif_cnn_cifar_points": transformer_on_photographs,
        "phcssm_minus_lif_rnn_rows_points": rows,
        "phcssm_minus_lif_rnn_long_points": long,
    }

    def trained(self, contest: Contest, side: Side, number: int, seed: int) -> Values:
        """Validation and test accuracy of one trial with one seed."""
        trial = side.trials[number]
        recipe = contest.recipe.with_(lr=trial.lr, seed=seed)

        def make() -> Values:
            data, test = contest.data()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                network = trial.config.build()
            start = time.process_time()
            fit(network, data, recipe, progress=self.progress)
            spent = time.process_time() - start
            found: Values = {"validation": accuracy(network, data.validation), "accuracy": accuracy(network, test),
                             "parameters": side.parameters, "cpu_seconds": round(spent, 1)}  # fmt: skip
            if isinstance(network, PHCSSMNet):  # the paper's deployment with one state a neuron
                with torch.no_grad():
                    found["settled_accuracy"] = share_correct(network.settled_logits, test)
                found["disagreement"] = network.disagreement(test[0])
            return found

        key = {"contest": contest.name, "family": side.name, "config": asdict(trial.config), "recipe": recipe.to_json()}  # type: ignore[call-overload]
        return self.cells.get(f"models-{contest.name}-{side.name}-{number}-{seed}", key, make)

    def chosen(self, contest: Contest, side: Side) -> int:
        """Number of the trial with the best validation accuracy; equal ones are drawn from."""
        found = [self.trained(contest, side, i, self.seeds[0])["validation"] for i in range(len(side.trials))]
        best = [i for i, value in enumerate(found) if value == max(found)]
        return random.Random(0).choice(best)

    def contested(self, id: str) -> Claim:
        """One contest as a claim."""
        contest = self.contests[id]()
        sides = (contest.ours, contest.theirs)
        picks = [self.chosen(contest, side) for side in sides]
        runs = [[self.trained(contest, s, pick, seed) for seed in self.seeds] for s, pick in zip(sides, picks, strict=True)]
        ours, theirs = ([v["accuracy"] for v in values] for values in runs)
        claim = paired(id, ours, theirs, contest.theirs.name)
        sizes = " and ".join(str(s.parameters) for s in sides)
        rates = " and ".join(f"{s.trials[pick].lr:g}" for s, pick in zip(sides, picks, strict=True))
        seconds = max(v["cpu_seconds"] for values in runs for v in values)
        return replace(claim, reference={**claim.reference, "parameters": sizes, "lr": rates, "cpu_seconds": seconds})

    def memory(self) -> Iterator[Claim]:
        """An LMUFormer's memory and logits, at once and as a stream, in float32."""
        worst, logits = 0.0, 0.0
        for seed in self.seeds:
            generator = torch.Generator().manual_seed(seed)
            for length in (128, 512):
                memory, u, m = LegendreMemory(64, 128.0), torch.randn(length, 8, 1, generator=generator), None
                for t, at_once in enumerate(memory(u)):
                    y, m = memory.step(u[t], m)
                    worst = max(worst, float((y - at_once).abs().max()))
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(seed)
                network = LMUFormer(32, 2, 32, 128.0, 2, 4, channels=16, classes=10).build()
                x, state = torch.randn(8, 256, 16), None
                network.train()(x)
                network.eval()
                for t in range(256):
                    y, state = network.step(x[:, t], state)
                logits = max(logits, float((y - network(x)).abs().max()))
        yield Claim("lmu_parallel_vs_recurrent_max_abs_diff", max(worst, logits),
                    "largest absolute difference, memory over 128 and 512 steps and logits over 256, float32",
                    "measured", len(self.seeds) * 3, reference={"memory": worst, "logits": logits})  # fmt: skip

    def claims(self) -> Iterator[Claim]:
        yield from self.memory()
        for id in self.contests:
            yield self.contested(id)
