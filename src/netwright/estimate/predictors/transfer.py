"""Transfer: rank the architectures of a space of which nobody has a label, from labels of another.

    source cells whose output shares its channels out among several inputs are left aside where the target adds its inputs up
    r(x) = score( boosted(x) + extra trees(x) ) + score( parameters(x) )          score: normal scores over the target's pool

A cell with a concatenated output has narrow branches; what it teaches about branches does not hold where they are wide. The
parameter count stands as a prior that no source label can turn. Edges by kind and eigenvalues are left out: they name places of
the source's cells. Ranks only: without one label of the target nothing says how large an accuracy is, nor how wide an interval.
With some, fit any predictor on them with the rank as one more column.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netwright.core.errors import DataError
from netwright.estimate.predictors.boosted import Boosted
from netwright.estimate.predictors.forest import ExtraTrees
from netwright.estimate.predictors.role import Predictor, normal_scores
from netwright.estimate.tables.features import Array, Features

ALONE = 1  # distinct inputs of the output


@dataclass(frozen=True)
class Transfer:
    """Ranking across spaces.

    Attributes:
        members: predictors that learn the source's labels.
        prior: column of the block ``graph`` that counts as much as they do together; none where empty.
        wide: leave out source cells that share channels out.
    """

    members: tuple[Predictor, ...] = (Boosted(trees=100, leaves=12, leaf=20), ExtraTrees(trees=50, leaf=5))
    prior: str = "parameters"
    wide: bool = True

    def rank(self, source: Features, y: Array, pool: Features, rng: np.random.Generator) -> Array:
        """Scores [N] of the target's `pool`, more is better.

        Args:
            source: features of labelled architectures, described with the same kinds of operations as `pool`.
            y: their labels [n].

        Raises:
            DataError: columns differ, or too few source cells are left.
        """
        names = source.names["graph"]
        if names != pool.names["graph"]:
            raise DataError("source and target have different columns. Describe both with kinds=, the operations of both spaces.")
        kept = [j for j, name in enumerate(names) if " > " not in name and not name.startswith("eigenvalue")]
        given = source.blocks["graph"]
        rows = given[:, names.index("distinct inputs of output")] <= ALONE if self.wide else np.ones(len(given), bool)
        if rows.sum() < len(names):
            raise DataError(f"only {int(rows.sum())} source cells are like the target's. Give more, or set wide=False.")
        seen, z = Features.of(given[rows][:, kept]), normal_scores(y[rows])
        others = Features.of(pool.blocks["graph"][:, kept])
        learned = sum((normal_scores(m.learn(seen, z, rng)(others)[0]) for m in self.members), np.zeros(len(others)))
        if not self.prior:
            return np.asarray(learned)
        return np.asarray(learned + normal_scores(pool.blocks["graph"][:, names.index(self.prior)]))
