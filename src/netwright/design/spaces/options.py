"""Options: the role of the classes in this folder: what a space is made of, as a frozen dataclass that a recipe can fill."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, ClassVar, Self

from torch import nn

from netwright.core.errors import NetwrightError
from netwright.core.space import Space


class Options:
    """Fields that are domains of a space, or that all of its networks have in common.

    Attributes:
        kinds: the field that lists kinds of layers to choose from; "" where there is no such choice.
    """

    name: ClassVar[str]
    kinds: ClassVar[str] = ""

    def space(self, shape: tuple[int, int, int], classes: int) -> Space:
        """The space for images of `shape` (C, H, W). Raises NetwrightError for one that its networks do not take."""
        raise NotImplementedError

    def probe(self, kind: str) -> nn.Module:
        """A small network, [N, 1, 8, 8] -> [N, 2], that has the kind of layer in it (any, where there are no kinds)."""
        raise NotImplementedError

    @property
    def choices(self) -> tuple[str, ...]:
        """The kinds; one nameless where there is nothing to choose."""
        return tuple(getattr(self, self.kinds)) if self.kinds else ("",)

    def only(self, kinds: tuple[str, ...]) -> Self:
        """The same space with these kinds alone. Raises NetwrightError where none is left."""
        if not kinds:
            raise NetwrightError(f"The space {self.name!r} has nothing left to choose from.")
        return replace(self, **{self.kinds: kinds}) if self.kinds else self  # type: ignore[type-var]

    def facts(self) -> dict[str, Any]:
        """Name and fields, as JSON can hold them where they come from a recipe."""
        return {"space": self.name, **{f.name: getattr(self, f.name) for f in fields(self)}}  # type: ignore[arg-type]

    def common(self) -> dict[str, Any]:
        """The fields that are no kinds."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != self.kinds}  # type: ignore[arg-type]
