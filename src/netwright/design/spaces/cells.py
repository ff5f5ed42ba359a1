"""What the spaces of cells share: a domain on each of six edges, and the text of a cell (`netwright.design.blocks.cell`)."""

from __future__ import annotations

from typing import Any, ClassVar

from netwright.core.errors import UnknownName
from netwright.core.space import Arch, choice
from netwright.design.blocks.cell import EDGES, PASS, read, write
from netwright.design.spaces.options import Options


class CellOptions(Options):
    """A space whose networks repeat one cell.

    Attributes:
        known: the operators of the benchmark; `operations` are those that may be chosen here.
        benchmark: its name.
    """

    kinds: ClassVar[str] = "operations"
    known: ClassVar[tuple[str, ...]]
    benchmark: ClassVar[str]
    operations: tuple[str, ...]

    @property
    def edges(self) -> dict[str, Any]:
        """The domain of each edge. Raises UnknownName for an operator that the benchmark has not."""
        for name in self.operations:
            if name not in self.known:
                raise UnknownName(f"operator of {self.benchmark}", name, self.known)
        return {f"e{a}{b}": choice(*self.operations) for a, b in EDGES}

    def alone(self, kind: str) -> dict[str, Any]:
        """A cell with one operator, from its input to its output; for ``none``, with what brings the input as it is."""
        passing = next(name for name in self.known if name in PASS)
        return {**dict.fromkeys((f"e{a}{b}" for a, b in EDGES), "none"), "e03": passing if kind == "none" else kind}

    @staticmethod
    def format(arch: Arch) -> str:
        """The benchmark's text of a cell, node by node with its sources: ``|low~0|+|skip~0|none~1|+|high~0|none~1|low~2|``."""
        return write(arch)

    @classmethod
    def parse(cls, text: str) -> Arch:
        """What `format` writes.

        Raises:
            NetwrightError: another form, or an operator that is not in the space.
        """
        return read(text, cls.name, cls.benchmark, cls.known)
