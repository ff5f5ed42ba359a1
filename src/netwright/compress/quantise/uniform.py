"""Post-training uniform quantisation of the weights to 2..8 bits.

    q[o] = clamp(rint(W[o] / s[o]), -T, T),     W[o] ~ s[o] * q[o],     T = 2^(b-1) - 1

One step s[o] an output channel, found by the rule that finds the ranges of activations (section 3.1 of the paper):

    minmax      s = max|W| / T
    percentile  s = (99.99th percentile of |W|) / T
    mse         s = argmin |W - s clamp(rint(W / s), -T, T)|^2 over 22 clip points between 1 and 0.2 of the maximum

Differs from the paper: symmetric codes throughout (-2^(b-1) is not used), no cross-layer equalisation, no bias correction.
Codes of 3 to 7 bits are carried out by the operations of 8 bits; `stored_bits` counts what they need in a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from netwright.compress.calibrate import Rule, step_size
from netwright.compress.codes import Codes
from netwright.compress.quantise.posttraining import PostTraining, check_bits
from netwright.core.graph import Graph
from netwright.core.paper import Paper


def uniform_codes(w: np.ndarray, bits: int, rule: Rule = "mse") -> Codes:
    """Symmetric codes of `bits` bits for weights [O, ...], one step an output channel.

    Returns: codes of at most ``2**bits - 1`` values, marked as 2 bits where `bits` is 2, else as 8, as they are carried out.

    Raises:
        NetwrightError: `bits` is not one of 2..8.
    """
    top = 2 ** (check_bits("uniform_codes", bits) - 1) - 1
    rows = torch.from_numpy(np.array(w, np.float32)).flatten(1)
    scale = np.array([step_size(row, -top, top, rule) for row in rows])
    codes = np.rint(w / scale.reshape(-1, *[1] * (w.ndim - 1))).clip(-top, top).astype(np.int8)
    return Codes(codes, scale, 2 if bits == 2 else 8)


@dataclass(frozen=True)
class Uniform(PostTraining):
    """Uniform weights of few bits, one step an output channel.

    Attributes:
        bits: of a weight, 2..8.
        weights: how a channel's step is chosen: mse, minmax or percentile.

    Raises:
        NetwrightError: `bits` is not one of 2..8.
    """

    bits: int = 4
    weights: Rule = "mse"

    name: ClassVar[str] = "uniform"
    paper: ClassVar[Paper] = Paper(
        "nagel2021white", "A White Paper on Neural Network Quantization",
        "Markus Nagel and Marios Fournarakis and Rana Ali Amjad and Yelysei Bondarenko and Mart van Baalen and "
        "Tijmen Blankevoort",
        "arXiv", 2021, "https://arxiv.org/abs/2106.08295",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_bits(self.name, self.bits)

    def codes(self, graph: Graph, calibration: Tensor) -> dict[str, Codes]:
        return {name: uniform_codes(graph.value(graph[name], "weight"), self.bits, self.weights) for name in self.narrow(graph)}
