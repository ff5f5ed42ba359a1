"""The number of parameters: the baseline that every other proxy must beat.

    score = number of learned values, shared ones counted once

What training-free scores are worth stands beside it in Ning et al., Evaluating Efficient Performance Estimators of Neural
Architectures, NeurIPS 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from netwright.core.paper import Paper
from netwright.estimate.proxies.proxy import Loss, Proxy


@dataclass(frozen=True)
class Parameters(Proxy):
    """Number of learned values, shared ones once."""

    name: ClassVar[str] = "parameters"
    needs = "shape"
    paper: ClassVar[Paper] = Paper(
        "ning2021evaluating", "Evaluating Efficient Performance Estimators of Neural Architectures",
        "Ning, Xuefei and Tang, Changcheng and Li, Wenshuo and Zhou, Zixuan and Liang, Shuang and Yang, Huazhong and Wang, Yu",
        "NeurIPS", 2021, "https://arxiv.org/abs/2008.03064",
    )  # fmt: skip

    def measure(self, network: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> float:
        return sum(p.numel() for p in network.parameters())
