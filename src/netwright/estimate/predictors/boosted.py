"""GBDT-NAS: boosted trees on the tabular encoding and features of the graph, and pruning of the space by their effects.

    f = sum of M small trees, each fitted to what the ones before leave over, shrunk by a rate
    effect(j, v) = mean of f over the pool with x_j set to v, minus the mean of f over the pool
    gradual pruning: drop the architectures with the (feature, value) of the worst effect, again and again, until a share is left

The paper prunes by SHAP values of one-hot features with LightGBM; `effect` is the partial dependence, which needs no other
package and holds for numbers of few values too. `engine="lightgbm"` takes LightGBM (an extra) with the paper's 31 leaves, for
large tables; scikit-learn's histogram trees, with smaller trees, are the default because they do better with few labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor

from netwright.core.errors import MissingExtra, NetwrightError
from netwright.core.paper import Paper
from netwright.estimate.predictors.role import Fitted, Learned, Predictor
from netwright.estimate.tables.features import Array, Features

ROWS = 512  # that go through all trees together: they stay in the processor's cache


@dataclass(frozen=True)
class Boosted(Predictor):
    """Gradient-boosted trees.

    Attributes:
        trees: M.
        rate: shrinkage of each tree.
        leaves: of one tree; 31 with LightGBM.
        leaf: fewest labels in a leaf.
        share: of the features, for one split (LightGBM: for one tree).
        engine: whose trees.
    """

    name: ClassVar[str] = "boosted"
    paper: ClassVar[Paper] = Paper(
        "luo2020gbdtnas", "Neural Architecture Search with GBDT",
        "Renqian Luo and Xu Tan and Rui Wang and Tao Qin and Enhong Chen and Tie-Yan Liu",
        "arXiv", 2020, "https://arxiv.org/abs/2007.04785", "S081",
    )  # fmt: skip

    trees: int = 150
    rate: float = 0.06
    leaves: int = 8
    leaf: int = 5
    share: float = 0.3
    engine: Literal["sklearn", "lightgbm"] = "sklearn"
    folds: int = 5

    def learn(self, x: Features, z: Array, rng: np.random.Generator) -> Learned:
        seed = int(rng.integers(2**31))
        if self.engine == "lightgbm":
            try:
                from lightgbm import LGBMRegressor
            except ImportError:
                raise MissingExtra("the engine 'lightgbm'", "gbm") from None
            model = LGBMRegressor(n_estimators=self.trees, learning_rate=self.rate, num_leaves=31, min_child_samples=self.leaf,
                                  colsample_bytree=self.share, random_state=seed, n_jobs=1, verbose=-1)  # fmt: skip
        else:
            model = HistGradientBoostingRegressor(
                learning_rate=self.rate, max_iter=self.trees, max_leaf_nodes=self.leaves, min_samples_leaf=self.leaf,
                max_features=self.share, random_state=seed,
            )  # fmt: skip
        model.fit(x.numbers, z)

        def learned(x: Features) -> tuple[Array, Array]:
            rows = x.numbers
            return np.concatenate([model.predict(rows[i : i + ROWS]) for i in range(0, len(rows), ROWS)]), np.ones(len(rows))

        return learned


@dataclass(frozen=True)
class Pruned:
    """What is left of a pool: row numbers, and (column, value, effect in scores) of each cut, in order."""

    kept: NDArray[np.intp]
    cuts: tuple[tuple[str, float, float], ...]


def prune(
    fitted: Fitted, pool: Features, *, keep: float = 0.5, step: float = 0.3, values: int = 5, rng: np.random.Generator
) -> Pruned:
    """Drop the worst (feature, value) of a pool until a share `keep` of it is left, the effects measured anew after each cut.

    Args:
        fitted: any predictor; the paper's are boosted trees.
        pool: architectures of the space.
        keep: share of the pool that must stay.
        step: share of what is left that one cut may take; larger groups are not cut.
        values: columns with more different values than this are passed over.

    Raises:
        NetwrightError: `keep` is not in (0, 1].
    """
    if not 0 < keep <= 1:
        raise NetwrightError(f"keep is a share in (0, 1], not {keep}.")
    kept, cuts = np.arange(len(pool)), []
    places = [(block, j) for block in pool.blocks if block != "words" for j in range(pool.blocks[block].shape[1])]
    while len(kept) > keep * len(pool):
        sample = pool[rng.choice(kept, min(64, len(kept)), replace=False)]
        best, worst = fitted.score(sample).mean(), None
        for block, j in places:
            column = pool.blocks[block][kept, j]
            found, counts = np.unique(column, return_counts=True)
            if not 1 < len(found) <= values:
                continue
            for value, count in zip(found, counts, strict=True):
                if count <= step * len(kept) and len(kept) - count >= keep * len(pool):
                    changed = sample.blocks[block].copy()
                    changed[:, j] = value
                    effect = float(fitted.score(Features({**sample.blocks, block: changed}, sample.names)).mean() - best)
                    if effect < 0 and (worst is None or effect < worst[0]):
                        worst = (effect, block, j, float(value))
        if worst is None:
            break
        effect, block, j, value = worst
        kept = kept[pool.blocks[block][kept, j] != value]
        cuts.append((pool.names[block][j], value, effect))
    return Pruned(kept, tuple(cuts))
