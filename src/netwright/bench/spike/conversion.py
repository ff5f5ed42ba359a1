"""Conversion without training, on the networks of `Trained`: accuracy at few time steps, and what it costs to get there.

All settings are fixed or chosen on training images; test images are only counted. SpikingJelly converts the same networks with
the same calibration images in every mode that is any good at few steps, and the best of its modes on the test images, which is
more than it could know, is what it is compared by.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.bench.cells import Cells, Values
from netwright.bench.claim import Claim
from netwright.bench.spike.networks import Residual, Trained
from netwright.pipeline.fitting import Progress
from netwright.spike.convert import Fit, Spiking
from netwright.spike.unroll import batch_size

BOUNDS: dict[str, tuple[str, float]] = {
    "digits_t2_gap_points": ("<=", 0.5),
    "cifar_t2_gap_points": ("<=", 3.5),
    "cifar_t4_gap_points": ("<=", 1.0),
    "cifar_t8_gap_points": ("<=", 0.5),
    "cifar_t2_minus_spikingjelly_best_points": (">=", 8.0),
    "cifar_t4_minus_spikingjelly_best_points": (">=", 4.0),
    "residual_t4_gap_points": ("<=", 5.5),
    "residual_t8_gap_points": ("<=", 1.5),
    "residual_t4_minus_spikingjelly_best_points": (">=", 12.0),
    "conversion_time_vs_epoch": ("<=", 1.0),
}
SPIKINGJELLY = "2.0.0"  # whose rows are kept in cells
WANTED = {"digits": (2,), "cifar": (2, 4, 8), "residual": (2, 4, 8)}
BATCH = 128
MODES = ("ltb 8", "ltb 64", "ltb 256", "channel 99%", "channel 99.9%")


class Modules(nn.Module):
    """A residual block with rectifiers that are modules, which SpikingJelly's recipes need."""

    def __init__(self, block: Residual):
        super().__init__()
        self.conv1, self.norm1, self.relu1 = block.conv1, block.norm1, nn.ReLU()
        self.conv2, self.norm2, self.relu2 = block.conv2, block.norm2, nn.ReLU()
        self.shortcut = block.shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.norm1(self.conv1(x)))
        y = self.relu2(self.norm2(self.conv2(y)) + self.shortcut(x))
        return y


def with_modules(network: nn.Module) -> nn.Module:
    """A copy of the network for SpikingJelly."""
    network = deepcopy(network)
    for name, child in network.named_children():
        if isinstance(child, Residual):
            setattr(network, name, Modules(child))
    return network.eval()


def accuracy(made: Spiking, data: tuple[Tensor, Tensor]) -> float:
    x, y = data
    with torch.no_grad():
        got = torch.cat([made.module(part) for part in x.split(min(batch_size(made.module), BATCH))]).argmax(1)
    return float((got == y).float().mean())


