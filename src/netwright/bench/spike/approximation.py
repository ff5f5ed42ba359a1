"""What approximation costs: one small network with several activations on digits, and networks of timm with random weights.

Every network of the first part is the same but for its activation, trained alike with one seed and converted by local threshold
balancing at several T; test images are only counted. In the second the question is which networks convert at all, exactly or by
approximation, and how far rectifiers move the outputs; nothing is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from netwright.bench.cells import Cells, Values
from netwright.bench.claim import Claim
from netwright.design import merge, trace
from netwright.design.zoo import timm_model
from netwright.pipeline.fitting import Progress, TaskData
from netwright.spike.convert import LocalThresholdBalancing, approximate, unsupported
from netwright.spike.unroll import accuracy_over_time
from netwright.tasks import Task, load_task
from netwright.train import fit
from netwright.train.evaluate import accuracy
from netwright.train.recipe import Recipe

BOUNDS: dict[str, tuple[str, float]] = {
    "approximated_t16_gap_points": ("<=", 1.0),
    "timm_networks_converted_share": (">=", 1.0),
}
RECIPE = Recipe(steps=300, lr=4e-3, evaluations=1, label_smoothing=0.0)
STEPS = (4, 8, 16)
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh, "relu and squeeze-excite": nn.ReLU,
}  # fmt: skip
PRODUCTS = ("relu and squeeze-excite",)  # shown beside the others: products of two tensors are far worse at few steps
NETWORKS = (
    "resnet10t", "regnetx_002", "repvgg_a0", "mobilenetv2_050", "efficientnet_lite0", "mobilenetv3_small_050", "regnety_002",
    "ghostnet_050", "hardcorenas_a",
)  # fmt: skip
SIDE = 64


class Gate(nn.Module):
    """Squeeze-and-excitation: x * sigmoid(W_2 relu(W_1 mean x))."""

    def __init__(self, channels: int):
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))


def network(activation: str, seed: int = 0) -> nn.Module:
    """Three 3x3 convolutions (16, 32, 32) with batch norm and the activation, average pooling after two, linear 10."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    channels = 1
    for i, out in enumerate((16, 32, 32)):
        layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), ACTIVATIONS[activation]()]
        layers += [Gate(out)] if "squeeze" in activation else []
        layers += [nn.AvgPool2d(2)] if i < 2 else []
        channels = out
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * channels, 10))


def lively(module: nn.Module, x: Tensor) -> nn.Module:
    """Norms as after training: statistics of x, factors about 1, shifts about 0."""
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.7, 1.5)
            nn.init.normal_(m.bias, 0.0, 0.3)
            m.momentum = None
    with torch.no_grad():
        module.train()(x)
    return module.eval()


@dataclass
class Approximating:
    """The measurements, each giving claims."""

    cells: Cells
    progress: Progress | None = None

    named: ClassVar[tuple[str, ...]] = NETWORKS

    @cached_property
    def task(self) -> Task:
        return load_task("digits", seed=0, progress=self.progress)

    def converted(self, activation: str) -> Values:
        """Test accuracy of the float network and after conversion, and what the approximation made of it."""
        x, test = self.task.train.x[:512], (self.task.test.x, self.task.test.y)

        def make() -> Values:
            data = TaskData(self.task, self.task.augmentation(("shift",)))
            with torch.random.fork_rng(devices=[]):
                module = fit(network(activation), data, RECIPE, progress=self.progress).module.eval()
            graph = trace(merge(module), x[:1])
            _, found = approximate(graph, x)
            made = {t: LocalThresholdBalancing(steps=t).convert(module, x[:1], x).module for t in STEPS}
            return {
                "float": accuracy(module, test),
                "by_steps": {str(t): accuracy_over_time(spiking, test)[-1] for t, spiking in made.items()},
                "weights": made[STEPS[0]].graph.parameters / graph.parameters,
                "worst": max((r.worst for r in found.replaced), default=0.0),
                "rms": found.rms,
            }

        key = {"activation": activation, "recipe": RECIPE.to_json(), "method": repr(LocalThresholdBalancing(steps=4)),
               "steps": list(STEPS), "calibration": 512}  # fmt: skip
        return self.cells.get(f"approximate-{activation.replace(' ', '-')}", key, make)

    def activations(self) -> Iterator[Claim]:
        found = {name: self.converted(name) for name in ACTIVATIONS}
        gaps = [100 * (v["float"] - v["by_steps"]["16"]) for name, v in found.items() if name not in PRODUCTS]
        rows = {
            name: {
                "float": round(100 * v["float"], 2), **{f"T={t}": round(100 * a, 2) for t, a in v["by_steps"].items()},
                "weights": round(v["weights"], 1), "largest error": round(v["worst"], 3),
            }
            for name, v in found.items()
        }  # fmt: skip
        unit = "points of test accuracy lost at T = 16, the worst function of one tensor, local threshold balancing, one seed"
        yield Claim("approximated_t16_gap_points", round(max(gaps), 6), unit, "measured", len(self.task.test), None,
                    {"name": "the float network", **rows})  # fmt: skip

    def coverage(self, name: str) -> Values:
        """Whether a network of timm converts, exactly or not, and what the rectifiers change.

        Raises:
            MissingExtra: timm is not installed.
        """

        def make() -> Values:
            generator = torch.Generator().manual_seed(0)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                x = torch.randn(8, 3, SIDE, SIDE, generator=generator)
                module = lively(timm_model(name, num_classes=10), x)
            graph, found = approximate(trace(merge(module), x[:1]), x)
            inexact = sum(not r.exact for r in found.replaced)
            return {"refused": unsupported(graph), "exact": not inexact, "rms": found.rms, "replaced": inexact}

        key: dict[str, Any] = {"network": name, "side": SIDE, "weights": "random, seed 0"}
        return self.cells.get(f"coverage-{name}", key, make)

    def networks(self) -> Iterator[Claim]:
        (_, id), rows, converted = BOUNDS, {}, 0
        for name in self.named:
            v = self.coverage(name)
            converted += not v["refused"]
            way = "exact" if v["exact"] else f"{v['rms']:.2%} of the outputs' deviation"
            rows[name] = v["refused"][0] if v["refused"] else way
        yield Claim(id, converted / len(self.named), "share of the named networks of timm that convert", "counted",
                    len(self.named), None, {"name": "timm", **rows})  # fmt: skip

    def stages(self) -> dict[str, tuple[Callable[[], Iterator[Claim]], tuple[str, ...]]]:
        """Name -> the measurement and the claims it gives."""
        activations, networks = BOUNDS
        return {"approximated functions": (self.activations, (activations,)),
                "networks of timm": (self.networks, (networks,))}  # fmt: skip
