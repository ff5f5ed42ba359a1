"""MEAL V2: the student matches the mean of several teachers' probabilities, and nothing else.

    p_T = 1/K sum_k softmax(t_k),        L = KL(p_T || softmax(s)) + d * L_D
    L_D = -1/2 E[ log D(p_T) + log(1 - D(p_s)) ],        D learns to tell the two, the student to be taken for the teachers

No labels: what the teachers say of an image is its target, so that smoothing or mixing of labels has nothing to add. D is
three linear layers on the probabilities and is dropped after training. A student that has been trained already is the
start that the paper recommends, with little or no weight decay::

    wrapped = MEAL().wrap(student, Ensemble([t1, t2]), example)
    fit(wrapped, data, recipe.with_(weight_decay=0.0), loss=wrapped.loss)

`Ensemble` by itself is a teacher for `fit`: with ``distil_weight=1, distil_temperature=1`` that is MEAL without D.
Differs from the paper: one gradient for both players, turned round where it passes from D to the student (the paper
writes min-max; its code adds both losses); leaky ReLU in D, whose few units could all die where there are few classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.train.distil.kd import soft_loss
from netwright.train.distil.role import Distilled, FeatureDistillation, Seen, frozen, sample


class Ensemble(nn.Module):
    """Teachers as one: [N, ...] -> the log of the mean of their probabilities [N, classes], whose softmax is that mean.

    Raises:
        NetwrightError: no teacher, or (in a call) other numbers of classes.
    """

    def __init__(self, teachers: Sequence[nn.Module]):
        super().__init__()
        if not teachers:
            raise NetwrightError("An ensemble needs at least one teacher; got none.")
        self.teachers = nn.ModuleList(teachers)

    def forward(self, x: Tensor) -> Tensor:
        said = [F.log_softmax(t(x), 1) for t in self.teachers]
        if len({s.shape for s in said}) > 1:
            raise NetwrightError(f"Teachers of an ensemble need the same classes; outputs are {[tuple(s.shape) for s in said]}.")
        return torch.stack(said).logsumexp(0) - torch.tensor(float(len(said)), device=x.device).log()


class _Turn(torch.autograd.Function):
    """x, with the gradient turned round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return -g


class Similarity(nn.Module):
    """KL to the ensemble and the discriminator's game: (student's, teachers', x) -> scalar."""

    def __init__(self, classes: int, weight: float):
        super().__init__()
        self.weight = weight
        half, quarter = max(classes // 2, 1), max(classes // 4, 1)
        inner = nn.Linear(classes, half), nn.LeakyReLU(0.2), nn.Linear(half, quarter), nn.LeakyReLU(0.2)
        self.discriminator = nn.Sequential(*inner, nn.Linear(quarter, 1))

    def game(self, student: Tensor, teacher: Tensor) -> Tensor:
        """L_D from logits [N, classes]; the student's gradient is turned round."""
        p = torch.cat([teacher.softmax(1), _Turn.apply(student.softmax(1))])
        real = torch.cat([torch.ones(len(teacher)), torch.zeros(len(student))]).to(p)
        return F.binary_cross_entropy_with_logits(self.discriminator(p).squeeze(1), real)

    def forward(self, student: Seen, teacher: Seen, x: Tensor) -> Tensor:
        loss = soft_loss(student.logits, teacher.logits)
        return loss + self.weight * self.game(student.logits, teacher.logits) if self.weight else loss


@dataclass(frozen=True)
class MEAL(FeatureDistillation):
    """`discriminator` weighs the game; 0 leaves the KL to the mean of the teachers alone."""

    discriminator: float = 1.0

    name: ClassVar[str] = "meal_v2"
    paper: ClassVar[Paper] = Paper(
        "shen2020meal", "MEAL V2: Boosting Vanilla ResNet-50 to 80%+ Top-1 Accuracy on ImageNet without Tricks",
        "Shen, Zhiqiang and Savvides, Marios", "arXiv preprint arXiv:2009.08453", 2020,
        "https://arxiv.org/abs/2009.08453", "S210",
    )  # fmt: skip

    def wrap(self, student: nn.Module, teacher: nn.Module, example: Tensor) -> Distilled:
        """As the role says; several teachers go in as an `Ensemble`."""
        own, target = sample(student, (), example).logits, sample(teacher, (), example).logits
        if own.shape != target.shape:
            raise NetwrightError(
                f"Student and teacher need the same classes; they give {tuple(own.shape)} and {tuple(target.shape)}."
            )
        return Distilled(student, frozen(teacher), Similarity(own.shape[1], self.discriminator), hard_weight=0.0)
