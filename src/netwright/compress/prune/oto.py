"""Only train once: channels go to zero while the network trains, and what is left needs no further training.

A group x is all weights that write one channel (rows of the layer, batch norm, whatever is added or multiplied), so that
x = 0 makes the channel zero. After a share `start` of the training the groups with the least saliency that together hold
`target` of the MACs are called redundant; from then on every step of the optimiser, which gives a trial x^, is followed by

    x^ <- x^ * min(1, r(t) ||x_start|| / ||x^||),    r(t) = (end - t) / (end - start)      the penalty
    x  <- 0  if <x^, x> < epsilon ||x||^2,  else x^                                         half-space projection
    saliency = sum over the warm-up of |<x, dL/dx>|, divided by the MACs the group costs

A group at zero stays there. All redundant groups are zero at `end`; the rest of the training is the smaller network's.

Differs from the paper: the optimiser is the training engine's, so the penalty is a bound on the norm that falls with time
instead of a term lambda * x / ||x|| in the gradient; operators are not erased whole, a channel of each group stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from netwright.compress.calibrate import check
from netwright.compress.compressor import Stage
from netwright.compress.prune.pruner import Chosen, Masked, Pruner, choose
from netwright.core.errors import NetwrightError
from netwright.core.graph import Graph
from netwright.core.paper import Paper
from netwright.design.channels import Channels, Part
from netwright.design.execute import GraphModule


class HalfSpace(Masked):
    """The trainee; all of its state is in buffers. Units of all groups are numbered through: U of them."""

    saliency: Tensor
    redundant: Tensor
    zero: Tensor
    start: Tensor

    def __init__(self, graph: Graph, method: OTO):
        self.channels = Channels(graph)
        self.method = method
        self.groups = [g for g in self.channels.groups if g.exact]
        first = dict(zip((g.name for g in self.groups), np.cumsum([0, *(g.size for g in self.groups)]).tolist(), strict=False))
        self.first, self.units = first, sum(g.size for g in self.groups)
        placed = [(p, np.where(p.unit < 0, self.units, p.unit + first[g.name])) for g in self.groups for p in g.parts]
        placed = [(p, at) for p, at in placed if p.does != "follows"]
        super().__init__(graph, [p.key for p, _ in placed])
        self.parts: list[tuple[Part, str]] = []
        for number, (part, at) in enumerate(placed):
            self.register_buffer(f"units_{number}", torch.from_numpy(at), persistent=False)
            self.parts.append((part, f"units_{number}"))
            if part.does == "writes":
                name = self._previous(part.key)
                if name not in self._buffers:
                    self.register_buffer(name, self.value(part.key).detach().clone())
        for name in ("redundant", "zero"):
            self.register_buffer(name, torch.zeros(self.units, dtype=torch.bool))
        for name in ("saliency", "start"):
            self.register_buffer(name, torch.zeros(self.units))

    @staticmethod
    def _previous(key: str) -> str:
        return "previous_" + key.replace(".", "/")

    def _sums(self, term: Callable[[str], Tensor]) -> Tensor:
        """[U] of a term [shape of the parameter], summed over all weights that write each unit."""
        found = self.saliency.new_zeros(self.units + 1)  # the last one: positions outside the group
        for part, at in self.parts:
            if part.does == "writes":
                found.index_add_(0, getattr(self, at), term(part.key).movedim(part.axis, 0).reshape(len(part.unit), -1).sum(1))
        return found[:-1]

    @torch.no_grad()
    def follow(self, progress: float) -> None:
        """Judge the groups (before `start`), then shrink and project the redundant ones."""
        if progress < self.method.start:
            self.saliency += self._sums(self._taylor).abs()
            self._remember()
            return
        if not self.redundant.any():
            self.select()
        left = (self.method.end - progress) / (self.method.end - self.method.start)
        norm = self._sums(lambda k: self.value(k) ** 2).sqrt()
        factor = torch.where(self.redundant, (left * self.start / norm.clamp(min=1e-12)).clamp(0, 1), torch.ones_like(norm))
        inner = factor * self._sums(lambda k: self.value(k) * getattr(self, self._previous(k)))
        before = self._sums(lambda k: getattr(self, self._previous(k)) ** 2)
        crossed = inner < self.method.epsilon * before
        self.zero |= self.redundant & (crossed | (left <= 0))
        factor = torch.cat([factor.masked_fill(self.zero, 0), factor.new_ones(1)])
        kept = torch.cat([~self.zero, self.zero.new_ones(1)])
        for part, at in self.parts:
            shape = [-1 if i == part.axis else 1 for i in range(self.value(part.key).dim())]
            if part.does == "writes":
                self.value(part.key).mul_(factor[getattr(self, at)].reshape(shape))
            self.mask(part.key).logical_and_(kept[getattr(self, at)].reshape(shape))
        self._remember()

    def _taylor(self, key: str) -> Tensor:
        value = self.value(key)
        return value * value.grad if value.grad is not None else torch.zeros_like(value)

    def _remember(self) -> None:
        for key in {p.key for p, _ in self.parts if p.does == "writes"}:
            getattr(self, self._previous(key)).copy_(self.value(key))

    @torch.no_grad()
    def select(self) -> None:
        """Call the groups redundant whose removal reaches the target."""
        norm = self._sums(lambda k: self.value(k) ** 2).sqrt()
        judged = (self.saliency if self.saliency.any() else norm).double().cpu().numpy()
        saliency = {g.name: judged[self.first[g.name] :][: g.size] for g in self.groups}
        for name, units in choose(self.channels, saliency, self.method.target, self.method.multiple).items():
            self.redundant[[self.first[name] + i for i in units]] = True
        self.start.copy_(norm)

    def removed(self) -> Chosen:
        """Redundant channels by group."""
        marks = {g.name: self.redundant[self.first[g.name] :][: g.size] for g in self.groups}
        return {name: m.nonzero().flatten().tolist() for name, m in marks.items() if m.any()}


@dataclass(frozen=True)
class OTO(Pruner):
    """Channels that a half-space projection zeroes in training, erased without fine-tuning.

    Attributes:
        target: share of the multiply-accumulates to remove.
        start, end: shares of the training at which groups begin to shrink, and at which all redundant ones are zero.
        epsilon: of the half-space projection, in [0, 1); larger zeroes sooner.
        multiple: of channels that is left in large groups; 16 fills the float kernels of the C back end.
    """

    target: float = 0.5
    start: float = 0.1
    end: float = 0.35
    epsilon: float = 0.0
    multiple: int = 1

    name: ClassVar[str] = "oto"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("oto", 1.0, 2e-3),)
    paper: ClassVar[Paper] = Paper(
        "chen2023otov3",
        "OTOv3: Automatic Architecture-Agnostic Neural Network Training and Compression from Structured Pruning to Erasing "
        "Operators",
        "Chen, Tianyi and Ding, Tianyu and Zhu, Zhihui and Chen, Zeyu and Wu, HsiangTao and Zharkov, Ilya and Liang, Luming",
        "arXiv", 2023, "https://arxiv.org/abs/2312.09411", "S112",
    )  # fmt: skip
    also: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "chen2023otov2", "OTOv2: Automatic, Generic, User-Friendly",
            "Chen, Tianyi and Liang, Luming and Ding, Tianyu and Zhu, Zhihui and Zharkov, Ilya",
            "ICLR", 2023, "https://arxiv.org/abs/2303.06862",
        ),
    )  # fmt: skip

    def __post_init__(self) -> None:
        self.share("target")
        self.share("epsilon")
        if self.multiple < 1:
            raise NetwrightError(f"oto was asked for multiple = {self.multiple}. Give 1, or 8 or 16 for whole kernels.")
        if not 0 <= self.start < self.end < 1:
            raise NetwrightError(
                f"oto was asked to shrink channels from {self.start} to {self.end} of the training. Give 0 <= start < end < 1."
            )

    def trainee(self, graph: Graph) -> HalfSpace:
        """With a mask and the last weights beside every weight.

        Raises:
            NetwrightError: the network has too few channels that could be removed for the target.
        """
        found = HalfSpace(graph, self)
        choose(found.channels, {g.name: np.zeros(g.size) for g in found.groups}, self.target, self.multiple)  # say it now
        return found

    def finish(self, trainee: nn.Module, calibration: Tensor) -> GraphModule:
        """The network without its redundant channels; where `follow` was called to the end its outputs do not change."""
        check(calibration)
        assert isinstance(trainee, HalfSpace)
        if not trainee.redundant.any():  # the training was too short or did not say how far it is
            trainee.select()
        return GraphModule(Channels(trainee.to_graph()).remove(trainee.removed())).eval()
