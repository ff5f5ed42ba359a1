"""Predictor: from features of architectures and a few labels to mean, spread and interval of the label.

    z_i = Phi^-1( (rank(y_i) - 1/2) / n )                 labels as normal scores; rank correlation is what search needs
    (m, s) = learned(x)                                   mean and spread in scores
    e_i = |z_i - m_(-i)(x_i)| / s_(-i)(x_i)               scores of conformity, each label held out of its own prediction
    interval = y( m - q s ), y( m + q s ),                q = the 0.9 (n + 1)-th smallest e, interpolated

y(.) is the way back: piecewise linear through the labels' scores, straight on beyond them. A label drawn like the training
labels falls into the interval in about 90 of 100 cases, whatever the predictor is worth: a poor one has wide intervals
(cross-conformal prediction, arXiv:1208.0806, Vovk 2015; asymptotic, because the model that predicts has seen all labels).
Under a change of space the promise is void, until labels of the new space are at hand.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, rankdata

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.estimate.tables.features import Array, Features

FEWEST = 8
Learned = Callable[[Features], tuple[Array, Array]]


@dataclass(frozen=True)
class Prediction:
    """Mean, standard deviation, and ends of the interval, each [N], in the label's unit."""

    mean: Array
    std: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Scale:
    """Labels and their normal scores, both ascending and without doubles."""

    labels: Array
    scores: Array

    @classmethod
    def of(cls, y: Array) -> Scale:
        labels, at = np.unique(y, return_index=True)
        return cls(labels, normal_scores(y)[at])

    def back(self, z: Array) -> Array:
        """Labels of scores; beyond the ends with the mean slope of the outer quarter."""
        reach = max(1, len(self.labels) // 4)
        below = (self.labels[reach] - self.labels[0]) / (self.scores[reach] - self.scores[0])
        above = (self.labels[-1] - self.labels[-1 - reach]) / (self.scores[-1] - self.scores[-1 - reach])
        inside = np.interp(z, self.scores, self.labels)
        return np.asarray(inside + below * np.minimum(z - self.scores[0], 0) + above * np.maximum(z - self.scores[-1], 0))


def normal_scores(y: ArrayLike) -> Array:
    """Ranks [N] as quantiles of the standard normal distribution; equal values get their mean rank."""
    y = np.asarray(y, dtype=np.float64)
    return np.asarray(norm.ppf((rankdata(y) - 0.5) / len(y)))


def quantile(errors: Array, level: float) -> float:
    """The level (n + 1)-th smallest, interpolated; the largest where that is beyond them."""
    return float(np.interp(level * (len(errors) + 1), np.arange(1, len(errors) + 1), np.sort(errors)))


@dataclass(frozen=True)
class Held:
    """A learned model, and for the training architectures mean and spread [n] by models that have not seen their labels."""

    learned: Learned
    mean: Array
    std: Array
    why: str = ""


@dataclass(frozen=True)
class Fitted:
    """A predictor after `fit`.

    Attributes:
        reach: half the interval's length in spreads.
        tau: Kendall's rank correlation of the held-out predictions with the labels: what to expect on more of the same.
        why: what was chosen, where there was a choice.
    """

    predictor: Predictor
    learned: Learned
    scale: Scale
    reach: float
    tau: float
    why: str

    def score(self, x: Features | Array) -> Array:
        """Predicted normal score [N]: the order of the means, with fewer ties."""
        return self.learned(features(x))[0]

    def predict(self, x: Features | Array) -> Prediction:
        """Mean, spread and interval of each architecture, in the label's unit."""
        mean, std = self.learned(features(x))
        low, high = self.scale.back(mean - self.reach * std), self.scale.back(mean + self.reach * std)
        return Prediction(self.scale.back(mean), (self.scale.back(mean + std) - self.scale.back(mean - std)) / 2, low, high)


def features(x: Features | Array) -> Features:
    """Features as they are; a matrix as one block."""
    return x if isinstance(x, Features) else Features.of(x)


@dataclass(frozen=True)
class Predictor(ABC):
    """One method.

    Attributes:
        level: share of labels that the interval is to hold.
        folds: parts of the training labels that are held out in turn.
    """

    name: ClassVar[str]
    paper: ClassVar[Paper]

    level: float = 0.9
    folds: int = 8

    @abstractmethod
    def learn(self, x: Features, z: Array, rng: np.random.Generator) -> Learned:
        """Learn scores `z` [n] of `x`; the result gives mean and spread [N] of other architectures."""

    def hold_out(self, x: Features, z: Array, rng: np.random.Generator) -> Held:
        """Learn from all labels, and from all but each fold. Methods with a shorter way, or with parts, have their own."""
        folds = rng.permutation(len(z)) % min(self.folds, len(z))
        mean, std = np.zeros(len(z)), np.ones(len(z))
        for fold in range(folds.max() + 1):
            out = folds == fold
            mean[out], std[out] = self.learn(x[~out], z[~out], rng)(x[out])
        return Held(self.learn(x, z, rng), mean, std)

    def fit(self, x: Features | Array, y: ArrayLike, rng: np.random.Generator) -> Fitted:
        """Learn labels `y` [n], more is better, of architectures `x`.

        Raises:
            NetwrightError: fewer than 8 labels, not as many as architectures, none but equal ones, or not finite.
        """
        x, y = features(x), np.asarray(y, dtype=np.float64)
        if len(x) != len(y) or y.ndim != 1 or len(y) < FEWEST or not np.isfinite(y).all() or np.ptp(y) == 0:
            found = f"got {y.shape} labels of {len(x)} architectures. Drop failed ones, or measure more."
            raise NetwrightError(f"a predictor needs {FEWEST} or more finite labels that differ, one an architecture; {found}")
        held = self.hold_out(x, normal_scores(y), rng)
        reach = quantile(np.abs(normal_scores(y) - held.mean) / held.std, self.level)
        return Fitted(self, held.learned, Scale.of(y), reach, tau(held.mean, y), held.why)


def tau(a: Any, b: Any) -> float:
    """Kendall's tau-b; 0 where one does not vary."""
    from scipy.stats import kendalltau

    return float(np.nan_to_num(kendalltau(a, b)[0]))
