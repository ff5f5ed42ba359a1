"""The cell of NAS-Bench-201 and of SpikeNAS-Bench: four nodes, an operator on each of the six edges between them.

    x1 = o01(x0),   x2 = o02(x0) + o12(x1),   x3 = o03(x0) + o13(x1) + o23(x2)                [N, C, H, W] -> [N, C, H, W]

Written ``|o01~0|+|o02~0|o12~1|+|o03~0|o13~1|o23~2|``, node by node with its sources. ``none`` brings nothing (a node that
nothing reaches is zero), ``skip`` and ``skip_connect`` bring x as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from netwright.core.errors import NetwrightError
from netwright.core.space import Arch

EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
PASS = ("skip", "skip_connect")


@dataclass(frozen=True)
class Operators:
    """The operator on each edge; they may be domains (then what they belong to is a space)."""

    e01: Any
    e02: Any
    e03: Any
    e12: Any
    e13: Any
    e23: Any

    def operation(self, a: int, b: int) -> str:
        return str(getattr(self, f"e{a}{b}"))


class Cell(nn.Module):
    """One cell.

    Args:
        operators: names by edge.
        make: name -> the module of that operator; None for those that need none.
    """

    def __init__(self, operators: Operators, make: Callable[[str], nn.Module | None]):
        super().__init__()
        self.operators = operators
        self.edges = nn.ModuleDict()
        for a, b in EDGES:
            if (module := make(name := operators.operation(a, b))) is not None:
                self.edges[f"e{a}{b}_{name}"] = module

    def along(self, a: int, b: int, x: Tensor) -> Tensor | None:
        name = self.operators.operation(a, b)
        if (key := f"e{a}{b}_{name}") in self.edges:
            y: Tensor = self.edges[key](x)
            return y
        return x if name in PASS else None

    def forward(self, x: Tensor) -> Tensor:
        nodes = [x]
        for b in (1, 2, 3):
            arrived = [y for a in range(b) if (y := self.along(a, b, nodes[a])) is not None]
            nodes.append(sum(arrived[1:], arrived[0]) if arrived else torch.zeros_like(x))
        return nodes[3]


def write(arch: Arch) -> str:
    """``|o~0|+|o~0|o~1|+|o~0|o~1|o~2|``."""
    return "+".join("|" + "".join(f"{arch[f'e{a}{b}']}~{a}|" for a in range(b)) for b in (1, 2, 3))


def read(text: str, space: str, benchmark: str, operations: Sequence[str]) -> Arch:
    """What `write` gives, as an architecture of the space named `space`.

    Raises:
        NetwrightError: another form, or an operator that is not among `operations`.
    """
    found = re.findall(r"([^|+~]+)~(\d)\|", text)
    values = {f"e{a}{b}": name for (name, a), b in zip(found, (1, 2, 2, 3, 3, 3), strict=False)}
    if set(values) != {f"e{a}{b}" for a, b in EDGES} or not set(values.values()) <= set(operations):
        raise NetwrightError(
            f"{text!r} is no cell of {benchmark}. Write |o~0|+|o~0|o~1|+|o~0|o~1|o~2| with o of {', '.join(operations)}."
        )
    arch = Arch(space, tuple((f"e{a}{b}", values[f"e{a}{b}"]) for a, b in EDGES))
    if write(arch) != text:
        raise NetwrightError(f"{text!r} is no cell of {benchmark}; the nearest is {write(arch)!r}.")
    return arch