@dataclass
class Conversion:
    """The measurements, each giving claims."""

    cells: Cells
    progress: Progress | None = None
    seed: int = 0

    @cached_property
    def networks(self) -> dict[str, Trained]:
        return {name: Trained(name, self.cells, progress=self.progress) for name in WANTED}

    def key(self, name: str, **more: Any) -> dict[str, Any]:
        return {"network": name, "recipe": self.networks[name].recipe.to_json(), "test": 2000, "calibration": 4096, **more}

    def converted(self, name: str, converter: Fit) -> Values:
        """Accuracy, synaptic operations and time of one conversion."""

        def make() -> Values:
            net = self.networks[name]
            begun = time.perf_counter()
            made = converter.convert(net.module, net.calibration[:1], net.calibration)
            took = time.perf_counter() - begun
            return {
                "accuracy": accuracy(made, net.test),
                "ann": net.accuracy,
                "operations": round(made.operations),
                "took": round(took, 1),
            }

        label = f"convert-{name}-{converter.neuron}-{converter.steps}"
        return self.cells.get(label, self.key(name, method="fit", fields=asdict(converter)), make)

    def peer(self, name: str, mode: str) -> Values:
        """Accuracies of a SpikingJelly mode: {"T": accuracy} and {"T delayed": accuracy}.

        Raises:
            ImportError: it is not installed.
        """

        def make() -> Values:
            from spikingjelly.activation_based import ann2snn, functional

            net = self.networks[name]
            kind, value = mode.split()
            batches = list(net.calibration.split(BATCH))
            if kind == "ltb":
                loader = [batches[i % len(batches)] for i in range(int(value))]
                recipe = ann2snn.LocalThresholdBalancingRecipe(loader)
            else:
                recipe = ann2snn.RateCodingRecipe(batches[:8], mode=value, channel_wise=True, half_threshold=True)
            snn = ann2snn.Converter(recipe).convert(with_modules(net.module))
            longest, (x, y) = max(WANTED[name]), net.test
            outputs = []
            with torch.no_grad():
                for part in x.split(BATCH):
                    functional.reset_net(snn)
                    outputs.append(torch.stack([snn(part) for _ in range(longest)]))
                sums = torch.cat(outputs, 1).double()
            found: Values = {}
            for steps in WANTED[name]:
                functional.reset_net(snn)
                start = ann2snn.estimate_delay_start(snn, batches[:1], "cpu", steps)
                for label, first in ((f"{steps}", 0), (f"{steps} delayed", min(start, steps - 1))):
                    found[label] = float((sums[first:steps].sum(0).argmax(1) == y).double().mean())
            return found

        label = f"spikingjelly-{name}-{mode.replace(' ', '-').replace('%', '')}"
        return self.cells.get(label, self.key(name, mode=mode, version=SPIKINGJELLY, steps=list(WANTED[name])), make)

    def gap(self, name: str, steps: int) -> Claim:
        binary, bipolar = (self.converted(name, Fit(steps=steps, neuron=neuron)) for neuron in ("binary", "bipolar"))
        rows = {"signed spikes": bipolar, "binary spikes": binary}
        reference = {"name": "the float network", "float": round(100 * bipolar["ann"], 2)}
        reference |= {k: round(100 * v["accuracy"], 2) for k, v in rows.items()}
        reference |= {f"M operations, {k}": round(v["operations"] / 1e6, 2) for k, v in rows.items()}
        points = 100 * (bipolar["ann"] - bipolar["accuracy"])
        unit = "points of test accuracy below the float network, signed spikes"
        return Claim(
            f"{name}_t{steps}_gap_points", round(points, 6), unit, "measured", len(self.networks[name].test[1]), None, reference
        )

    def gaps(self) -> Iterator[Claim]:
        for id in BOUNDS:
            name, _, rest = id.partition("_t")
            if rest.endswith("_gap_points"):
                yield self.gap(name, int(rest.split("_")[0]))

    def peers(self) -> Iterator[Claim]:
        for id in (i for i in BOUNDS if "spikingjelly" in i):
            name, steps = id.split("_")[0], int(id.split("_t")[1].split("_")[0])
            try:
                rows = {
                    f"{mode}{label.removeprefix(str(steps))}": value
                    for mode in MODES
                    for label, value in self.peer(name, mode).items()
                    if label.split()[0] == str(steps)
                }
            except ImportError as error:
                yield Claim(id, None, "", "measured", 0, why=f"SpikingJelly is not installed ({error}). pip install spikingjelly")
                continue
            best = max(rows, key=lambda k: rows[k])
            ours = self.converted(name, Fit(steps=steps, neuron="bipolar"))
            binary = self.converted(name, Fit(steps=steps))
            reference = {
                "name": f"SpikingJelly, {best}", "theirs": round(100 * rows[best], 2),
                "ours": round(100 * ours["accuracy"], 2), "ours, binary spikes": round(100 * binary["accuracy"], 2),
            }  # fmt: skip
            points = 100 * (ours["accuracy"] - rows[best])
            unit = "points of test accuracy above the best mode of SpikingJelly, signed spikes"
            yield Claim(id, round(points, 6), unit, "measured", len(self.networks[name].test[1]), None, reference)

    def times(self) -> Iterator[Claim]:
        """The slowest conversion against an epoch, whose time is that of a few training steps in the same minutes."""
        found: dict[str, float] = {}
        for name in ("cifar", "residual"):
            net = self.networks[name]
            network, steps = deepcopy(net.module).train(), 24
            for p in network.parameters():
                if p.dim() == 4:  # as in training
                    p.data = p.data.contiguous(memory_format=torch.channels_last)
            x = net.calibration.contiguous(memory_format=torch.channels_last)
            y = torch.randint(0, 10, (len(x),), generator=torch.Generator().manual_seed(self.seed))
            optimiser = torch.optim.AdamW(network.parameters(), 1e-5)
            rounds = []
            for _ in range(3):
                begun = time.perf_counter()
                for i in range(steps // 3):
                    part = slice(64 * i, 64 * (i + 1))
                    optimiser.zero_grad()
                    F.cross_entropy(network(x[part]), y[part]).backward()
                    optimiser.step()
                step = (time.perf_counter() - begun) / (steps // 3)
                begun = time.perf_counter()
                Fit(steps=8, neuron="bipolar").convert(net.module, net.calibration[:1], net.calibration)
                rounds.append((time.perf_counter() - begun) / (step * len(net.task.train) / 64))
            found[name] = median(rounds)
        worst = max(found, key=lambda k: found[k])
        reference = {"name": "one epoch of training, batch 64", **{k: round(v, 3) for k, v in found.items()}}
        yield Claim("conversion_time_vs_epoch", found[worst], f"epochs, {worst}, T = 8", "measured", 3, None, reference)

    def stages(self) -> dict[str, tuple[Callable[[], Iterator[Claim]], tuple[str, ...]]]:
        """Name -> the measurement and the claims it gives."""
        return {
            "few steps": (self.gaps, tuple(i for i in BOUNDS if i.endswith("gap_points"))),
            "SpikingJelly": (self.peers, tuple(i for i in BOUNDS if "spikingjelly" in i)),
            "time of conversion": (self.times, ("conversion_time_vs_epoch",)),
        }
