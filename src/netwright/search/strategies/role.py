"""The role of a search strategy."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import optuna

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.core.space import Arch, Space
from netwright.search.objective import Score
from netwright.search.store import Store


@dataclass(frozen=True)
class State:
    """A search between two calls: the store with all trials, and the trial asked for and not yet told."""

    store: Store
    asked: optuna.Trial | None = None

    @property
    def number(self) -> int:
        """Of the trial asked for, -1 when there is none."""
        return -1 if self.asked is None else self.asked.number


class Strategy(ABC):
    """Proposes architectures. Holds hyper-parameters only; what was found out so far is in the `State`.

    `ask` depends on the finished trials in the store and on `rng` alone, so a search that was killed goes on as if nothing
    had happened when it is given the generator of the same trial again.
    """

    name: ClassVar[str]
    paper: ClassVar[Paper]

    @abstractmethod
    def propose(self, store: Store, rng: random.Random) -> tuple[Arch, optuna.Trial]:
        """The next architecture, started as a trial of `store` (`Store.propose`)."""

    def init(self, space: Space, objectives: Sequence[str], path: Path | None = None, name: str | None = None) -> State:
        """Open the trials in `path` (in memory when None); see `Store.open`."""
        return State(Store.open(space, objectives, path, name))

    def ask(self, state: State, rng: random.Random) -> tuple[Arch, State]:
        """An architecture to evaluate, and the state in which it is awaited."""
        if state.asked is not None:
            raise NetwrightError(f"Trial {state.number} was asked for and not told yet; tell it before the next ask.")
        arch, trial = self.propose(state.store, rng)
        return arch, replace(state, asked=trial)

    def tell(self, state: State, arch: Arch, score: Score) -> State:
        """Commit the values of the architecture asked for."""
        if state.asked is None:
            raise NetwrightError(f"No trial was asked for, so {arch} cannot be told.")
        state.store.finish(state.asked, score)
        return replace(state, asked=None)

    def fail(self, state: State, arch: Arch, reason: str) -> State:
        """Commit that the architecture asked for gave no values."""
        if state.asked is None:
            raise NetwrightError(f"No trial was asked for, so {arch} cannot be failed.")
        state.store.fail(state.asked, reason)
        return replace(state, asked=None)
