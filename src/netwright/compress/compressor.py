"""The role of every compressor, and the stages in which one trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.design.execute import GraphModule

Fit = Callable[..., nn.Module]


@dataclass(frozen=True)
class Stage:
    """A part of a compressor's training.

    Attributes:
        name: passed to `fit` as ``stage=``.
        share: part of the training budget that this stage should get; the shares of a method add up to 1.
        lr: learning rate that works with Adam, batch 64.
        weight_decay: of the latent weights.
    """

    name: str
    share: float = 1.0
    lr: float = 2e-3
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Compressor(ABC):
    """Turns a float network into an integer or a smaller one: `prepare`, train in `stages`, `finish`.

    Subclasses are frozen dataclasses whose fields are the method's hyper-parameters.
    """

    name: ClassVar[str]
    form: ClassVar[str]  # int8 | ternary | binary | float (smaller, and still float)
    paper: ClassVar[Paper]
    stages: ClassVar[tuple[Stage, ...]] = ()

    @abstractmethod
    def prepare(self, module: nn.Module, example: Tensor, calibration: Tensor) -> nn.Module:
        """A trainable float simulation of the compressed network (same input and output as `module`)."""

    def begin(self, trainee: nn.Module, stage: Stage) -> nn.Module:
        """Switch a prepared network to one of `stages`; the same object is returned."""
        return trainee

    @abstractmethod
    def finish(self, trainee: nn.Module, calibration: Tensor) -> GraphModule:
        """The integer network of a prepared and trained one."""

    def compress(self, module: nn.Module, example: Tensor, calibration: Tensor, fit: Fit | None = None) -> GraphModule:
        """prepare, fit in every stage, finish.

        Args:
            module: any float network with one input [N, C, H, W].
            example: an input [1, C, H, W]; only its shape matters.
            calibration: inputs [N, C, H, W] of the training split.
            fit: ``fit(trainee, stage=, share=, lr=, weight_decay=) -> trainee``; not called by methods without training.

        Raises:
            NetwrightError: the method trains and `fit` is missing.
            DataError: the calibration set is empty or not finite.
            Unsupported: an operation without an integer form.
        """
        if self.stages and fit is None:
            raise NetwrightError(f"{self.name} trains in {len(self.stages)} stage(s) and no fit callable was given. Pass fit=...")
        trainee = self.prepare(module, example, calibration)
        for stage in self.stages:
            assert fit is not None
            self.begin(trainee, stage)
            trainee = fit(trainee, stage=stage.name, share=stage.share, lr=stage.lr, weight_decay=stage.weight_decay)
        return self.finish(trainee, calibration)
