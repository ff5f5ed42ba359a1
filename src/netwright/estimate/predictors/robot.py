"""RoBoT: a linear mix of training-free proxies, its weights by Bayesian optimisation, then greedy search on the best mix.

    r_w(a) = sum_p w_p x_p(a),    w in [-1, 1]^M              x_p: proxy p, standardised over the pool, cut at 4 deviations
    explore   T - 1 times: w_t where a Gaussian process on (w_1, f_1), ..., (w_(t-1), f_(t-1)) expects the most improvement;
              f_t = label of the architecture that r_(w_t) ranks first, asked for only where it is not known
    exploit   what is left of T queries goes down the ranking by the w with the largest f

T labels are asked for in all (`search`). As a predictor with given labels, f(w) is Kendall's tau of r_w with them, the first w
weighs each proxy by its own tau, and mean and interval come as for any predictor. Proxies stand in the block ``numbers``; other
plain numbers do where it is missing. A weight's sign is free, so that a proxy with the wrong sign does no harm.

Differs from the paper: expected improvement (Optuna's sampler) for the upper confidence bound; standardised proxies for ones
scaled to [0, 1]; ties of the ranking are broken at random. Tables give proxies as normal scores of their ranks: raw ones have
tails that one weight cannot serve.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.samplers import GPSampler

from netwright.core.errors import NetwrightError
from netwright.core.logs import quiet
from netwright.core.paper import Paper
from netwright.estimate.predictors.ensemble import blend
from netwright.estimate.predictors.role import Held, Learned, Predictor, features, tau
from netwright.estimate.tables.features import Array, Features

CLIP = 4.0


def proxies(x: Features) -> Array:
    """The block ``numbers`` [N, M], or all plain numbers where there is none."""
    return x.blocks.get("numbers", x.numbers)


def standards(values: Array) -> tuple[Array, Array]:
    """Mean and deviation of each proxy [M], over those that are finite."""
    values = np.where(np.isfinite(values), values, np.nan)
    centre, width = np.nan_to_num(np.nanmean(values, 0)), np.nanstd(values, 0)
    return centre, np.where(width > 1e-9, width, np.inf)


def standardised(values: Array, centre: Array, width: Array) -> Array:
    """Proxies [N, M]; one that is missing counts as the mean."""
    return np.clip(np.nan_to_num((values - centre) / width, nan=0.0, posinf=CLIP, neginf=-CLIP), -CLIP, CLIP)


@dataclass(frozen=True)
class Search:
    """What a search asked for and found.

    Attributes:
        rows: of the pool, in the order of the queries.
        values: their labels.
        weights: of the proxies, of the mix that was followed in the end [M].
        explored: queries that the optimisation of the weights took; the others went down the ranking.
    """

    rows: tuple[int, ...]
    values: tuple[float, ...]
    weights: Array
    explored: int

    @property
    def best(self) -> int:
        """The row with the largest label."""
        return self.rows[int(np.argmax(self.values))]


@dataclass(frozen=True)
class RoBoT(Predictor):
    """Weighted mix of proxies.

    Attributes:
        trials: weights that are tried, as a predictor; a search tries one less than its budget.
        start: of them at random, before the Gaussian process leads.
    """

    name: ClassVar[str] = "robot"
    paper: ClassVar[Paper] = Paper(
        "he2024robot", "Robustifying and Boosting Training-Free Neural Architecture Search",
        "Zhenfeng He and Yao Shu and Zhongxiang Dai and Bryan Kian Hsiang Low",
        "ICLR", 2024, "https://arxiv.org/abs/2403.07591", "S071",
    )  # fmt: skip

    folds: int = 4
    trials: int = 40
    start: int = 10

    def weights(
        self, value: Callable[[Array], float], count: int, trials: int, rng: np.random.Generator, first: Array | None = None
    ) -> Array:
        """The weights [count] of the largest `value` among `trials`, the first of which may be given."""
        space = {f"w{p}": FloatDistribution(-1.0, 1.0) for p in range(count)}
        best, found = -np.inf, np.zeros(count)
        with quiet("optuna", logging.ERROR):
            sampler = GPSampler(seed=int(rng.integers(2**31)), n_startup_trials=self.start)
            study = optuna.create_study(direction="maximize", sampler=sampler)
            if first is not None:
                study.enqueue_trial(dict(zip(space, first.tolist(), strict=True)))
            for _ in range(trials):
                trial = study.ask(space)
                w = np.array([trial.params[name] for name in space])
                reached = value(w)
                study.tell(trial, reached)
                if reached > best:
                    best, found = reached, w
        return found

    def learn(self, x: Features, z: Array, rng: np.random.Generator) -> Learned:
        standard = standards(proxies(x))
        seen = standardised(proxies(x), *standard)
        alone = np.array([tau(proxy, z) for proxy in seen.T])
        w = self.weights(lambda w: tau(seen @ w, z), seen.shape[1], self.trials, rng, alone)
        return lambda x: (standardised(proxies(x), *standard) @ w, np.ones(len(x)))

    def hold_out(self, x: Features, z: Array, rng: np.random.Generator) -> Held:
        return blend([super().hold_out(x, z, rng)], z)

    def search(self, pool: Features | Array, query: Callable[[int], float], budget: int, rng: np.random.Generator) -> Search:
        """Ask for at most `budget` labels of a pool's architectures.

        Args:
            pool: proxies of every architecture.
            query: row -> label, more is better; each row is asked for once.
            budget: T.

        Raises:
            NetwrightError: the budget is below 2 or above the size of the pool.
        """
        pool = features(pool)
        if not 2 <= budget <= len(pool):
            raise NetwrightError(f"a search of {len(pool)} architectures takes 2 to {len(pool)} queries, not {budget}.")
        x = standardised(proxies(pool), *standards(proxies(pool)))
        ties, known = rng.random(len(x)), dict[int, float]()

        def asked(row: int) -> float:
            if row not in known:
                known[row] = float(query(row))
            return known[row]

        w = self.weights(lambda w: asked(int(np.lexsort((ties, x @ w))[-1])), x.shape[1], budget - 1, rng)
        explored = len(known)
        for row in np.lexsort((ties, x @ w))[::-1]:
            if len(known) == budget:
                break
            asked(int(row))
        return Search(tuple(known), tuple(known.values()), w, explored)
