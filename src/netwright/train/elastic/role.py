"""The role of elastic training, and what it asks of shared weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from netwright.core.paper import Paper
from netwright.core.space import Arch, Space
from netwright.train.data import Data
from netwright.train.engine import Augment, Hook, Progress
from netwright.train.loop import Fitted
from netwright.train.recipe import Recipe


@runtime_checkable
class Shared(Protocol):
    """The shared weights of a space: an `nn.Module` that answers for every architecture."""

    space: Space

    def call(self, arch: Arch, x: Tensor) -> Tensor:
        """Logits of one architecture, with the batch statistics of `x`; gradients reach the shared weights."""


class Elastic(ABC):
    """Trains shared weights so that every architecture of the space works with its slice of them."""

    name: ClassVar[str]
    paper: ClassVar[Paper]

    @abstractmethod
    def fit(
        self,
        shared: Shared,
        data: Data,
        recipe: Recipe,
        *,
        augment: Augment | None = None,
        validate: Callable[[], float] | None = None,
        checkpoint: Path | None = None,
        save_every_seconds: float = 20.0,
        save_every_steps: int = 0,
        progress: Progress | None = None,
        on_step: Sequence[Hook] = (),
    ) -> Fitted:
        """Train in place; the arguments mean what they mean in `train.fit`."""
