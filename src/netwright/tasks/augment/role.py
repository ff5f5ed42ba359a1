"""What an augmentation is: a frozen set of parameters and a rule that changes a batch but not its labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from netwright.core.paper import Paper

Augmentation = Callable[[Tensor, Generator], Tensor]


@dataclass(frozen=True)
class Augment(ABC):
    """One augmentation. Its fields all have defaults; a recipe may set the first one, as in ``shift:2``."""

    name: ClassVar[str]
    paper: ClassVar[Paper]

    @abstractmethod
    def apply(self, x: Tensor, background: Tensor, generator: Generator) -> Tensor:
        """x [B,C,H,W] normalised float32, background [C] in the same units -> a changed copy, same shape."""
