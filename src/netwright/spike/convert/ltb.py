"""Local threshold balancing with delayed evaluation: ANN to SNN from forward passes alone (Bu, Li, Yu; CVPR 2025).

The error of a converted network is bounded by sum_l (prod_{k>l} ||W_k||) ||S(z_l; theta_l) - relu(z_l)||, where S is the
time-averaged output of the neurons. It is lowered layer by layer (equations 9 to 12), for each channel:

    theta_c <- theta_c + 2 eta mean[(z_c - theta_c) [z_c > theta_c]],    z clipped to [0, theta] for the layers behind
    v(0)     = theta / 2,        output = theta s,       soft reset
    delay    = sum_l (theta_l - v_l(0)) / max_c E[relu(z_l)_c];   the output sums the steps delay..T-1, or the last four
               where T < delay + 4

The fixed point of the rule is the largest activation; few iterations stop below it, which favours few steps.

What differs: everything is integer (see `lower`); linear points get bipolar neurons; the delay is by default the one with the
least error of the logits on the calibration data (delay="paper" is the formula, which the official code leaves unset).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from netwright.core.paper import Paper
from netwright.spike.convert.balance import balance
from netwright.spike.convert.calibrated import Calibrated, Tick
from netwright.spike.convert.program import Program


@dataclass(frozen=True)
class LocalThresholdBalancing(Calibrated):
    """Paper: 1000 or more iterations of 100 images on ImageNet, eta = 1, T from 32 to 512.

    Attributes:
        rate: eta of the balancing rule.
        iterations: batches of `batch` images that balance the thresholds; the calibration data repeat as needed.
    """

    rate: float = 1.0
    iterations: int = 64
    batch: int = 100

    name: ClassVar[str] = "ltb"
    paper: ClassVar[Paper] = Paper(
        "bu2025inference", "Inference-Scale Complexity in ANN-SNN Conversion for High-Performance and Low-Power Applications",
        "Bu, Tong and Li, Maohua and Yu, Zhaofei", "CVPR", 2025, "https://arxiv.org/abs/2409.03368", "S223",
    )  # fmt: skip

    def thresholds(self, program: Program, calibration: Tensor, tick: Tick) -> Mapping[str, Tensor]:
        return balance(program, calibration, self.iterations, self.batch, self.rate, lambda i: tick("balance thresholds"))
