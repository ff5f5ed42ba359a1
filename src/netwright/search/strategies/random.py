"""Uniform random search: the baseline that every strategy has to beat.

Each decision is drawn uniformly and independently. In weight-sharing search spaces it comes close to elaborate methods
(Li & Talwalkar 2019), so a search without this comparison proves nothing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from optuna import Trial

from netwright.core.paper import Paper
from netwright.core.space import Arch
from netwright.search.store import Store
from netwright.search.strategies.role import Strategy


@dataclass(frozen=True)
class Random(Strategy):
    """Has no hyper-parameters."""

    name: ClassVar[str] = "random"
    paper: ClassVar[Paper] = Paper(
        key="li2019random",
        title="Random Search and Reproducibility for Neural Architecture Search",
        authors="Liam Li and Ameet Talwalkar",
        venue="UAI",
        year=2019,
        url="https://arxiv.org/abs/1902.07638",
    )

    def propose(self, store: Store, rng: random.Random) -> tuple[Arch, Trial]:
        return store.propose(arch=store.space.sample(rng))
