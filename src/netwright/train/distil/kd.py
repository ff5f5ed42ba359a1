"""Knowledge distillation: the student matches the teacher's softened probabilities.

    L = (1 - w) L_hard + w T^2 KL( softmax(t / T) || softmax(s / T) )

T^2 keeps the size of the soft gradient, which falls as 1 / T^2 (Hinton et al., section 2). Logits s, t: [N, classes].
With the same teacher, KL and the cross-entropy of the paper have the same gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from netwright.core.paper import Paper
from netwright.train.distil.role import Distillation


def soft_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(teacher || student), the mean over the batch and over positions of [N, classes, T]; no gradient for the teacher."""
    s = F.log_softmax(student / temperature, 1)
    t = F.log_softmax(teacher.detach() / temperature, 1)
    return F.kl_div(s, t, reduction="none", log_target=True).sum(1).mean() * temperature**2


@dataclass(frozen=True)
class KnowledgeDistillation(Distillation):
    """Hinton's loss. The paper asks for a small weight on the labels (here 1 - 0.9) and tries T from 1 to 20."""

    weight: float = 0.9
    temperature: float = 4.0

    name: ClassVar[str] = "kd"
    paper: ClassVar[Paper] = Paper(
        key="hinton2015distilling",
        title="Distilling the Knowledge in a Neural Network",
        authors="Geoffrey Hinton and Oriol Vinyals and Jeff Dean",
        venue="NIPS Deep Learning and Representation Learning Workshop",
        year=2015,
        url="https://arxiv.org/abs/1503.02531",
    )

    def __call__(self, student: Tensor, teacher: Tensor, hard: Tensor) -> Tensor:
        return (1 - self.weight) * hard + self.weight * soft_loss(student, teacher, self.temperature)
