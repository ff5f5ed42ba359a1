"""The role of a method that makes a large network of trained small ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn

from netwright.core.paper import Paper


class Growth(ABC):
    """Grows a network: what small ones learned is where the large one starts."""

    name: ClassVar[str]
    paper: ClassVar[Paper]

    @abstractmethod
    def prepare(self, module: nn.Module) -> nn.Module:
        """A trainable copy of a small network from which one can grow (same input and output)."""

    @abstractmethod
    def grow(self, first: nn.Module, second: nn.Module, large: nn.Module) -> nn.Module:
        """A trainable copy of `large`, filled from two prepared and trained small networks."""

    @abstractmethod
    def finish(self, module: nn.Module) -> nn.Module:
        """A plain copy of a prepared or grown network, with weights of its own."""
