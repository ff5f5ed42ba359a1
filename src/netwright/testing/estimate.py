"""Contract suite of the estimate room: what every predictor must do."""

from __future__ import annotations

import numpy as np
import pytest

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.estimate.predictors.role import Predictor, tau
from netwright.estimate.tables.features import Array, Features


def toy(count: int, rng: np.random.Generator) -> tuple[Features, Array]:
    """Architectures of ten numbers and eight counts, and labels [count] that depend on some of both, with noise."""
    x, words = rng.normal(size=(count, 10)), rng.poisson(2.0, size=(count, 8)).astype(np.float64)
    y = np.exp(0.5 * (x[:, 0] + np.abs(x[:, 1]) - 0.5 * x[:, 2] + 0.3 * words[:, 0])) + rng.normal(size=count) * 0.2
    names = {"graph": tuple(f"g{i}" for i in range(10)), "words": tuple(f"w{i}" for i in range(8))}
    return Features({"graph": x, "words": words}, names), y


def check_predictor(predictor: Predictor) -> None:
    """A predictor learns, repeats itself, treats each architecture alone, keeps its interval's promise and says what it lacks.

    Its ranking follows the label on architectures that it has not seen; two fits with one seed are equal; a monotone change of
    the label keeps the ranking and the coverage; the 90 % interval holds 80 to 97 % of 1,000 unseen labels and a higher level is
    wider; labels that are few, equal, infinite or miscounted raise.
    """
    assert isinstance(predictor.paper, Paper) and predictor.name
    x, y = toy(1120, np.random.default_rng(0))
    seen, unseen = np.arange(120), np.arange(120, 1120)
    fitted, again, other = (predictor.fit(x[seen], f(y[seen]), np.random.default_rng(1)) for f in (np.array, np.array, np.arctan))
    found = fitted.predict(x[unseen])
    assert tau(found.mean, y[unseen]) > 0.4 and fitted.tau > 0.3
    assert np.array_equal(found.mean, again.predict(x[unseen]).mean)
    assert np.allclose(found.mean[:7], fitted.predict(x[unseen[:7]]).mean, rtol=1e-3, atol=1e-4)
    assert np.allclose(fitted.score(x[unseen]), other.score(x[unseen]))
    assert bool((found.low <= found.mean).all() and (found.mean <= found.high).all() and (found.std > 0).all())
    for f, fit in ((np.array, fitted), (np.arctan, other)):
        ends = fit.predict(x[unseen])
        assert 0.8 <= float(((ends.low <= f(y[unseen])) & (f(y[unseen]) <= ends.high)).mean()) <= 0.97
    for labels in (y[:4], np.ones(120), np.full(120, np.nan), y[:119]):
        with pytest.raises(NetwrightError, match="finite labels that differ"):
            predictor.fit(x[seen[: max(4, min(120, len(labels) + (len(labels) == 119)))]], labels, np.random.default_rng(0))
