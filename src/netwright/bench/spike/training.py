"""Training spiking networks: what S234, S240, S242 and S247 promise, each measured on a small task against the plain way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from statistics import mean

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.bench.cells import Cells, Values
from netwright.bench.claim import Claim
from netwright.bench.compress import paired
from netwright.pipeline.fitting import Fitting, Progress, TaskData
from netwright.spike.encode import Rate
from netwright.spike.filtering import Bessel, r2
from netwright.spike.layers import OverTime, Spiking
from netwright.spike.liquid import Liquid
from netwright.spike.neurons import LIF
from netwright.spike.norms import CaReBN, ThresholdBN
from netwright.spike.norms.norm import Norm
from netwright.spike.reduction import IterativeReduction, SpikingTwin
from netwright.tasks import Task, load_task
from netwright.train import fit
from netwright.train.evaluate import accuracy
from netwright.train.recipe import Recipe

SEEDS = (0, 1, 2)
BOUNDS: dict[str, tuple[str, float]] = {
    "iir_one_step_minus_one_stage_points": (">", 0.0),
    "iir_one_step_minus_scratch_points": (">", 0.0),
    "care_bn_error_over_best_momentum": ("<=", 1.0),
    "bessel_r2_gain": (">=", 0.05),
    "liquid_minus_raw_counts_points": (">", 0.0),
}
CUTOFFS = (0.01, 0.02, 0.03, 0.05, 0.1)
MOMENTA = (0.1, 0.2, 0.5, 0.9)


def deep_cnn(seed: int) -> nn.Module:
    """Nine 3x3 convolutions of 12 channels with batch norm and relu for 8x8 images, average pooling after 3 and 6, linear 10."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i in range(9):
        layers += [nn.Conv2d(12 if i else 1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU()]
        layers += [nn.AvgPool2d(2)] if i in (2, 5) else []
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(48, 10)).eval()


