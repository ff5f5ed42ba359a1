"""The contract of a search strategy.

Derive a test class and give the strategies:

    class TestMine(StrategyContract):
        strategies = (Mine(),)
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.core.space import Arch, Space, choice, ints
from netwright.search.objective import Score
from netwright.search.store import Store
from netwright.search.strategies.role import Strategy
from netwright.search.study import run


@dataclass(frozen=True)
class Layer:
    """One layer of the toy space."""

    width: Any = field(default_factory=lambda: choice(4, 8, 16, 32))
    kernel: Any = field(default_factory=lambda: choice(3, 5, 7))
    kind: Any = field(default_factory=lambda: choice("conv", "mbconv", "gnconv"))


@dataclass(frozen=True)
class Net:
    """Four layers and a depth: 3.7e6 architectures."""

    depth: Any = field(default_factory=lambda: ints(1, 4))
    residual: Any = field(default_factory=lambda: choice(True, False))
    scale: Any = field(default_factory=lambda: choice(0.5, 1.0))
    layers: tuple[Layer, ...] = (Layer(), Layer(), Layer(), Layer())
    classes: int = 10


TOY = Space("toy", Net())
NAMES = ("error", "bytes")


def toy(arch: Arch) -> dict[str, float]:
    """Two objectives in conflict, in [0, 1]: wide layers lower the error, each kind has its best kernel, all cost bytes."""
    best = {"conv": 3, "mbconv": 5, "gnconv": 7}
    error = size = 0.0
    for i in range(4):
        width, kernel, kind = (arch[f"layers.{i}.{k}"] for k in ("width", "kernel", "kind"))
        error += (1 - width / 32) * 0.7 + 0.3 * abs(kernel - best[kind]) / 4
        size += width * kernel / (32 * 7) * (1.0 if kind == "conv" else 0.8)
    error += 0.4 * (4 - arch["depth"]) / 3 + (0.0 if arch["residual"] else 0.3) + (0.3 if arch["scale"] == 0.5 else 0.0)
    return {"error": error / 5, "bytes": (size + 0.3 * arch["depth"]) / 5.2}


# three decisions: SQLite takes one commit a decision
BRIEF = Space("brief", Layer(ints(1, 40), choice(3, 5, 7), choice("conv", "mbconv", "gnconv")))


def brief(arch: Arch) -> dict[str, float]:
    """Two objectives in conflict on `BRIEF`."""
    return {"error": 1 / arch["width"] + (arch["kind"] == "conv"), "bytes": float(arch["width"] * arch["kernel"])}


class StrategyContract:
    """What the rest of the house relies on."""

    strategies: ClassVar[tuple[Strategy, ...]] = ()

    @pytest.fixture
    def strategy(self, request: pytest.FixtureRequest) -> Strategy:
        found: Strategy = request.param
        return found

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "strategy" in metafunc.fixturenames:
            metafunc.parametrize("strategy", self.strategies, indirect=True, ids=lambda s: s.name)

    def test_has_a_name_and_a_paper(self, strategy: Strategy) -> None:
        assert strategy.name
        assert isinstance(strategy.paper, Paper)

    def test_asks_are_in_the_space(self, strategy: Strategy) -> None:
        state = strategy.init(TOY, NAMES)
        for i in range(60):
            arch, state = strategy.ask(state, random.Random(i))
            assert TOY.arch(dict(arch.values)) == arch
            assert all(type(v) is type(d.values[0]) for (_, v), d in zip(arch.values, TOY.decisions.values(), strict=True))
            state = strategy.tell(state, arch, Score(toy(arch)))
        assert len(state.store.trials) == 60

    def test_the_same_seed_asks_the_same(self, strategy: Strategy) -> None:
        first, again, other = ([t.arch for t in run(TOY, strategy, toy, NAMES, trials=80, seed=s).trials] for s in (1, 1, 2))
        assert first == again
        assert first != other

    def test_a_resumed_search_asks_what_an_undisturbed_one_asks(self, strategy: Strategy, tmp_path: Path) -> None:
        path = tmp_path / "study.db"
        undisturbed = [t.arch for t in run(BRIEF, strategy, brief, NAMES, trials=14, seed=3).trials]
        calls: list[Arch] = []

        def interrupted(arch: Arch) -> dict[str, float]:
            calls.append(arch)
            if len(calls) in (3, 12):
                raise KeyboardInterrupt
            return brief(arch)

        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                run(BRIEF, strategy, interrupted, NAMES, trials=14, seed=3, path=path)
        study = run(BRIEF, strategy, interrupted, NAMES, trials=14, seed=3, path=path)
        assert [t.arch for t in study.trials] == undisturbed
        assert calls.count(calls[2]) == calls.count(calls[11]) == 2, "the architecture of a killed trial is tried again"
        assert len(calls) == len(set(undisturbed)) + 2

    def test_infeasible_trials_are_kept_apart(self, strategy: Strategy) -> None:
        def limited(arch: Arch) -> Score:
            values = toy(arch)
            return Score(values, {"bytes": values["bytes"] - 0.3}, {"note": "toy"})

        study = run(TOY, strategy, limited, NAMES, trials=80, seed=0)
        assert all(t.feasible == (t.objectives["bytes"] <= 0.3) for t in study.trials)
        assert {t.feasible for t in study.trials} == {True, False}
        assert all(t.feasible for t in study.front)
        assert all(t.how["note"] == "toy" for t in study.trials)

    def test_a_space_of_one_architecture(self, strategy: Strategy) -> None:
        single = Space("single", Layer(choice(4), ints(3, 3), choice("conv")))
        study = run(single, strategy, lambda a: {"error": 0.5}, ("error",), trials=6, seed=0)
        assert len(study.trials) == 6
        assert len(study.front) == 1

    def test_ask_and_tell_take_turns(self, strategy: Strategy) -> None:
        state = strategy.init(TOY, NAMES)
        arch, asked = strategy.ask(state, random.Random(0))
        with pytest.raises(NetwrightError, match="not told yet"):
            strategy.ask(asked, random.Random(0))
        with pytest.raises(NetwrightError, match="No trial was asked for"):
            strategy.tell(state, arch, Score(toy(arch)))

    def test_the_store_refuses_another_space(self, strategy: Strategy, tmp_path: Path) -> None:
        run(BRIEF, strategy, brief, NAMES, trials=1, seed=0, path=tmp_path / "study.db")
        with pytest.raises(NetwrightError, match=r"holds a search over the space 'brief' for error, bytes"):
            Store.open(Space("brief", Layer()), NAMES, tmp_path / "study.db")
        with pytest.raises(NetwrightError, match="for error, latency"):
            Store.open(BRIEF, ("error", "latency"), tmp_path / "study.db")


def mean_hypervolume(strategy: Strategy, trials: int = 160, seeds: int = 5) -> float:
    """Mean hypervolume on the toy problem, reference (1, 1); a strategy should beat `Random` by a clear margin."""
    return sum(run(TOY, strategy, toy, NAMES, trials=trials, seed=s).hypervolume((1.0, 1.0)) for s in range(seeds)) / seeds


__all__ = ["BRIEF", "NAMES", "TOY", "StrategyContract", "brief", "mean_hypervolume", "toy"]
