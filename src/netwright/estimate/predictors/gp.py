"""Gaussian process with one kernel a block of features, its scales by the evidence.

    k(x, x') = sum_b a_b exp( -d_b(x, x') / l_b ) + v [x is x']
    d_b = |s - s'|^2 / columns          s: standardised columns, cut at 4 deviations
    d_words = 2 - 2 <h, h'>             h: square roots of the counts' shares (|h| = 1), the Weisfeiler-Lehman kernel's features
    a, l, v = argmax log p(z | x) + log-normal priors             by L-BFGS with the exact gradient, from one start

Mean and spread are the posterior's. Held-out predictions are exact for each label with a, l, v kept (Rasmussen and Williams 2006,
5.12). Differs from NAS-BOWL (Ru et al.): the words' kernel is exponential and stands beside plain features of the whole graph.
Beyond `most` labels a random part is used: the cost grows with their cube.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from netwright.core.paper import Paper
from netwright.estimate.predictors.role import Held, Learned, Predictor
from netwright.estimate.tables.features import Array, Features

CLIP = 4.0
PRIOR = {"weight": (-0.7, 1.5), "length": (0.5, 1.0), "noise": (-1.5, 1.0)}  # mean and deviation of the logarithms


def _embedding(name: str, block: Array) -> tuple[Array, Array]:
    """Centre and width [columns] that standardise a block."""
    if name == "words":
        return np.zeros(block.shape[1]), np.ones(block.shape[1])
    width = block.std(0)
    return block.mean(0), np.where(width > 1e-9, width, np.inf)


def _embed(name: str, block: Array, centre: Array, width: Array) -> Array:
    """Points [N, columns] whose squared distances are d_b."""
    if name == "words":
        return np.sqrt(block / np.maximum(block.sum(1, keepdims=True), 1)).astype(np.float32)
    return (np.clip((block - centre) / width, -CLIP, CLIP) / np.sqrt(block.shape[1])).astype(np.float32)


def _distances(a: Array, b: Array) -> Array:
    return np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * (a @ b.T), 0)


@dataclass(frozen=True)
class GaussianProcess(Predictor):
    """Posterior of a Gaussian process.

    Attributes:
        most: labels that are used at most.
        tuned: labels at most with which the scales are found.
        iterations: of L-BFGS.
    """

    name: ClassVar[str] = "gp"
    paper: ClassVar[Paper] = Paper(
        "ru2021nasbowl", "Interpretable Neural Architecture Search via Bayesian Optimisation with Weisfeiler-Lehman Kernels",
        "Binxin Ru and Xingchen Wan and Xiaowen Dong and Michael Osborne", "ICLR", 2021, "https://arxiv.org/abs/2006.07556",
    )  # fmt: skip

    most: int = 1500
    tuned: int = 400
    iterations: int = 30

    def scales(self, distances: list[Array], z: Array) -> Array:
        """Logarithms of (a, l) of each block, then of v."""
        blocks, n = len(distances), len(z)
        prior = np.array([PRIOR["weight"], PRIOR["length"]] * blocks + [PRIOR["noise"]])

        def loss(theta: Array) -> tuple[float, Array]:
            parts = [np.exp(theta[2 * b] - d * np.exp(-theta[2 * b + 1])) for b, d in enumerate(distances)]
            noise = np.exp(theta[-1]) + 1e-6
            factor = cho_factor(np.sum(parts, 0) + noise * np.eye(n), lower=True)
            inverse = cho_solve(factor, np.eye(n))
            alpha = inverse @ z
            w = (inverse - np.outer(alpha, alpha)) / 2
            away = (theta - prior[:, 0]) / prior[:, 1]
            slopes = [
                float((w * p * f).sum())
                for p, d, t in zip(parts, distances, theta[1::2], strict=False)
                for f in (1.0, d * np.exp(-t))
            ]
            value = z @ alpha / 2 + np.log(np.diag(factor[0])).sum() + (away**2).sum() / 2
            return float(value), np.array([*slopes, float(np.trace(w) * np.exp(theta[-1]))]) + away / prior[:, 1]

        found = minimize(
            loss, prior[:, 0], jac=True, method="L-BFGS-B", bounds=[(-6, 5)] * len(prior), options={"maxiter": self.iterations}
        )
        return np.asarray(found.x)

    def _posterior(self, x: Features, z: Array, rng: np.random.Generator) -> tuple[Learned, NDArray[np.intp], Array, Array]:
        chosen: NDArray[np.intp] = rng.permutation(len(z))[: self.most]
        x, mean = x[chosen], z[chosen].mean()
        centred = z[chosen] - mean
        size = float(centred.std()) or 1.0
        centred = centred / size
        standards = {name: _embedding(name, block) for name, block in x.blocks.items() if block.shape[1]}
        points = {name: _embed(name, x.blocks[name], *standard) for name, standard in standards.items()}
        part = slice(0, self.tuned)
        theta = self.scales([_distances(p[part], p[part]).astype(np.float64) for p in points.values()], centred[part])

        def kernel(others: dict[str, Array]) -> Array:
            out: Array = np.float32(0)  # type: ignore[assignment]
            for b, (name, p) in enumerate(points.items()):
                d = _distances(others[name], p)
                d *= np.float32(-np.exp(-theta[2 * b + 1]))
                d += np.float32(theta[2 * b])
                out = out + np.exp(d, out=d)
            return out

        noise = np.exp(theta[-1]) + 1e-4
        inverse = np.linalg.inv(kernel(points).astype(np.float64) + noise * np.eye(len(centred)))
        alpha, top = inverse @ centred, float(np.exp(theta[:-1:2]).sum()) + noise
        narrow = inverse.astype(np.float32)

        def learned(x: Features) -> tuple[Array, Array]:
            k = kernel({name: _embed(name, x.blocks[name], *standard) for name, standard in standards.items()})
            spread = np.maximum(top - np.einsum("ij,ij->i", k @ narrow, k), noise)
            return mean + size * (k @ alpha), size * np.sqrt(spread)

        left = 1 / np.diag(inverse)
        return learned, chosen, mean + size * (centred - alpha * left), size * np.sqrt(left)

    def learn(self, x: Features, z: Array, rng: np.random.Generator) -> Learned:
        return self._posterior(x, z, rng)[0]

    def hold_out(self, x: Features, z: Array, rng: np.random.Generator) -> Held:
        learned, chosen, mean, std = self._posterior(x, z, rng)
        everywhere, spread = learned(x)
        everywhere[chosen], spread[chosen] = mean, std
        return Held(learned, everywhere, spread)