def moving_error(norm: Norm, means: Tensor, images: int, generator: torch.Generator) -> float:
    """Root mean square distance of the moving means from the true ones [steps, C], after each batch, noise of deviation 1."""
    norm.train()
    errors = []
    for truth in means:
        norm(truth + torch.randn(4, images, len(truth), generator=generator))
        errors.append((norm.mean - truth).square().mean())
    return float(torch.stack(errors[len(errors) // 6 :]).mean().sqrt())


def movement(steps: int, batch: int, generator: torch.Generator) -> Tensor:
    """Slow signals [steps, batch, 2] of unit deviation: white noise behind a Gaussian window of deviation 40 steps."""
    window = torch.exp(-(((torch.arange(241) - 120) / 40) ** 2) / 2)
    noise = torch.randn(2 * batch, 1, steps + 240, generator=generator)
    found = F.conv1d(noise, window[None, None]).reshape(batch, 2, steps).permute(2, 0, 1)
    return found / found.std()


def recording(movement: Tensor, directions: Tensor, generator: torch.Generator) -> Tensor:
    """Spikes [steps, batch, neurons] of neurons that prefer `directions` [neurons], at 6 % on average for a movement of 0."""
    tuning = torch.stack([directions.cos(), directions.sin()])
    return Rate().encode((0.06 * torch.exp(movement @ tuning)).clamp(max=1), 1, generator)[0]


def ridge(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], strength: float = 10.0) -> float:
    """Accuracy of a linear read-out of standardised features [N, D], by least squares on the labels' indicators."""
    x, y = train[0].double(), F.one_hot(train[1]).double()
    centre, scale = x.mean(0), x.std(0).clamp(min=1e-6)

    def features(v: Tensor) -> Tensor:
        return torch.cat([(v.double() - centre) / scale, torch.ones(len(v), 1, dtype=torch.float64)], 1)

    a = features(x)
    w = torch.linalg.solve(a.T @ a + strength * torch.eye(a.shape[1], dtype=a.dtype), a.T @ y)
    return float(((features(test[0]) @ w).argmax(1) == test[1]).double().mean())


@dataclass
class Training:
    """The measurements, each giving claims; what trains goes through cells, one a seed."""

    cells: Cells
    progress: Progress | None = None

    @cached_property
    def task(self) -> Task:
        return load_task("digits", seed=0, progress=self.progress)

    @cached_property
    def test(self) -> tuple[Tensor, Tensor]:
        return self.task.test.x, self.task.test.y

    def reduction(self) -> Iterator[Claim]:
        """IIR-SNN from T = 5 to 1; T = 1 trained directly with as many steps, from the same float weights and from none."""
        method = IterativeReduction(lr=4e-3)
        start = Recipe(steps=300, lr=4e-3, evaluations=1, label_smoothing=0.0)
        budget = Recipe(steps=1000, evaluations=1, label_smoothing=0.0)

        def make(seed: int) -> Values:
            data = TaskData(self.task, self.task.augmentation(("shift",)))
            x = self.task.train.x[:512]
            ann = fit(deep_cnn(seed), data, start.with_(seed=seed), progress=self.progress).module.eval()

            def fitting(name: str) -> Fitting:
                return Fitting(data, budget.with_(seed=seed), None, progress=self.progress, name=name)

            def directly(module: nn.Module, name: str, share: float = 1.0) -> float:
                network = SpikingTwin(module, x[:1], 1)
                network.calibrate(x)
                fitting(name)(network, stage="T = 1", share=share, lr=method.lr, weight_decay=0.0)
                return accuracy(network.eval(), self.test)

            reduced = method.train(ann, x[:1], x, fitting("iir"))
            by_steps = {str(n.steps): accuracy(n, self.test) for n in reduced}
            return {
                "ann": accuracy(ann, self.test),
                "by_steps": by_steps,
                "one stage": directly(ann, "one stage", 1 / len(method.steps)),
                "direct": directly(ann, "direct"),
                "scratch": directly(deep_cnn(seed + 100), "scratch"),
            }

        key = {"method": asdict(method), "start": start.to_json(), "budget": budget.to_json(), "network": "deep cnn, 9 x 12"}
        found = [self.cells.get(f"digits-iir-{s}", {**key, "seed": s}, partial(make, s)) for s in SEEDS]
        means = {f"T={t}": round(100 * mean(v["by_steps"][t] for v in found), 2) for t in found[0]["by_steps"]}
        means["float"] = round(100 * mean(v["ann"] for v in found), 2)
        means["T=1, from the float weights, as long as all stages"] = round(100 * mean(v["direct"] for v in found), 2)
        for id, other, name in (
            ("iir_one_step_minus_one_stage_points", "one stage", "T = 1 from the float weights, as long as the last stage"),
            ("iir_one_step_minus_scratch_points", "scratch", "T = 1 from random weights, as long as all stages"),
        ):
            claim = paired(id, [v["by_steps"]["1"] for v in found], [v[other] for v in found], name)
            yield replace(claim, reference={**claim.reference, **means})

    def norms(self) -> Iterator[Claim]:
        """CaRe-BN against moving means of fixed momentum, on a stream whose mean jumps every 50 batches."""
        ratios, errors = [], []
        for seed in SEEDS:
            g = torch.Generator().manual_seed(seed)
            means = 2 * torch.randn(12, 8, generator=g).repeat_interleave(50, 0)
            norms: dict[str, Norm] = {"care": CaReBN(8), **{f"momentum {m}": ThresholdBN(8, momentum=m) for m in MOMENTA}}
            found = {k: moving_error(n, means, 64, torch.Generator().manual_seed(seed)) for k, n in norms.items()}
            ratios.append(found["care"] / min(v for k, v in found.items() if k != "care"))
            errors.append(found)
        reference = {k: round(mean(e[k] for e in errors), 4) for k in errors[0]}
        unit = "error of the moving mean over that of the best fixed momentum in hindsight"
        spread = (round(min(ratios), 3), round(max(ratios), 3))
        yield Claim("care_bn_error_over_best_momentum", max(ratios), unit, "measured", len(SEEDS), spread, reference)

    def filters(self) -> Iterator[Claim]:
        """A spiking decoder of simulated recordings, without and with a Bessel filter; the cutoff is chosen on other ones."""
        recipe = {"steps": 80, "batch": 16, "lr": 1e-2, "hidden": 64, "tau": 10.0, "neurons": 48, "warm-up": 20}

        def make(seed: int) -> Values:
            g = torch.Generator().manual_seed(seed)
            torch.manual_seed(seed)
            directions = 2 * torch.pi * torch.rand(48, generator=g)
            truths = [movement(steps, batch, g) for steps, batch in ((120, 64), (500, 8), (500, 8))]
            (x, v), *others = [(recording(truth, directions, g), truth) for truth in truths]
            neuron = LIF(tau=10.0, decay_input=False)
            decoder = nn.Sequential(OverTime(nn.Linear(48, 64)), Spiking(neuron), OverTime(nn.Linear(64, 2)))
            optimiser = torch.optim.Adam(decoder.parameters(), 1e-2)
            for _ in range(80):
                chosen = torch.randperm(64, generator=g)[:16]
                optimiser.zero_grad()
                F.mse_loss(decoder(x[:, chosen])[20:], v[20:, chosen]).backward()
                optimiser.step()
            with torch.no_grad():
                (seen, wanted), (given, truth) = [(decoder(a), b) for a, b in others]

            def score(run: Callable[[Bessel, Tensor], Tensor]) -> float:
                """On the test recordings, with the cutoff that is best on the others."""
                best = max(CUTOFFS, key=lambda c: r2(run(Bessel(c), seen)[20:], wanted[20:]))
                return r2(run(Bessel(best), given)[20:], truth[20:])

            return {
                "plain": r2(given[20:], truth[20:]),
                "causal": score(lambda f, y: f.filter(y)[0]),
                "ahead 8": score(lambda f, y: f.blocks(y, 128, 8)),
                "ahead 24": score(lambda f, y: f.blocks(y, 128, 24)),
            }

        key = {"recipe": recipe, "cutoffs": CUTOFFS, "block": 128}
        found = [self.cells.get(f"movement-bessel-{s}", {**key, "seed": s}, partial(make, s)) for s in SEEDS]
        gains = [v["causal"] - v["plain"] for v in found]
        reference = {"name": "no filter", **{k: round(mean(v[k] for v in found), 4) for k in found[0] if k != "seconds"}}
        unit, spread = "R2 gained by the causal filter, the worst seed", (round(min(gains), 4), round(max(gains), 4))
        yield Claim("bessel_r2_gain", min(gains), unit, "measured", len(SEEDS), spread, reference)

    def liquids(self) -> Iterator[Claim]:
        """Digits row by row as random spikes: a linear read-out of the liquid's counts against that of the input's own counts."""

        def events(x: Tensor, generator: torch.Generator) -> Tensor:
            """[N, 1, 8, 8] to spikes [16, N, 8]: each row for two steps."""
            rows = x[:, 0].permute(1, 0, 2).repeat_interleave(2, 0)
            return Rate().encode(rows / rows.max(), 1, generator)[0]

        found: dict[str, list[float]] = {"liquid": [], "counts": [], "all steps": []}
        for seed in SEEDS:
            g = torch.Generator().manual_seed(seed)
            train, test = events(self.task.train.x, g), events(self.task.test.x, g)
            features: dict[str, Callable[[Tensor], Tensor]] = {
                "liquid": Liquid(8, 256, g, gain=3.0, recurrence=1.0),
                "counts": lambda s: s.sum(0),
                "all steps": lambda s: s.transpose(0, 1).flatten(1),
            }
            for name, of in features.items():
                found[name].append(ridge((of(train), self.task.train.y), (of(test), self.task.test.y)))
        ours, counts = found["liquid"], found["counts"]
        claim = paired("liquid_minus_raw_counts_points", ours, counts, "the same read-out of the input's counts")
        every = {"of all steps of the input": round(100 * mean(found["all steps"]), 2)}
        yield replace(claim, reference={**claim.reference, **every})

    def stages(self) -> dict[str, tuple[Callable[[], Iterator[Claim]], tuple[str, ...]]]:
        """Name -> the measurement and the claims it gives."""
        return {
            "fewer time steps": (self.reduction, tuple(list(BOUNDS)[:2])),
            "moving statistics": (self.norms, ("care_bn_error_over_best_momentum",)),
            "filtered outputs": (self.filters, ("bessel_r2_gain",)),
            "liquids": (self.liquids, ("liquid_minus_raw_counts_points",)),
        }
