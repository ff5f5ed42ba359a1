"""What post-training quantisers share: which layers keep 8 bits, and what becomes of the codes.

    y[o] = s[o] * conv(x, q[o]),     q whole numbers of few bits from trained float weights, x codes of 8 bits

A method says which codes stand for the weights of a layer.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from netwright.compress.calibrate import Rule, check
from netwright.compress.codes import Codes
from netwright.compress.compressor import Compressor
from netwright.compress.integer import integerise
from netwright.compress.plan import WEIGHTED, plan
from netwright.compress.trainee import ends, float_plan
from netwright.core.errors import NetwrightError
from netwright.core.graph import Graph
from netwright.design.execute import GraphModule
from netwright.design.trace import trace

WIDTHS = range(2, 9)


def check_bits(who: str, bits: int) -> int:
    """A bit width as given, if weights can have it.

    Raises:
        NetwrightError: it is not a whole number from 2 to 8.
    """
    if bits not in WIDTHS:
        raise NetwrightError(f"{who} was asked for weights of {bits!r} bits; give a whole number from 2 to 8, or use a binariser")
    return int(bits)


@dataclass(frozen=True)
class PostTraining(Compressor):
    """Weights of few bits, calibrated 8-bit activations, no training.

    Attributes:
        rule: how an activation's range is chosen: mse, minmax or percentile.
        keep_first_last: first and last weighted layers in 8 bits (they are few weights and carry much of the accuracy).
    """

    rule: Rule = "mse"
    keep_first_last: bool = True

    form: ClassVar[str] = "int8"

    @abstractmethod
    def codes(self, graph: Graph, calibration: Tensor) -> Mapping[str, Codes]:
        """Codes by node name for the weighted nodes of a planned float graph; nodes without any get 8 bits."""

    def narrow(self, graph: Graph) -> list[str]:
        """The weighted nodes that may have fewer than 8 bits, in execution order."""
        kept = ends(graph) if self.keep_first_last else set()
        return [n.name for n in graph if n.op in WEIGHTED and n.name not in kept]

    def prepare(self, module: nn.Module, example: Tensor, calibration: Tensor) -> GraphModule:
        """The traced float network; raises Unsupported and DataError before anything is computed."""
        check(calibration)
        graph = trace(module, example)
        plan(graph)
        return GraphModule(graph).eval()

    def finish(self, trainee: nn.Module, calibration: Tensor) -> GraphModule:
        assert isinstance(trainee, GraphModule)
        graph = trainee.to_graph()
        codes = self.codes(float_plan(graph, calibration).graph, calibration)
        return integerise(graph, codes, calibration, rule=self.rule)
