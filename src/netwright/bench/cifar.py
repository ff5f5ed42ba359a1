"""What `netwright bench compress` trains on CIFAR-10: one network, one budget, every method from the same start.

For each seed a float network is trained for `STEPS` steps: the start. From there every method, and the float network itself
(the float twin), gets `STEPS` more with the same batches and augmentation. Compressed networks are taught by the float twin as
well as by the labels; the float twin by the labels. First, last and 1x1 shortcut layers of binary networks have 8 bits.
Accuracies are those of the test split after the last step; nothing is chosen on it. Chosen on validation: BiPer has the
clipped gradient of activations and half its usual learning rate, which is that of the plain estimator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from netwright.bench.cells import Cells, Values
from netwright.bench.networks import small_resnet
from netwright.compress import CATALOGUE, Compressor
from netwright.pipeline.fitting import Fitting, Progress, TaskData
from netwright.tasks import Task, load_task
from netwright.train import fit
from netwright.train.evaluate import accuracy
from netwright.train.recipe import Recipe

DATA = "$NETWRIGHT_DATA/cifar10-jpeg/cifar10.tar.gz"
STEPS = 2000
START = Recipe(steps=STEPS, lr=4e-3, weight_decay=0.02, evaluations=1, channels_last=True)
TWIN = START.with_(lr=2e-3)
TAUGHT = START.with_(label_smoothing=0.0, distil_weight=0.7, distil_temperature=2.0)
BINARY = ("ste", "xnor", "bireal", "irnet", "recu", "reste", "biper", "react", "fda")
TERNARY = ("bitnet", "twn", "tbt", "lsq")


LR = {"biper": 0.5}  # factors on the rates that methods propose
OPTIONS: dict[str, dict[str, Any]] = {"biper": {"activations": "clipped"}}


def method(name: str, **options: Any) -> Compressor:
    """A method as the table has it."""
    cls = CATALOGUE[name]
    return cls(**({"keep_pointwise": True} if name in BINARY else {}), **OPTIONS.get(name, {}), **options)


@dataclass
class Cifar:
    """The experiments, one cell a (method, seed).

    Args:
        cells: where results are kept.
        runs: where the trained float networks are kept; made again where they are missing.
        width: of the network.
    """

    cells: Cells
    runs: Path
    width: int = 32
    steps: int = STEPS
    progress: Progress | None = None

    @cached_property
    def task(self) -> Task:
        return load_task(DATA, seed=0, progress=self.progress)

    @cached_property
    def data(self) -> TaskData:
        return TaskData(self.task, self.task.augmentation(("shift", "flip")))

    @cached_property
    def test(self) -> tuple[Tensor, Tensor]:
        return self.task.test.x, self.task.test.y

    @cached_property
    def calibration(self) -> Tensor:
        return self.task.train.tensor(torch.randperm(len(self.task.train), generator=torch.Generator().manual_seed(0))[:512])

    def recipe(self, base: Recipe, seed: int) -> Recipe:
        return base.with_(seed=seed, steps=self.steps)

    def key(self, seed: int, **more: Any) -> dict[str, Any]:
        """What decides a cell."""
        recipes = {k: self.recipe(r, seed).to_json() for k, r in (("start", START), ("twin", TWIN), ("taught", TAUGHT))}
        return {"data": "cifar10-jpeg", "teacher": "twin", "network": f"small_resnet({self.width})", "recipes": recipes, **more}

    def kept(self, name: str, network: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
        """A trained network from its file, or from `make`."""
        path = self.runs / f"{name}.safetensors"
        if path.exists():
            network.load_state_dict(load_file(path))
            return network.eval()
        network = make().eval()
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
        return network

    def start(self, seed: int) -> nn.Module:
        """The float network after the first half of the budget."""
        network = small_resnet(self.width, seed=seed)
        name = f"cifar-{self.width}-{self.steps}-{seed}-start"
        return self.kept(name, network, lambda: fit(network, self.data, self.recipe(START, seed), progress=self.progress).module)

    def twin(self, seed: int) -> nn.Module:
        """The float network after the whole budget."""
        network = small_resnet(self.width, seed=seed)
        name = f"cifar-{self.width}-{self.steps}-{seed}-twin"
        return self.kept(
            name, network, lambda: fit(self.start(seed), self.data, self.recipe(TWIN, seed), progress=self.progress).module
        )

    def fitting(self, seed: int, lr: float = 1.0) -> Fitting:
        """The `fit` of one method: the second half of the budget."""
        return Fitting(self.data, self.recipe(TAUGHT, seed), self.twin(seed), progress=self.progress, lr=lr)

    def float_twin(self, seed: int) -> Values:
        name = f"cifar-float-{seed}"
        return self.cells.get(name, self.key(seed), lambda: {"accuracy": accuracy(self.twin(seed), self.test)})

    def trained(self, compressor: Compressor, seed: int) -> Values:
        """Accuracy of a method that trains, from the start."""

        def make() -> Values:
            fitting = self.fitting(seed, LR.get(compressor.name, 1.0))
            network = compressor.compress(self.start(seed), self.calibration[:1], self.calibration, fitting)
            bits = network.graph.weight_bytes
            return {"accuracy": accuracy(network, self.test), "bytes": bits, "macs": network.graph.macs}

        rate = {"lr": LR[compressor.name]} if compressor.name in LR else {}
        stages = [asdict(s) for s in compressor.stages]
        key = self.key(seed, method=compressor.name, fields=asdict(compressor), stages=stages, **rate)
        return self.cells.get(f"cifar-{compressor.name}-{seed}", key, make)

    def posttraining(self, compressor: Compressor, seed: int, label: str) -> Values:
        """Accuracy of a method without training, on the float twin."""

        def make() -> Values:
            network = compressor.compress(self.twin(seed), self.calibration[:1], self.calibration)
            return {"accuracy": accuracy(network, self.test)}

        key = self.key(seed, method=compressor.name, fields=asdict(compressor))
        return self.cells.get(f"cifar-{label}-{seed}", key, make)
