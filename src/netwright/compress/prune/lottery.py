"""Lottery tickets: the large weights of a trained network, from where they were early on, train as well as all of them.

    train to step k: w_k;   train on: w_T;   m <- m * [|w_T| is among the largest of all layers];   w <- w_k;   again

After round r of R the share ``1 - (1 - sparsity)^(r/R)`` of the weights is gone: every round takes the same share of what
is left. k = 0 is the ticket of 2019, a small k (rewinding) works for larger networks too.

Differs from the paper: magnitudes are compared over all layers, the last one among them (there layer by layer for small
networks, the last layer at half the rate). Biases and norms are never pruned, and are rewound with the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from netwright.compress.compressor import Stage
from netwright.compress.prune.pruner import Masked, Pruner, layer_weights
from netwright.core.errors import NetwrightError
from netwright.core.graph import Graph
from netwright.core.paper import Paper


class Ticket(Masked):
    """A masked network that remembers its weights and statistics at one step, in buffers ``early_...``."""

    def __init__(self, graph: Graph):
        super().__init__(graph, layer_weights(graph))
        self.kept = [name for name in self.state_dict() if not name.startswith("mask_")]
        for name in self.kept:
            self.register_buffer("early_" + name, getattr(self, name).detach().clone())

    @torch.no_grad()
    def remember(self) -> None:
        for name in self.kept:
            getattr(self, "early_" + name).copy_(getattr(self, name))

    @torch.no_grad()
    def rewind(self) -> None:
        for name in self.kept:
            getattr(self, name).copy_(getattr(self, "early_" + name))

    @torch.no_grad()
    def prune(self, sparsity: float) -> None:
        """Mask the smallest weights of all layers so that the share `sparsity` is masked; what is masked stays so."""
        size = torch.cat([(self.value(k).abs().masked_fill(~self.mask(k), -1)).flatten() for k in self.masked])
        keep = torch.zeros_like(size, dtype=torch.bool)
        keep[size.topk(max(1, round((1 - sparsity) * len(size)))).indices] = True
        for key, mask in zip(self.masked, keep.split([self.mask(k).numel() for k in self.masked]), strict=True):
            self.mask(key).copy_(mask.reshape(self.mask(key).shape))


@dataclass(frozen=True)
class Lottery(Pruner):
    """Iterative magnitude pruning with rewinding; zeros, not smaller layers.

    The stages are "rewind" (training up to the step to which weights return; give an untrained network for the paper's
    setting), "dense" and one a round.

    Attributes:
        sparsity: share of the weights of convolutions and linear layers that is zero in the end.
        rounds: of pruning, each followed by a training of the same length.
        early: share of the training budget that lies before the step of rewinding.
    """

    sparsity: float = 0.8
    rounds: int = 2
    early: float = 0.05

    name: ClassVar[str] = "lottery"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("rewind", 0.05), Stage("dense", 0.95 / 3),
                                           Stage("round 1", 0.95 / 3), Stage("round 2", 0.95 / 3))  # fmt: skip
    paper: ClassVar[Paper] = Paper(
        "frankle2019lottery", "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks",
        "Frankle, Jonathan and Carbin, Michael", "ICLR", 2019, "https://arxiv.org/abs/1803.03635", "S144",
    )  # fmt: skip
    also: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "frankle2020linear", "Linear Mode Connectivity and the Lottery Ticket Hypothesis",
            "Frankle, Jonathan and Dziugaite, Gintare Karolina and Roy, Daniel M. and Carbin, Michael",
            "ICML", 2020, "https://arxiv.org/abs/1912.05671",
        ),
    )  # fmt: skip

    def __post_init__(self) -> None:
        self.share("sparsity")
        self.share("early")
        if self.rounds < 1:
            raise NetwrightError(f"lottery was asked for rounds = {self.rounds}. Pruning takes at least one, rounds=1.")
        share = (1 - self.early) / (self.rounds + 1)
        names = ["dense", *(f"round {r + 1}" for r in range(self.rounds))]
        stages = (Stage("rewind", self.early), *(Stage(n, share) for n in names))
        object.__setattr__(self, "stages", stages)  # they depend on `rounds`

    def trainee(self, graph: Graph) -> Ticket:
        return Ticket(graph)

    def begin(self, trainee: nn.Module, stage: Stage) -> nn.Module:
        """Keep the weights ("dense"), or prune and rewind ("round r")."""
        assert isinstance(trainee, Ticket)
        if stage.name == "dense":
            trainee.remember()
        elif stage.name.startswith("round"):
            done = int(stage.name.split()[1]) / self.rounds
            trainee.prune(1 - (1 - self.sparsity) ** done)
            trainee.rewind()
        return trainee
