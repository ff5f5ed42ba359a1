"""The role of a distillation loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from netwright.core.paper import Paper


class Distillation(ABC):
    """A loss between a student's and a teacher's logits."""

    name: ClassVar[str]
    paper: ClassVar[Paper]

    @abstractmethod
    def __call__(self, student: Tensor, teacher: Tensor, hard: Tensor) -> Tensor:
        """Scalar loss from logits [N, classes] of both and the scalar loss `hard` on the labels."""
