"""AIO-P: a k-GNN learnt on one task, frozen, an adapter for each further task, and labels scaled so that tasks agree.

    F(x)     = 1 + log10( 1 + work(x) )                                  work: see `graph_encoder`, 10^9 MACs of a traced network
    t        = ( y / F - mean ) / deviation                              of a task's labels;  y = ( t deviation + mean ) F  back
    base     h_l = layer_l( h_(l-1) ),  g = graph( h_L )                 learnt on the first task, with a head on g; then frozen
    adapter  a_l = layer_l( [ h_l, a_(l-1) ] ),  a_0 = x                 one for each further task k, with a head on [ g, g_k ]
    y(x)     = F ( mean + deviation * mean_k head_k( [ g, g_k ] ) )      a new task: the heads alone are tuned, to its labels

With labels of the new task, mean and deviation are theirs. Without, those of the first task: ranks are all that can be had.
Without adapters the base's own head is tuned, without a pre-trained base everything is learnt from the task's labels.

Labels are normal scores, moved so that the smallest is 1, since a quotient by work needs positive ones: a score twice as high
above the worst counts as much with twice the F. Differs from the paper: tasks are tables of cells instead of detection,
segmentation and pose estimation; no pseudo-labels by shared heads; layers pass messages both ways (`graph_encoder`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.estimate.predictors.graph_encoder import Batch, Encoder, Graphs, Reader, Rows, descend, perceptron
from netwright.estimate.predictors.role import Learned, Predictor, normal_scores
from netwright.estimate.tables.features import Array, Features


@dataclass(frozen=True)
class Scaling:
    """Mean and deviation of the quotients of positive labels and F; `low` is what makes labels positive."""

    mean: float
    deviation: float
    low: float
    by_work: bool

    @classmethod
    def of(cls, y: Array, graphs: Graphs, by_work: bool) -> Scaling:
        low = float(y.min()) - 1
        quotients = (y - low) / cls.divisor(graphs, by_work)
        return cls(float(quotients.mean()), float(quotients.std()) or 1.0, low, by_work)

    @staticmethod
    def divisor(graphs: Graphs, by_work: bool) -> Array:
        """F [N]; 1 where work does not count."""
        return np.asarray(1 + np.log10(1 + graphs.work * by_work))

    def scale(self, y: Array, graphs: Graphs) -> Array:
        """t [n] of labels."""
        return np.asarray(((y - self.low) / self.divisor(graphs, self.by_work) - self.mean) / self.deviation)

    def back(self, t: Array, graphs: Graphs) -> Array:
        """Labels [N] of t."""
        return np.asarray((t * self.deviation + self.mean) * self.divisor(graphs, self.by_work) + self.low)


@dataclass(frozen=True)
class Backbone:
    """What was learnt before: the frozen base with its head, the adapters with theirs, and the first task's scaling."""

    reader: Reader
    base: Encoder
    head: nn.Sequential
    scaling: Scaling
    adapters: tuple[tuple[Encoder, nn.Sequential], ...] = ()

    @property
    def heads(self) -> tuple[nn.Sequential, ...]:
        """The adapters' heads; the base's where there are no adapters."""
        return tuple(head for _, head in self.adapters) or (self.head,)

    def seen(self, batch: Batch) -> Tensor:
        """What each head sees, [N, heads, columns]: [ g, g_k ], or g."""
        layers = self.base(batch)
        g = batch.pool(layers[-1])
        beside = [torch.cat([g, batch.pool(adapter(batch, layers)[-1])], 1) for adapter, _ in self.adapters]
        return torch.stack(beside or [g], 1)


