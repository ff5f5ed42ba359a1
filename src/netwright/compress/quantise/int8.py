"""Post-training quantisation to 8 bits, integer-only inference.

Weights: symmetric, one scale an output channel, ``q[o] = rint(W[o] / s[o])``, ``s[o] = max|W[o]| / 127`` (section 2.1 and
the per-channel granularity of the white paper that followed). Activations: one static scale a tensor from calibration data.
Sums are 32-bit; rescaling is a fixed-point multiplication and a shift (equations 5 and 6). Batch norm is folded into that
multiplication rather than into the weights, so that the codes do not depend on it.

Differs from the paper: zero point 0 throughout (unsigned codes after a rectifier use all 256 levels, so nothing is lost
there), per-channel weights, clip points by least squared error in place of moving extremes, no training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from netwright.compress.calibrate import Rule, check
from netwright.compress.compressor import Compressor
from netwright.compress.integer import integerise
from netwright.compress.plan import plan
from netwright.core.paper import Paper
from netwright.design.execute import GraphModule
from netwright.design.trace import trace


@dataclass(frozen=True)
class Int8(Compressor):
    """Per-channel 8-bit weights, calibrated 8-bit activations, no training.

    Attributes:
        rule: how an activation's range is chosen: mse, minmax or percentile.
    """

    rule: Rule = "mse"

    name: ClassVar[str] = "int8"
    form: ClassVar[str] = "int8"
    paper: ClassVar[Paper] = Paper(
        "jacob2018quantization",
        "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
        "Benoit Jacob and Skirmantas Kligys and Bo Chen and Menglong Zhu and Matthew Tang and Andrew Howard and Hartwig Adam "
        "and Dmitry Kalenichenko",
        "CVPR",
        2018,
        "https://arxiv.org/abs/1712.05877",
    )

    def prepare(self, module: nn.Module, example: Tensor, calibration: Tensor) -> GraphModule:
        """The traced float network; raises Unsupported and DataError before anything is computed."""
        check(calibration)
        graph = trace(module, example)
        plan(graph)
        return GraphModule(graph).eval()

    def finish(self, trainee: nn.Module, calibration: Tensor) -> GraphModule:
        assert isinstance(trainee, GraphModule)
        return integerise(trainee, calibration=calibration, rule=self.rule)
