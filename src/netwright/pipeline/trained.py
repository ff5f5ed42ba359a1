"""A user's trained network with the data that it is for: what compressing and converting it have in common."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from netwright.core.cost import Quantity
from netwright.core.errors import DataError, NetwrightError
from netwright.core.graph import Graph
from netwright.deploy import c99
from netwright.deploy.bundle import Bundle, write_bundle
from netwright.design import merge, trace
from netwright.measure.latency import time_side_by_side
from netwright.pipeline.fitting import Progress
from netwright.tasks import Task
from netwright.train.evaluate import accuracy


@dataclass
class TrainedNetwork:
    """A float network and its task. Nothing is chosen on the test split.

    Args:
        module: float network, [N, C, H, W] -> logits [N, classes]; it is not changed.
        task: the data.
        calibration_size: training images for ranges and thresholds.
        seed: of everything random.
        progress: called with (done, total, text).

    Raises:
        NetwrightError: the network does not run on the task's inputs; DataError where its output does not fit the classes.
    """

    module: nn.Module
    task: Task
    calibration_size: int = 256
    seed: int = 0
    progress: Progress | None = None

    def __post_init__(self) -> None:
        self.module = merge(deepcopy(self.module)).eval()
        example = self.task.train.tensor(torch.arange(1))
        try:
            with torch.no_grad():
                out = self.module(example)
        except Exception as error:
            raise NetwrightError(
                f"The network does not run on an input {list(example.shape)} of this data: {error} "
                "Give --size to bring the images to its size, or a network for images of this shape."
            ) from error
        classes = len(self.task.classes)
        if not isinstance(out, Tensor) or out.shape != (1, classes):
            shape = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise DataError(
                f"The network gives {shape} for one input; this data has {classes} classes, so it must give [1, {classes}]."
            )

    @cached_property
    def example(self) -> Tensor:
        return torch.zeros(1, *self.task.shape)

    @cached_property
    def calibration(self) -> Tensor:
        """A seeded sample of the training split."""
        order = torch.randperm(len(self.task.train), generator=torch.Generator().manual_seed(self.seed))
        return self.task.train.tensor(order[: self.calibration_size])

    @cached_property
    def graph(self) -> Graph:
        return trace(self.module, self.example)

    @cached_property
    def accuracy(self) -> float:
        """Of the float network, on the test split."""
        return self.score(self.module)

    def score(self, module: nn.Module) -> float:
        return accuracy(module, self.task.batches("test", 128, torch.Generator()))

    def latencies(self, graphs: Mapping[str, Graph], rounds: int = 15) -> dict[str, Quantity]:
        """us of the C programs for one input, one thread, side by side."""
        x = np.zeros((1, *self.task.shape), np.float32)
        with TemporaryDirectory() as folder:
            runs = {name: partial(c99.build(g, Path(folder) / name).run_one, x) for name, g in graphs.items()}
            return time_side_by_side(runs, rounds=rounds, seed=self.seed)

    def latency(self, network: nn.Module, rounds: int = 15) -> tuple[float, float]:
        """us of the float network's C program and of the other one's."""
        timed = self.latencies({"float": self.graph, "made": trace(network, self.example)}, rounds)
        return timed["float"].value, timed["made"].value

    def float_bundle(self, out: Path) -> Bundle:
        """The float network as a bundle, to measure against."""
        info = {"accuracy": self.accuracy, "seed": self.seed, "task": self.task.to_json()}
        return write_bundle(self.graph, out, form="float", info=info)