@dataclass(frozen=True)
class AIOP(Predictor):
    """Adapters beside a frozen k-GNN.

    Attributes:
        hidden: width of base and adapters.
        layers: of base and adapters.
        steps: of learning a base or an adapter, at least.
        passes: over the labels of a task, at least.
        tuning: steps of tuning the heads to a new task.
        batch: graphs in a step.
        rate: of AdamW.
        decay: of AdamW.
        by_work: divide labels by F.
        backbone: what `pretrain` has found.
    """

    name: ClassVar[str] = "aio-p"
    paper: ClassVar[Paper] = Paper(
        "mills2023aiop", "AIO-P: Expanding Neural Performance Predictors Beyond Image Classification",
        "Keith G. Mills and Di Niu and Mohammad Salameh and Weichen Qiu and Fred X. Han and Puyuan Liu and Jialin Zhang and "
        "Wei Lu and Shangling Jui", "AAAI", 2023, "https://arxiv.org/abs/2211.17228", "S113",
    )  # fmt: skip

    hidden: int = 32
    layers: int = 3
    steps: int = 150
    passes: int = 15
    tuning: int = 100
    batch: int = 128
    rate: float = 3e-3
    decay: float = 1e-2
    by_work: bool = True
    backbone: Backbone | None = field(default=None, repr=False, compare=False)

    def pretrain(self, tasks: Sequence[tuple[Features, Array]], rng: np.random.Generator) -> AIOP:
        """Learn the base on the first task and an adapter on each further one; labels of tasks need not share a unit.

        Args:
            tasks: architectures, of any spaces, with their labels [n], more is better.

        Raises:
            NetwrightError: no task, or tasks with graphs beside tasks without.
            MissingExtra: torch_geometric is not installed.
        """
        if not tasks:
            raise NetwrightError("a base is learnt on a task. Give one or more pairs of features and labels.")
        backbone = self._base(*tasks[0], Reader.of([x for x, _ in tasks]), rng)
        for x, y in tasks[1:]:
            backbone = self._infused(backbone, x, y, rng)
        return replace(self, backbone=backbone)

    def _base(self, x: Features, y: Array, reader: Reader, rng: np.random.Generator) -> Backbone:
        graphs, z = reader(x), normal_scores(y)
        scaling = Scaling.of(z, graphs, self.by_work)
        labels = torch.from_numpy(scaling.scale(z, graphs)).float()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            base, head = Encoder(reader, self.hidden, self.layers), perceptron(2 * self.hidden, self.hidden)
        descend(
            [*base.parameters(), *head.parameters()],
            lambda rows: functional.mse_loss(head(base.graphs(graphs.batch(rows))).squeeze(1), labels[rows]),
            len(z), steps=self.steps, passes=self.passes, batch=self.batch, rate=self.rate, decay=self.decay, rng=rng,
        )  # fmt: skip
        return Backbone(reader, base.requires_grad_(False), head, scaling)

    def _infused(self, backbone: Backbone, x: Features, y: Array, rng: np.random.Generator) -> Backbone:
        """A backbone with one adapter more."""
        graphs, z = backbone.reader(x), normal_scores(y)
        labels = torch.from_numpy(Scaling.of(z, graphs, self.by_work).scale(z, graphs)).float()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            adapter = Encoder(backbone.reader, self.hidden, self.layers, self.hidden)
            head = perceptron(4 * self.hidden, self.hidden)
        alone = replace(backbone, adapters=((adapter, head),))
        descend(
            [*adapter.parameters(), *head.parameters()],
            lambda rows: functional.mse_loss(head(alone.seen(graphs.batch(rows))[:, 0]).squeeze(1), labels[rows]),
            len(z), steps=self.steps, passes=self.passes, batch=self.batch, rate=self.rate, decay=self.decay, rng=rng,
        )  # fmt: skip
        return replace(backbone, adapters=(*backbone.adapters, (adapter.requires_grad_(False), head)))

    def learn(self, x: Features, z: Array, rng: np.random.Generator) -> Learned:
        if self.backbone is None:
            backbone = self._base(x, z, Reader.of([x]), rng)
            return self._predictions(backbone, backbone.heads, backbone.scaling)
        backbone = self.backbone
        graphs = backbone.reader(x)
        scaling = Scaling.of(z, graphs, self.by_work)
        labels = torch.from_numpy(scaling.scale(z, graphs)).float()
        seen = torch.from_numpy(graphs.over(backbone.seen)).float()
        heads = copy.deepcopy(backbone.heads)

        def loss(rows: Rows) -> Tensor:
            return torch.stack(
                [functional.mse_loss(h(seen[rows, k]).squeeze(1), labels[rows]) for k, h in enumerate(heads)]
            ).sum()

        descend(
            [p for head in heads for p in head.parameters()],
            loss,
            len(z), steps=self.tuning, passes=1, batch=self.batch, rate=self.rate, decay=self.decay, rng=rng,
        )  # fmt: skip
        return self._predictions(backbone, heads, scaling)

    def _predictions(self, backbone: Backbone, heads: Sequence[nn.Sequential], scaling: Scaling) -> Learned:
        """Mean over the heads; the spread is taken as equal everywhere."""

        def learned(x: Features) -> tuple[Array, Array]:
            graphs = backbone.reader(x)

            def answers(batch: Batch) -> Tensor:
                seen = backbone.seen(batch)
                return torch.cat([head(seen[:, k]) for k, head in enumerate(heads)], 1)

            return scaling.back(graphs.over(answers).mean(1), graphs), np.ones(len(x))

        return learned

    def rank(self, source: Features, y: Array, pool: Features, rng: np.random.Generator) -> Array:
        """Scores [N] of another space's architectures, or for another task, more is better, without a label of it.

        Without a backbone, the source is the first task; with one, it becomes an adapter more.

        Args:
            source: labelled architectures; their graphs, and no column, are read.
            y: their labels [n].
            pool: what is to be ranked.

        Raises:
            MissingExtra: torch_geometric is not installed.
        """
        found = self.backbone
        found = self._base(source, y, Reader.of([source]), rng) if found is None else self._infused(found, source, y, rng)
        return replace(self, backbone=found).zero_shot(pool)

    def zero_shot(self, pool: Features) -> Array:
        """Scores [N] by what was learnt before, for a task of which there is no label.

        Raises:
            NetwrightError: nothing was learnt before.
        """
        if (found := self.backbone) is None:
            raise NetwrightError("there is no backbone. Learn one with `pretrain`, or give `rank` a source.")
        return self._predictions(found, found.heads, found.scaling)(pool)[0]
