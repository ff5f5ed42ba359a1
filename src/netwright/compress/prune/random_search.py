"""Random search: of several random sparse networks the one that starts best is trained. A baseline for all that choose.

    p_i      = softmax(f(x; m_i * w)),     m_1 .. m_C random masks of one sparsity, w the untrained weights
    score(i) = mean over batches of  1/2 sum |p_i - q|,     q the targets: for labels the mean of 1 - p_i(label)
    m        = the mask with the least score;     then training with it

Masks are drawn over nodes (channels, neurons, heads), and what is masked is then removed; or over weights, which leaves zeros
(`random_ticket`). Nothing is trained while masks are compared. All of them see the same batches; q comes from the gradient that
the trainer sends back for the first one: cross-entropy has ``dL/df_1 = (p_1 - q) / N``. The paper finds that masks chosen so end
where others end: this is what a method that chooses has to beat.

Differs from the paper: targets, labels or a teacher's, are compared by total variation; nodes are channels of any network and
their share is one of multiply-accumulates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from netwright.compress.calibrate import check
from netwright.compress.compressor import Stage
from netwright.compress.prune.pruner import Chosen, Masked, Pruner, choose, layer_weights
from netwright.compress.prune.random_ticket import Ratios, draw
from netwright.core.errors import NetwrightError, UnknownName
from netwright.core.graph import Graph
from netwright.core.paper import Paper
from netwright.design.channels import Channels
from netwright.design.execute import GraphModule

ONE = 2**40  # scores are counted in whole numbers: a moving average of the weights copies those as they are


class Heard(torch.autograd.Function):
    """`out` as it is; in the backward pass its gradient goes to `hear` and nowhere else."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, out: Tensor, hear: Callable[[Tensor], None]) -> Tensor:
        ctx.hear = hear
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        ctx.hear(g)
        return g.new_zeros(()), None, None


class Candidates(Masked):
    """The trainee: a network with one of several masks; while `searching` it only compares them."""

    total: Tensor
    seen: Tensor
    searching: Tensor

    def __init__(self, graph: Graph, method: RandomSearch):
        self.method, self.chosen = method, list[Chosen]()
        if method.units == "weights":
            super().__init__(graph, layer_weights(graph))
        else:
            channels = Channels(graph)
            self.groups = [g for g in channels.groups if g.exact]
            for i in range(method.candidates):
                dice = np.random.default_rng([method.seed, i])
                self.chosen.append(choose(channels, {g.name: dice.random(g.size) for g in self.groups}, method.target))
            super().__init__(graph, [p.key for g in self.groups for p in g.parts if p.does == "reads"])
        self.register_buffer("total", torch.zeros(method.candidates, dtype=torch.int64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("searching", torch.zeros((), dtype=torch.bool))
        self.take(0)

    @property
    def scores(self) -> Tensor:
        """[C] mean score of each mask; 0 where none was seen."""
        return self.total.double() / ONE / max(1, int(self.seen))

    @property
    def best(self) -> int:
        return int(self.total.argmin())

    @torch.no_grad()
    def take(self, i: int) -> None:
        """Put mask i in place."""
        if self.method.units == "weights":
            draw(self, self.method.target, self.method.ratios, self.method.seed * 1_000_003 + i)
            return
        for key in self.masked:
            self.mask(key).fill_(True)
        for group in self.groups:
            for part in group.parts:
                if part.does == "reads":
                    keep = torch.from_numpy(~np.isin(part.unit, self.chosen[i].get(group.name, [])))
                    mask = self.mask(part.key)
                    mask.logical_and_(keep.to(mask.device).reshape([-1 if a == part.axis else 1 for a in range(mask.dim())]))

    def forward(self, *inputs: Tensor, visit: Any = None) -> Any:
        if not (self.searching and self.training and torch.is_grad_enabled()):
            return super().forward(*inputs, visit=visit)
        outs = []
        with torch.no_grad():
            statistics = {k: b.clone() for k, b in self.named_buffers() if b.is_floating_point()}
            for i in range(self.method.candidates):
                self.take(i)
                outs.append(super().forward(*inputs, visit=visit))
            for k, b in self.named_buffers():
                if k in statistics:
                    b.copy_(statistics[k])

        def hear(g: Tensor) -> None:
            targets = outs[0].softmax(1) - g * (g.numel() / g.shape[1])
            misses = torch.stack([(o.softmax(1) - targets).abs().sum(1).mean() / 2 for o in outs])
            self.total += (misses.double() * ONE).round().long()
            self.seen += 1

        return Heard.apply(torch.zeros((), device=outs[0].device, requires_grad=True), outs[0], hear)

    def written(self) -> Graph:
        """The graph without masked nodes, or with zeros for masked weights."""
        graph = self.to_graph()
        return graph if self.method.units == "weights" else Channels(graph).remove(self.chosen[self.best])


@dataclass(frozen=True)
class RandomSearch(Pruner):
    """The best of several random tickets, judged before training; give an untrained network.

    Attributes:
        target: share to remove, of the multiply-accumulates (nodes) or of the weights.
        units: "nodes", which makes the network smaller, or "weights", which makes it sparse.
        candidates: number of masks that are compared.
        ratios: how zeros are shared out over the layers, "erk" or "uniform"; for weights.
        seed: of the masks.

    Raises:
        NetwrightError: a target outside [0, 1), no candidates, or a network without enough nodes to remove.
        UnknownName: other units or ratios.
    """

    target: float = 0.5
    units: Literal["nodes", "weights"] = "nodes"
    candidates: int = 8
    ratios: Ratios = "erk"
    seed: int = 0

    name: ClassVar[str] = "random_search"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("search", 0.05, 2e-3), Stage("train", 0.95, 2e-3))
    paper: ClassVar[Paper] = Paper(
        "farahani2024random", "Random Search as a Baseline for Sparse Neural Network Architecture Search",
        "Farahani, Rezsa", "arXiv", 2024, "https://arxiv.org/abs/2403.08265", "S099",
    )  # fmt: skip

    def __post_init__(self) -> None:
        self.share("target")
        if self.candidates < 1:
            raise NetwrightError(f"random_search was asked to compare {self.candidates} masks. Give at least one.")
        for kind, value, known in (
            ("unit", self.units, ["nodes", "weights"]),
            ("layerwise ratio", self.ratios, ["erk", "uniform"]),
        ):
            if value not in known:
                raise UnknownName(kind, value, known)

    def trainee(self, graph: Graph) -> Candidates:
        return Candidates(graph, self)

    def begin(self, trainee: nn.Module, stage: Stage) -> nn.Module:
        """Compare ("search"), or take the best mask ("train")."""
        assert isinstance(trainee, Candidates)
        trainee.searching.fill_(stage.name == "search")
        if stage.name == "train":
            trainee.take(trainee.best)
        return trainee

    def finish(self, trainee: nn.Module, calibration: Tensor) -> GraphModule:
        """The network of the best mask with its trained weights."""
        check(calibration)
        assert isinstance(trainee, Candidates)
        trainee.take(trainee.best)
        return GraphModule(trainee.written()).eval()
