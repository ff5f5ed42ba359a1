"""Relative improvement over the average architecture: by hand, by simulation, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from netwright.core.errors import DataError
from netwright.estimate.improvement import paper, relative_improvement, seed_deviation


def test_by_hand():
    found = relative_improvement([93.0, 95.0], [80.0, 90.0, 100.0])
    assert found.percent == pytest.approx(100 * (94 - 90) / 90)
    assert found.deviation == pytest.approx(100 / 90 * np.sqrt(2))
    assert str(found) == "+4.44 % (1.57)" and paper.id == "S093"
    assert relative_improvement([0.9], [0.9, 0.9]) == relative_improvement([90], [90, 90])  # no unit, no spread


def test_a_method_that_draws_at_random_improves_nothing_and_the_error_says_how_sure_that_is():
    rng = np.random.default_rng(0)
    space = 90 + 3 * rng.standard_normal(5000)
    trials = [relative_improvement(rng.choice(space, 5), rng.choice(space, 20)) for _ in range(400)]
    outside = np.mean([abs(t.percent) > 2 * t.error for t in trials])
    assert abs(np.mean([t.percent for t in trials])) < 0.2 and 0.02 < outside < 0.14
    assert np.std([t.percent for t in trials]) == pytest.approx(np.sqrt(np.mean([t.error**2 for t in trials])), rel=0.15)


def test_what_another_seed_changes_is_pooled_over_networks():
    rng = np.random.default_rng(0)
    networks = np.repeat(np.arange(300), 3)
    accuracies = 5 * rng.standard_normal(300)[networks] + 0.4 * rng.standard_normal(900)
    assert seed_deviation(accuracies, networks.tolist()) == pytest.approx(0.4, rel=0.1)


def test_faults_are_named():
    with pytest.raises(DataError, match="0 accuracies of the method and 3 of random"):
        relative_improvement([], [1, 2, 3])
    with pytest.raises(DataError, match="1 of random"):
        relative_improvement([1], [1])
    with pytest.raises(DataError, match="mean of 0"):
        relative_improvement([1], [0, 0])
    with pytest.raises(DataError, match="None of 2 networks occurs twice"):
        seed_deviation([1, 2], ["a", "b"])
