"""Random forests and extremely randomised trees on features.

    m(x) = mean of T trees, each of a bootstrap sample (forest) or of all labels with random thresholds (extra trees)

Each split looks at a share of the features. The spread is taken as equal everywhere; conformity gives it its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor

from netwright.core.paper import Paper
from netwright.estimate.predictors.role import Learned, Predictor
from netwright.estimate.tables.features import Array, Features


@dataclass(frozen=True)
class ExtraTrees(Predictor):
    """Extremely randomised trees.

    Attributes:
        trees: T.
        leaf: fewest labels in a leaf.
        share: of the features, for one split.
    """

    name: ClassVar[str] = "extra-trees"
    paper: ClassVar[Paper] = Paper(
        "geurts2006extremely", "Extremely Randomized Trees", "Pierre Geurts and Damien Ernst and Louis Wehenkel",
        "Machine Learning", 2006, "https://doi.org/10.1007/s10994-006-6226-1",
    )  # fmt: skip
    kind: ClassVar[type] = ExtraTreesRegressor

    trees: int = 100
    leaf: int = 2
    share: float = 0.4

    def learn(self, x: Features, z: Array, rng: np.random.Generator) -> Learned:
        seed = int(rng.integers(2**31))
        model = self.kind(self.trees, min_samples_leaf=self.leaf, max_features=self.share, random_state=seed).fit(x.numbers, z)
        return lambda x: (model.predict(x.numbers), np.ones(len(x)))


@dataclass(frozen=True)
class Forest(ExtraTrees):
    """Random forest."""

    name: ClassVar[str] = "forest"
    paper: ClassVar[Paper] = Paper(
        "breiman2001random", "Random Forests", "Leo Breiman", "Machine Learning", 2001, "https://doi.org/10.1023/A:1010933404324"
    )
    kind: ClassVar[type] = RandomForestRegressor
