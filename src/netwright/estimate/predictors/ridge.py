"""Ridge regression on standardised features, the strength chosen by leave-one-out.

    w = argmin |z - X w|^2 + a |w|^2,       a by generalised cross-validation (closed form)

The plainest member: straight, fast, and hard to beat where labels are few and features are good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.linear_model import RidgeCV

from netwright.core.paper import Paper
from netwright.estimate.predictors.role import Learned, Predictor
from netwright.estimate.tables.features import Array, Features

CLIP = 4.0


@dataclass(frozen=True)
class Ridge(Predictor):
    """Linear in the features.

    Attributes:
        strengths: the values of a that are tried.
    """

    name: ClassVar[str] = "ridge"
    paper: ClassVar[Paper] = Paper(
        "hoerl1970ridge", "Ridge Regression: Biased Estimation for Nonorthogonal Problems",
        "Arthur E. Hoerl and Robert W. Kennard",
        "Technometrics", 1970, "https://doi.org/10.1080/00401706.1970.10488634",
    )  # fmt: skip

    strengths: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0, 1000.0)

    def learn(self, x: Features, z: Array, rng: np.random.Generator) -> Learned:
        centre, width = x.numbers.mean(0), x.numbers.std(0)
        width = np.where(width > 1e-9, width, 1)

        def standard(x: Features) -> Array:
            return np.clip((x.numbers - centre) / width, -CLIP, CLIP)

        model = RidgeCV(self.strengths).fit(standard(x), z)
        return lambda x: (model.predict(standard(x)), np.ones(len(x)))
