"""ScaleKD: any student learns from a vision transformer's features, in two views and through the teacher's own layers.

    cap(F) = FFN(LN(A)),    A = softmax( Q (K(F + pos))^T / sqrt(d) ) V(F + pos)         cross-attention projector, Q learned
    dfm    = a D(cap_1(F), T) + b D(phi(cap_2(F)), phi(T)),    D(X, Y) = 1/N || X/|X| - Y/|Y| ||^2 (per token)
    phi(X) = IDCT( DCT(X) without the zero frequency ) = X - mean of X over the tokens
    tpp    = dfm of teacher_rest(cap(F_early)) against T
    L      = CE + l KL(teacher || student) + dfm + tpp

F_early and F are the student's last two stages, T the output of the teacher's last stage. The projector asks with the
teacher's tokens, so that student and teacher may differ in resolution, width and kind; it takes a feature map
[N, C, H, W] or tokens [N, T, C]. The zero frequency carries most of the energy, and without it the rest is seen too. In the
third part the student's early features run through the teacher's own last layers, and what comes out is the query Q for
the last stage: so the student meets the teacher's parameters. All projectors are dropped after training.

Differs from the paper: phi is computed by its meaning, without a transform; the student's features enter through a
linear layer and a layer norm (the paper: 3 x 3 convolution and batch norm), so that tokens enter too; the teacher's first
layers run again in the third part, where their output is replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.init import trunc_normal_

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.train.distil.kd import soft_loss
from netwright.train.distil.role import Distilled, FeatureDistillation, Seen, frozen, sample, tapped

VIEWS = ("spatial", "frequency")


def tokens(x: Tensor) -> Tensor:
    """A feature map [N, C, H, W] or tokens [N, T, C] as tokens [N, T, C].

    Raises:
        NetwrightError: neither of the two.
    """
    if x.dim() not in (3, 4):
        raise NetwrightError(f"ScaleKD compares feature maps [N, C, H, W] or tokens [N, T, C]; a layer gives {tuple(x.shape)}.")
    return x.flatten(2).transpose(1, 2) if x.dim() == 4 else x


def without_mean(x: Tensor) -> Tensor:
    """phi: tokens [N, T, C] without the zero frequency of each channel."""
    return x - x.mean(1, keepdim=True)


def distance(x: Tensor, y: Tensor) -> Tensor:
    """D of tokens [N, T, C]: squared distance of the directions of the tokens, summed over tokens, mean over the batch."""
    return (F.normalize(x, dim=2) - F.normalize(y, dim=2)).square().sum() / len(x)


class Projector(nn.Module):
    """cap: student's tokens [N, T_s, C_s] -> teacher's [N, T_t, C_t]; `query` [N, T_t, C_t] stands in for the learned one."""

    def __init__(self, student: Tensor, teacher: Tensor, heads: int):
        super().__init__()
        _, places, width = student.shape
        _, questions, channels = teacher.shape
        if channels % heads:
            raise NetwrightError(
                f"ScaleKD's {heads} heads do not divide the teacher's {channels} channels; set `heads` to a divisor."
            )
        self.enter = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU())
        self.position = nn.Parameter(trunc_normal_(torch.empty(1, places, width), std=0.02))
        self.query = nn.Parameter(trunc_normal_(torch.empty(1, questions, channels), std=0.02))
        self.ask = nn.Sequential(nn.Linear(channels, channels), nn.ReLU())
        self.attention = nn.MultiheadAttention(channels, heads, kdim=width, vdim=width, batch_first=True)
        self.norm = nn.LayerNorm(channels)
        self.feed = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor, query: Tensor | None = None) -> Tensor:
        x = self.enter(x) + self.position
        asked = self.ask(self.query.expand(len(x), -1, -1) if query is None else query)
        found, _ = self.attention(asked, x, x, need_weights=False)
        out: Tensor = found + self.feed(self.norm(found))
        return out


class Mimicking(nn.Module):
    """dfm and tpp: (student's, teacher's, x) -> scalar."""

    def __init__(self, method: ScaleKD, teacher: nn.Module, own: Seen, target: Seen):
        super().__init__()
        self.method = method
        self._teacher = (teacher,)
        (s_early, s_last), (t_early, t_last) = method.student_layers, method.teacher_layers
        pairs = {
            "early": (own.features[s_early], target.features[t_early]),
            "last": (own.features[s_last], target.features[t_last]),
        }
        self.projectors = nn.ModuleDict(
            {
                f"{stage}_{view}": Projector(tokens(s), tokens(t), method.heads)
                for stage, (s, t) in pairs.items()
                for view in VIEWS
            }
        )

    def through(self, projected: Tensor, early: Tensor, x: Tensor) -> Tensor:
        """The teacher's last stage on tokens in place of its own early features: tokens [N, T, C]."""
        instead = projected.transpose(1, 2).reshape(early.shape) if early.dim() == 4 else projected
        first, last = self.method.teacher_layers
        with tapped(self._teacher[0], self.method.teacher_layers, {first: instead}) as seen:
            self._teacher[0](x)
        return tokens(seen[last])

    def forward(self, student: Seen, teacher: Seen, x: Tensor) -> Tensor:
        method = self.method
        s_early, s_last = (tokens(student.features[name]) for name in method.student_layers)
        early, target = teacher.features[method.teacher_layers[0]], tokens(teacher.features[method.teacher_layers[1]])
        terms = [method.logits * soft_loss(student.logits, teacher.logits)] if method.logits else []
        for view, weight in zip(VIEWS, (method.spatial, method.frequency), strict=True):
            met = self.through(self.projectors[f"early_{view}"](s_early), early, x)
            last = self.projectors[f"last_{view}"](s_last, met)
            for found in (met, last):
                pair = (found, target) if view == "spatial" else (without_mean(found), without_mean(target))
                terms.append(weight * distance(*pair))
        return torch.stack(terms).sum()


@dataclass(frozen=True)
class ScaleKD(FeatureDistillation):
    """`student_layers`, `teacher_layers`: the last two stages of each, names of submodules, the earlier one first.

    `spatial` and `frequency` weigh the two views (0.08 and 0.06 in the authors' code), `logits` the KL, `heads` are those
    of the attention.
    """

    student_layers: tuple[str, str]
    teacher_layers: tuple[str, str]
    spatial: float = 0.08
    frequency: float = 0.06
    logits: float = 1.0
    heads: int = 4

    name: ClassVar[str] = "scalekd"
    paper: ClassVar[Paper] = Paper(
        "fan2024scalekd", "ScaleKD: Strong Vision Transformers Could Be Excellent Teachers",
        "Fan, Jiawei and Li, Chao and Liu, Xiaolong and Yao, Anbang", "NeurIPS", 2024,
        "https://arxiv.org/abs/2411.06786", "S151",
    )  # fmt: skip

    def wrap(self, student: nn.Module, teacher: nn.Module, example: Tensor) -> Distilled:
        """As the role says; both networks must give logits of the same classes where `logits` is not 0."""
        own, target = sample(student, self.student_layers, example), sample(teacher, self.teacher_layers, example)
        guide = frozen(teacher)
        return Distilled(student, guide, Mimicking(self, guide, own, target), self.student_layers, self.teacher_layers)
