"""auto: the member, or the mean of the best members, that cross-validation ranks best, with the reason.

    t_k = Kendall's tau of member k's held-out predictions;   candidates: the best one, the mean of the best two, three, ...

The largest mean within one standard error of the best candidate is taken, sqrt( 2 (2 n + 5) / (9 n (n - 1)) ) sqrt(1 - t^2) for n
labels: a choice among near equals on few labels is a choice by chance, and the mean loses least.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from netwright.core.paper import Paper
from netwright.estimate.predictors.boosted import Boosted
from netwright.estimate.predictors.ensemble import blend
from netwright.estimate.predictors.forest import ExtraTrees
from netwright.estimate.predictors.gp import GaussianProcess
from netwright.estimate.predictors.ridge import Ridge
from netwright.estimate.predictors.role import Held, Learned, Predictor, tau
from netwright.estimate.tables.features import Array, Features


@dataclass(frozen=True)
class Auto(Predictor):
    """Chosen by cross-validation.

    Attributes:
        members: the predictors to choose from.
    """

    name: ClassVar[str] = "auto"
    paper: ClassVar[Paper] = Paper(
        "stone1974cross", "Cross-Validatory Choice and Assessment of Statistical Predictions", "Mervyn Stone",
        "Journal of the Royal Statistical Society B", 1974, "https://doi.org/10.1111/j.2517-6161.1974.tb00994.x",
    )  # fmt: skip

    members: tuple[Predictor, ...] = (GaussianProcess(), ExtraTrees(), Boosted(), Ridge())

    def learn(self, x: Features, z: Array, rng: np.random.Generator) -> Learned:
        return self.hold_out(x, z, rng).learned

    def hold_out(self, x: Features, z: Array, rng: np.random.Generator) -> Held:
        n = len(z)
        held = [(member.name, member.hold_out(x, z, rng)) for member in self.members]
        held.sort(key=lambda pair: -tau(pair[1].mean, z))
        candidates = [held[0][1], *(blend([h for _, h in held[:k]], z) for k in range(2, len(held) + 1))]
        found = [tau(candidate.mean, z) for candidate in candidates]
        error = float(np.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1)) * (1 - max(found) ** 2)))
        taken = max(k for k, t in enumerate(found) if t >= max(found) - error)
        alone = ", ".join(f"{name} {tau(h.mean, z):.3f}" for name, h in held)
        chosen = " + ".join(name for name, _ in held[: taken + 1])
        why = f"{chosen}: tau {found[taken]:.3f} on held-out labels of {n}, the best of all {max(found):.3f}; alone {alone}"
        return Held(candidates[taken].learned, candidates[taken].mean, candidates[taken].std, why)
