"""Relative improvement: what a method adds to the average architecture of the space that it searches.

    RI = 100 (Acc_m - Acc_r) / Acc_r       Acc_m: mean accuracy of what the method found over its seeds;
                                           Acc_r: mean accuracy of architectures drawn at random, trained alike
    error^2 = (100 / Acc_r)^2 (s_m^2 / n_m + (Acc_m / Acc_r)^2 s_r^2 / n_r)

A space full of good networks and a long training flatter every method; the ratio takes both out. The error is that of the two
means (to first order). A difference below the spread of one network trained again says nothing: `seed_deviation`.

Yang, Esperanca and Carlucci, NAS evaluation is frustratingly hard, ICLR 2020. Differs: the error of the ratio.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from netwright.core.errors import DataError
from netwright.core.paper import Paper

paper = Paper(
    "yang2020frustratingly", "NAS evaluation is frustratingly hard",
    "Yang, Antoine and Esperanca, Pedro M. and Carlucci, Fabio M.", "ICLR", 2020, "https://arxiv.org/abs/1912.12522", "S093",
)  # fmt: skip


@dataclass(frozen=True)
class Improvement:
    """Percent over the average random architecture.

    Attributes:
        percent: RI.
        deviation: of the RI of single seeds; 0 with one seed.
        error: standard error of `percent`.
    """

    percent: float
    deviation: float
    error: float

    def __str__(self) -> str:
        return f"{self.percent:+.2f} % ({self.deviation:.2f})"


def relative_improvement(method: Sequence[float], random: Sequence[float]) -> Improvement:
    """RI of a method, from the accuracies of what it found, one a seed, and those of architectures drawn at random.

    Args:
        method: in any unit; one seed gives no deviation of its own.
        random: in the same unit, at least two: a sample of the space, or all of it.

    Raises:
        DataError: too few accuracies, or an average that is not above 0.
    """
    found, drawn = (np.asarray(v, dtype=np.float64) for v in (method, random))
    if len(found) < 1 or len(drawn) < 2:
        raise DataError(
            f"A relative improvement got {len(found)} accuracies of the method and {len(drawn)} of random architectures: "
            "give one and two at least."
        )
    average = drawn.mean()
    if not average > 0:
        raise DataError(f"Random architectures have a mean of {average:g}: give accuracies, which are above 0.")
    single = 100 * (found - average) / average
    ratio, spread = found.mean() / average, float(found.std(ddof=1)) if len(found) > 1 else 0.0
    error = 100 / average * np.sqrt(spread**2 / len(found) + ratio**2 * drawn.var(ddof=1) / len(drawn))
    return Improvement(float(single.mean()), 100 / float(average) * spread, float(error))


def seed_deviation(accuracies: Sequence[float], networks: Sequence[Hashable]) -> float:
    """Deviation of an accuracy when the same network is trained again, pooled over networks that occur more than once.

    Args:
        accuracies: [N].
        networks: [N] equal where the same network was trained with another seed.

    Raises:
        DataError: no network occurs twice.
    """
    values = np.asarray(accuracies, dtype=np.float64)
    _, which = np.unique(np.array([str(n) for n in networks]), return_inverse=True)
    count = np.bincount(which)
    mean = np.bincount(which, values) / count
    free = int((count - 1).sum())
    if not free:
        raise DataError(f"None of {len(values)} networks occurs twice: what another seed changes needs repeated trainings.")
    return float(np.sqrt(((values - mean[which]) ** 2).sum() / free))
