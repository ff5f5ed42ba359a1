"""Every strategy passes the contract; NSGA-II beats random search and honours limits."""

from __future__ import annotations

from netwright.search import compare, run
from netwright.search.strategies import CATALOGUE, NSGA2, Random
from netwright.testing.search import NAMES, TOY, StrategyContract, mean_hypervolume, toy


class TestStrategies(StrategyContract):
    strategies = (Random(), NSGA2(population=5))


def test_the_catalogue():
    assert sorted(CATALOGUE) == ["nsga2", "random"]


def test_nsga2_beats_random_on_average():
    random, genetic = mean_hypervolume(Random(), seeds=3), mean_hypervolume(NSGA2(), seeds=3)
    assert genetic > 1.05 * random


def test_nsga2_draws_no_copies():
    archs = [t.arch for t in run(TOY, NSGA2(population=10), toy, NAMES, trials=120, seed=0).trials]
    assert len(set(archs)) == len(archs)


def test_the_comparison_is_at_equal_trials():
    genetic = run(TOY, NSGA2(), toy, NAMES, trials=140, seed=0).trials
    random = run(TOY, Random(), toy, NAMES, trials=200, seed=0).trials
    found = compare(genetic, random)
    assert found.trials == 140
    assert found.ratio > 1
    assert compare(random[:140], random).ratio == 1.0
    assert 0 < found.baseline < found.search < 1
