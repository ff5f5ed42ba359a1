"""Threshold-dependent batch norm (tdBN).

    y = alpha theta gamma (x - mean) / sqrt(var + eps) + beta,    gamma = 1, beta = 0 at first

Statistics over time, batch and space together. The currents start with the standard deviation alpha theta, so that neurons
of threshold theta neither fall silent nor always fire, whatever the depth. alpha = 1, and 1/sqrt(n) where n such paths are
added up (in a residual block 1/sqrt(2)). Moving statistics as in batch norm, momentum 0.1. Zheng et al. 2021.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from netwright.core.paper import Paper
from netwright.spike.norms.norm import Norm


class ThresholdBN(Norm):
    """`theta`: threshold of the neurons behind the norm; `alpha`: 1/sqrt(number of paths that are summed)."""

    name: ClassVar[str] = "tdbn"
    paper: ClassVar[Paper] = Paper(
        "zheng2021tdbn", "Going Deeper with Directly-Trained Larger Spiking Neural Networks",
        "Zheng, Hanle and Wu, Yujie and Deng, Lei and Hu, Yifan and Li, Guoqi", "AAAI", 2021, "https://arxiv.org/abs/2011.05280",
    )  # fmt: skip

    def __init__(self, channels: int, theta: float = 1.0, alpha: float = 1.0, momentum: float = 0.1, eps: float = 1e-5):
        super().__init__(channels, eps)
        self.gain, self.momentum = alpha * theta, momentum

    def gather(self, mean: Tensor, var: Tensor, images: int) -> None:
        self.mean.lerp_(mean, self.momentum)
        self.var.lerp_(var, self.momentum)
