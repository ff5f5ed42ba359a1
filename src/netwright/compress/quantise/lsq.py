"""Learned step size quantisation of the weights to 2..8 bits.

    w_q = s * round(clamp(w / s, -Qn, Qp)),        dL/dw = dL/dw_q * [-Qn <= w/s <= Qp]
    dL/ds = g * sum dL/dw_q * (round(w/s) - w/s  inside,  -Qn below,  Qp above),        g = 1 / sqrt(N Qp)

s starts at 2 mean|w| / sqrt(Qp). N is the number of weights that share s (equations 1 to 5 and section 2.2).

Differs from the paper: one step an output channel in place of one a layer; symmetric codes, Qn = Qp = 2^(b-1) - 1; the trained
parameter is log s, so that Adam moves a step by a share of itself and it stays positive; activations have 8 bits with ranges
that follow the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from netwright.compress.codes import Codes
from netwright.compress.compressor import Compressor, Stage
from netwright.compress.plan import WEIGHTED
from netwright.compress.quantise.posttraining import check_bits
from netwright.compress.trainee import CodeLayer, Int8Layer, Trainee, ends, float_plan, node_weights
from netwright.core.graph import Node
from netwright.core.paper import Paper
from netwright.design.execute import GraphModule
from netwright.design.trace import trace


class LearnedStep(torch.autograd.Function):
    """``s * round(clamp(w / s, -qn, qp))`` for w [O, ...] and s [O, 1, ...] (or a scalar), with the gradients above."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, s: Tensor, qn: int, qp: int) -> Tensor:
        v = w / s
        ctx.save_for_backward(v, s)
        ctx.limits = (qn, qp)
        return torch.round(v.clamp(-qn, qp)) * s

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        v, s = ctx.saved_tensors
        qn, qp = ctx.limits
        clipped = v.clamp(-qn, qp)
        inside = v == clipped
        step = torch.where(inside, torch.round(v) - v, clipped)
        share = math.sqrt(v.numel() / s.numel() * qp)
        return g * inside, (g * step).sum_to_size(s.shape) / share, None, None


class LSQLayer(CodeLayer):
    """Latent weights of `bits` bits in the forward pass, one learnt step an output channel."""

    def __init__(self, node: Node, weight: np.ndarray, bias: np.ndarray | None, bits: int):
        super().__init__(node, weight, bias)
        self.bits, self.top = bits, 2 ** (bits - 1) - 1
        start = 2 * self.weight.detach().abs().flatten(1).mean(1) / math.sqrt(self.top)
        self.log_step = nn.Parameter(start.clamp(min=1e-8).log())

    def effective(self) -> Tensor:
        return LearnedStep.apply(self.weight, self.per_channel(self.log_step.exp()), self.top, self.top)

    def codes(self) -> Codes:
        with torch.no_grad():
            step = self.log_step.exp()
            codes = torch.round((self.weight / self.per_channel(step)).clamp(-self.top, self.top)).to(torch.int8).cpu().numpy()
        return Codes(codes, step.cpu().numpy().astype(np.float64), 2 if self.bits == 2 else 8)


@dataclass(frozen=True)
class LSQInt(Compressor):
    """Weights of few bits whose steps are learnt, 8-bit activations.

    Attributes:
        bits: of a weight, 2..8.
        keep_first_last: first and last weighted layers in 8 bits, as in the paper.

    Raises:
        NetwrightError: `bits` is not one of 2..8.
    """

    bits: int = 4
    keep_first_last: bool = True

    name: ClassVar[str] = "lsqint"
    form: ClassVar[str] = "int8"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("lsq", 1.0, 2e-3),)
    paper: ClassVar[Paper] = Paper(
        "esser2020learned", "Learned Step Size Quantization",
        "Esser, Steven K. and McKinstry, Jeffrey L. and Bablani, Deepika and Appuswamy, Rathinakumar and Modha, Dharmendra S.",
        "ICLR", 2020, "https://arxiv.org/abs/1902.08153",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_bits(self.name, self.bits)

    def prepare(self, module: nn.Module, example: Tensor, calibration: Tensor) -> Trainee:
        """The simulation with latent weights from `module`."""
        p = float_plan(trace(module, example), calibration)
        kept = ends(p.graph) if self.keep_first_last else set()
        layers: dict[str, CodeLayer] = {}
        for node in p.graph:
            if node.op in WEIGHTED:
                w, b = node_weights(p.graph, node)
                layers[node.name] = Int8Layer(node, w, b) if node.name in kept else LSQLayer(node, w, b, self.bits)
        return Trainee(p, layers, calibration)

    def finish(self, trainee: nn.Module, calibration: Tensor) -> GraphModule:
        assert isinstance(trainee, Trainee)
        return trainee.integerise()
