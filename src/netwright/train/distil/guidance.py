"""Guidance: a network that is hard to train takes over the inductive bias of one that is not, layer by layer.

    L = CE(f(x), y) + w sum_(i, j) [ 1 - CKA(A_i(x), G_j(x)) ],        A target's, G guide's activations [N, features]
    CKA(X, Y) = ||Yc^T Xc||_F^2 / ( ||Xc^T Xc||_F ||Yc^T Yc||_F ),     Xc, Yc centred over the batch

The guide is frozen. A trained one hands on what it knows and how it is built, one with random weights how it is built
alone. CKA needs no adapters: it compares which inputs look alike to each network, whatever their widths.
Its gradient grows as the activations shrink: start a deep target so that signals keep their size (He initialisation), or
the alignment drowns the task. Computed from the N x N Gram matrices, which are smaller than the features of a layer.
Differs from the paper: layers are paired by the caller (the paper: evenly over the depth).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.train.distil.role import Distilled, FeatureDistillation, Seen, frozen, sample


def cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear centred kernel alignment of x [N, ...] and y [N, ...], in [0, 1]; 0 where one does not vary.

    Raises:
        NetwrightError: fewer than two examples, or not as many of both.
    """
    if len(x) != len(y) or len(x) < 2:
        raise NetwrightError(f"CKA needs two or more examples, as many of both; got {len(x)} and {len(y)}. Use larger batches.")

    def gram(z: Tensor) -> Tensor:
        z = z.flatten(1)
        z = z - z.mean(0)
        return z @ z.T

    k, m = gram(x), gram(y)
    return (k * m).sum() / (k.norm() * m.norm()).clamp(min=torch.finfo(k.dtype).tiny)


@dataclass(frozen=True)
class Guidance(FeatureDistillation):
    """`layers`: (target's layer, guide's layer) pairs, names of submodules; `weight` of the alignment (1 in the paper)."""

    layers: tuple[tuple[str, str], ...]
    weight: float = 1.0

    name: ClassVar[str] = "guidance"
    paper: ClassVar[Paper] = Paper(
        "subramaniam2025training", "Training the Untrainable: Introducing Inductive Bias via Representational Alignment",
        "Subramaniam, Vighnesh and Mayo, David and Conwell, Colin and Poggio, Tomaso and Katz, Boris and Cheung, Brian"
        " and Barbu, Andrei", "NeurIPS", 2025, "https://arxiv.org/abs/2410.20035", "S018",
    )  # fmt: skip

    def similarity(self, student: Seen, teacher: Seen) -> Tensor:
        """Mean CKA over the pairs of layers."""
        return torch.stack([cka(student.features[a], teacher.features[b]) for a, b in self.layers]).mean()

    def wrap(self, student: nn.Module, teacher: nn.Module, example: Tensor) -> Distilled:
        """As the role says; `teacher` is the guide, trained or not."""
        if not self.layers:
            raise NetwrightError("Guidance aligns pairs of layers and got none: give layers=((target's, guide's), ...).")
        own, theirs = dict.fromkeys(a for a, _ in self.layers), dict.fromkeys(b for _, b in self.layers)
        sample(student, tuple(own), example)
        sample(teacher, tuple(theirs), example)

        def match(student: Seen, teacher: Seen, x: Tensor) -> Tensor:
            return self.weight * len(self.layers) * (1 - self.similarity(student, teacher))

        return Distilled(student, frozen(teacher), match, tuple(own), tuple(theirs))
