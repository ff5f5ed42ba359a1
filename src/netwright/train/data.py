"""What training asks of data, and the plain form of it: tensors in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from netwright.core.errors import DataError

Batch = tuple[Tensor, Tensor]


class Data(Protocol):
    """Training batches and a validation split.

    `batches` yields (x, y) for one pass over the training split, in an order that depends on the generator alone: a
    resumed run asks for the same pass again and skips what it has seen.
    """

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]: ...

    @property
    def validation(self) -> Batch: ...


@dataclass(frozen=True)
class Tensors:
    """A data set in memory: x float [N, C, H, W], y int64 [N]."""

    x: Tensor
    y: Tensor
    x_validation: Tensor
    y_validation: Tensor

    def __post_init__(self) -> None:
        for x, y, split in ((self.x, self.y, "training"), (self.x_validation, self.y_validation, "validation")):
            if len(x) != len(y) or len(x) == 0:
                raise DataError(
                    f"The {split} split has {len(x)} inputs and {len(y)} labels; it needs as many of both, at least one."
                )

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Shuffled batches of equal size; the rest that fills no batch waits for another pass."""
        order = torch.randperm(len(self.x), generator=generator)
        size = min(batch_size, len(order))
        for i in range(0, len(order) - size + 1, size):
            chosen = order[i : i + size]
            yield self.x[chosen], self.y[chosen]

    @property
    def validation(self) -> Batch:
        return self.x_validation, self.y_validation
