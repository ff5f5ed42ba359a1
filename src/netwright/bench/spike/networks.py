"""The trained float networks that `netwright bench spike` converts, times and compares; each is trained once and kept.

Training takes minutes; weights are kept under `runs/`, the accuracy in a cell. Test images are a seeded sample of the test split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from netwright.bench.cells import Cells
from netwright.bench.networks import BasicBlock
from netwright.pipeline.fitting import Progress, TaskData
from netwright.tasks import Task, load_task
from netwright.train import fit
from netwright.train.evaluate import accuracy
from netwright.train.recipe import Recipe

CIFAR = "$NETWRIGHT_DATA/cifar10-jpeg/cifar10.tar.gz"


def plain_cnn(channels: int = 3, side: int = 32, seed: int = 0) -> nn.Module:
    """Three 3x3 convolutions (32, 64, 64) with batch norm and relu, average pooling after the first two, linear 128 and 10."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i, out in enumerate((32, 64, 64)):
        layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        layers += [nn.AvgPool2d(2)] if i < 2 else []
        channels = out
    features = channels * (side // 4) ** 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 128), nn.ReLU(), nn.Linear(128, 10)).eval()


class Residual(BasicBlock):
    """relu(norm(conv(relu(norm(conv(x))))) + x'), ResNet's own order."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def resnet14(seed: int = 0) -> nn.Module:
    """ResNet-14 for 32x32 images: two basic blocks at each of 12, 24 and 48 channels, 13 rectifiers."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Conv2d(3, 12, 3, 1, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU()]
    channels = 12
    for out in (12, 24, 48):
        for stride in (1 if out == 12 else 2, 1):
            layers.append(Residual(channels, out, stride))
            channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)).eval()


@dataclass
class Trained:
    """One trained network with the data that it is converted and tested on.

    Args:
        name: "digits", "cifar" (both the plain CNN) or "residual" (ResNet-14 on CIFAR-10).
        cells: where the accuracy is kept.
        runs: folder of the weights; trained anew where they are missing.
    """

    name: str
    cells: Cells
    runs: Path = Path("runs/bench-spike")
    progress: Progress | None = None

    recipes: ClassVar[dict[str, tuple[str, Callable[[], nn.Module], Recipe, tuple[str, ...]]]] = {
        "digits": ("digits", lambda: plain_cnn(1, 8), Recipe(steps=800, lr=4e-3, evaluations=1, label_smoothing=0.0), ("shift",)),
        "cifar": (CIFAR, plain_cnn, Recipe(steps=4000, lr=4e-3, weight_decay=0.02, evaluations=1, label_smoothing=0.0,
                                           channels_last=True), ("shift", "flip")),
        "residual": (CIFAR, resnet14, Recipe(steps=3300, lr=6e-3, weight_decay=0.02, evaluations=1, label_smoothing=0.0,
                                             channels_last=True), ("shift", "flip")),
    }  # fmt: skip

    @property
    def recipe(self) -> Recipe:
        return self.recipes[self.name][2]

    @cached_property
    def task(self) -> Task:
        return load_task(self.recipes[self.name][0], seed=0, progress=self.progress)

    @cached_property
    def data(self) -> TaskData:
        return TaskData(self.task, self.task.augmentation(self.recipes[self.name][3]))

    @cached_property
    def calibration(self) -> Tensor:
        """At most 4,096 training images (64 batches of 64), a seeded sample; never validation or test."""
        index = torch.randperm(len(self.task.train), generator=torch.Generator().manual_seed(0))[:4096]
        return self.task.train.tensor(index)

    @cached_property
    def test(self) -> tuple[Tensor, Tensor]:
        """At most 2,000 test images in random order, and their labels."""
        x, y = self.task.test.x, self.task.test.y
        index = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))[:2000]
        return x[index], y[index]

    @cached_property
    def module(self) -> nn.Module:
        """The trained network, in evaluation mode."""
        network, path = self.recipes[self.name][1](), self.runs / f"{self.name}.safetensors"
        if path.exists():
            network.load_state_dict(load_file(path))
            return network.eval()
        network = fit(network, self.data, self.recipe, progress=self.progress).module.eval()
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
        return network

    @cached_property
    def accuracy(self) -> float:
        """Of the float network, on `test`."""
        return accuracy(self.module, self.test)
