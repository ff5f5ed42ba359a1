"""Transfer: rank the architectures of a space of which nobody has a label, from labels of another.

    source cells whose output shares its channels out among several inputs are left aside where the target adds its inputs up
    r(x) = score( boosted(x) + extra trees(x) ) + score( sum of score( prior(x) ) )    score: normal scores over the target's pool
    with `shift`, source cells are drawn with w(x) = p(target | x) / p(source | x), cut at e^3 and e^-3, by logistic regression

A cell with a concatenated output has narrow branches; what it teaches about branches does not hold where they are wide. The
parameter count stands as a prior that no source label can turn. Edges by kind and eigenvalues are left out: they name places of
the source's cells. `shift` counts those source cells most that could be the target's (Shimodaira 2000); with it and the prior
``flow`` (synflow's logarithm at weights of one) NAS-Bench-101 to SpikeNAS-Bench and 201 to 101 gain 0.01 to 0.02 of rho, 101 to
201 loses as much: neither is the default, and the default was chosen with results of 201 in sight. Ranks only: without one label
of the target nothing says how large an accuracy is, nor how wide an interval. With some, fit any predictor on them with the rank
as one more column.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

from netwright.core.errors import DataError
from netwright.estimate.predictors.boosted import Boosted
from netwright.estimate.predictors.forest import ExtraTrees
from netwright.estimate.predictors.role import Predictor, normal_scores
from netwright.estimate.tables.features import Array, Features

ALONE = 1  # distinct inputs of the output
CLIP, CUT = 4.0, 3.0  # deviations; logarithm of w


def likeness(source: Array, target: Array) -> Array:
    """w of each source row, summing to one, from features [n, columns] and [N, columns]."""
    both = np.concatenate([source, target])
    x = np.clip((both - both.mean(0)) / (both.std(0) + 1e-9), -CLIP, CLIP)
    side = np.repeat([0, 1], [len(source), len(target)])
    model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=200).fit(x, side)
    w = np.exp(np.clip(model.decision_function(x[: len(source)]), -CUT, CUT))
    return np.asarray(w / w.sum())


@dataclass(frozen=True)
class Transfer:
    """Ranking across spaces.

    Attributes:
        members: predictors that learn the source's labels.
        prior: columns of the block ``graph`` that together count as much as they do; none where empty.
        wide: leave out source cells that share channels out.
        shift: draw source cells by how much they look like the target's, with replacement.
    """

    members: tuple[Predictor, ...] = (Boosted(trees=100, leaves=12, leaf=20), ExtraTrees(trees=50, leaf=5))
    prior: tuple[str, ...] = ("parameters",)
    wide: bool = True
    shift: bool = False

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
        seen, z = given[rows][:, kept], normal_scores(y[rows])
        others = pool.blocks["graph"][:, kept]
        if self.shift:
            drawn = rng.choice(len(seen), len(seen), p=likeness(seen, others))
            seen, z = seen[drawn], z[drawn]
        found = Features.of(others)
        learned = sum((normal_scores(m.learn(Features.of(seen), z, rng)(found)[0]) for m in self.members), np.zeros(len(others)))
        known = [normal_scores(pool.blocks["graph"][:, names.index(name)]) for name in self.prior]
        return np.asarray(learned + normal_scores(sum(known)) if known else learned)
