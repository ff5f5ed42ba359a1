"""Ensemble: the mean of several predictors, each on the same scale, brought back to the labels' scale by held-out predictions.

    m(x) = b * mean_k m_k(x) / sd_k,      sd_k deviation of member k's held-out means, b the least-squares slope on the scores
    s(x)^2 = mean_k s_k(x)^2 / r_k^2      r_k root mean square of member k's spreads: each says where, none how much

Members predict normal scores of ranks, so that the mean is an average of ranks. No weights are learnt: with a hundred
labels equal ones are hard to beat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from netwright.core.paper import Paper
from netwright.estimate.predictors.boosted import Boosted
from netwright.estimate.predictors.forest import ExtraTrees
from netwright.estimate.predictors.gp import GaussianProcess
from netwright.estimate.predictors.role import Held, Learned, Predictor
from netwright.estimate.tables.features import Array, Features


def blend(held: Sequence[Held], z: Array, why: str = "") -> Held:
    """The mean of members that have learnt the scores `z`."""
    sizes = [float(h.mean.std()) or 1.0 for h in held]
    widths = [float(np.sqrt((h.std**2).mean())) for h in held]

    def join(predictions: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
        mean = np.mean([m / size for (m, _), size in zip(predictions, sizes, strict=True)], 0)
        return mean, np.sqrt(np.mean([(s / width) ** 2 for (_, s), width in zip(predictions, widths, strict=True)], 0))

    mean, std = join([(h.mean, h.std) for h in held])
    slope = max(0.1, float(mean @ z / (mean @ mean))) if mean.any() else 1.0

    def learned(x: Features) -> tuple[Array, Array]:
        mean, std = join([h.learned(x) for h in held])
        return slope * mean, std

    return Held(learned, slope * mean, std, why)


@dataclass(frozen=True)
class Ensemble(Predictor):
    """Mean of members.

    Attributes:
        members: the predictors.
    """

    name: ClassVar[str] = "ensemble"
    paper: ClassVar[Paper] = Paper(
        "dietterich2000ensemble", "Ensemble Methods in Machine Learning", "Thomas G. Dietterich",
        "Multiple Classifier Systems", 2000, "https://doi.org/10.1007/3-540-45014-9_1",
    )  # fmt: skip

    members: tuple[Predictor, ...] = (GaussianProcess(), ExtraTrees(), Boosted())

    def learn(self, x: Features, z: Array, rng: np.random.Generator) -> Learned:
        return self.hold_out(x, z, rng).learned

    def hold_out(self, x: Features, z: Array, rng: np.random.Generator) -> Held:
        return blend([member.hold_out(x, z, rng) for member in self.members], z)
