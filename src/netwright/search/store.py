"""Store: the trials of one search, in an Optuna study in SQLite or in memory.

Every finished trial is one committed transaction, so it survives a kill at any moment. A strategy keeps no state of its
own beside this store: what it proposes is a function of the finished trials and the seed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from netwright.core.errors import NetwrightError
from netwright.core.logs import quiet
from netwright.core.space import Arch, Domain, Space
from netwright.core.trial import Trial
from netwright.search.objective import Score

Params = dict[str, Any]


def distribution(domain: Domain) -> BaseDistribution:
    """A domain for Optuna: evenly spaced whole numbers as integers, all else as categories."""
    values = sorted(domain.values) if domain.ordered else []
    steps = {b - a for a, b in pairwise(values)}
    if values and len(steps) <= 1 and all(type(v) is int for v in values):
        return IntDistribution(values[0], values[-1], step=steps.pop() if steps else 1)
    return CategoricalDistribution(domain.values)


@dataclass(frozen=True)
class Failure:
    """A trial that gave no values, and why."""

    number: int
    arch: Arch
    reason: str


@dataclass(frozen=True)
class Store:
    """The trials of one search over `space`, with the names of the objectives (all minimised)."""

    space: Space
    objectives: tuple[str, ...]
    study: optuna.Study

    @classmethod
    def open(cls, space: Space, objectives: Sequence[str], path: Path | None = None, name: str | None = None) -> Store:
        """Create the store, or open it again.

        Args:
            path: the SQLite file, created with its folder; None keeps the trials in memory.
            name: of the study in the file; the space's name when None.

        Raises:
            NetwrightError: the file holds a study of another space or other objectives, or is no database.
        """
        if not objectives:
            raise NetwrightError("A search needs at least one objective.")
        with quiet("optuna"):
            study = optuna.create_study(
                storage=_storage(path),
                study_name=name or space.name,
                directions=["minimize"] * len(objectives),
                load_if_exists=True,
                sampler=RandomSampler(),
            )
            domains = {k: list(d.values) for k, d in space.decisions.items()}
            wanted = json.dumps({"space": space.name, "objectives": list(objectives), "decisions": domains})
            found = study.user_attrs.get("netwright")
            if found is None:
                study.set_user_attr("netwright", wanted)
                found = wanted
        if found != wanted:
            was = json.loads(found)
            raise NetwrightError(
                f"{path} holds a search over the space {was['space']!r} for {', '.join(was['objectives'])}, not (or no longer) "
                f"the one asked for: {space.name!r} for {', '.join(objectives)}. Choose another name, or remove the file."
            )
        return cls(space, tuple(objectives), study)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return {name: distribution(domain) for name, domain in self.space.decisions.items()}

    def propose(self, sampler: BaseSampler | None = None, arch: Arch | None = None) -> tuple[Arch, optuna.Trial]:
        """Start a trial: an architecture that waits to be tried again, else `arch`, else what `sampler` proposes."""
        with quiet("optuna"):
            if arch is not None and not self._frozens(TrialState.WAITING):
                self.study.enqueue_trial(dict(arch.values))
            self.study.sampler = sampler or RandomSampler(seed=0)
            trial = self.study.ask(self.distributions)
        return self.space.arch(trial.params), trial

    def finish(self, trial: optuna.Trial, score: Score) -> None:
        """Commit the values of a running trial."""
        with quiet("optuna"):
            for key, value in score.violations.items():
                trial.set_constraint(key, value)
            trial.set_user_attr("how", dict(score.how))
            self.study.tell(trial, [score.objectives[k] for k in self.objectives])

    def fail(self, trial: optuna.Trial, reason: str) -> None:
        """Commit that a running trial gave no values."""
        with quiet("optuna"):
            trial.set_user_attr("failed", reason)
            self.study.tell(trial, state=TrialState.FAIL)

    def recover(self) -> int:
        """Trials that a killed process left running are failed, and their architectures wait to be tried again."""
        waiting = [t.system_attrs.get("fixed_params") for t in self._frozens(TrialState.WAITING)]
        running = self._frozens(TrialState.RUNNING)
        with quiet("optuna"):
            for trial in running:
                # a trial killed while it was being drawn has not all its decisions: it was not evaluated either
                if trial.params.keys() == self.space.decisions.keys() and trial.params not in waiting:
                    self.study.enqueue_trial(trial.params)
                    waiting.append(trial.params)
                self.study.tell(trial.number, state=TrialState.FAIL)
        return len(running)

    @property
    def trials(self) -> list[Trial]:
        """The finished trials in their order."""
        return [self._trial(t) for t in self._frozens(TrialState.COMPLETE)]

    @property
    def failures(self) -> list[Failure]:
        """The trials whose objective failed (not those of a killed process)."""
        failed = [t for t in self._frozens(TrialState.FAIL) if "failed" in t.user_attrs]
        return [Failure(t.number, self.space.arch(t.params), t.user_attrs["failed"]) for t in failed]

    @property
    def scores(self) -> dict[Arch, tuple[int, Score]]:
        """Architecture -> the number and the score of its first finished trial."""
        found: dict[Arch, tuple[int, Score]] = {}
        for t in self._frozens(TrialState.COMPLETE):
            found.setdefault(self.space.arch(t.params), (t.number, self._score(t)))
        return found

    def _score(self, t: FrozenTrial) -> Score:
        return Score(dict(zip(self.objectives, t.values, strict=True)), dict(t.constraints), t.user_attrs.get("how", {}))

    def _trial(self, t: FrozenTrial) -> Trial:
        score = self._score(t)
        return Trial(t.number, self.space.arch(t.params), score.objectives, score.feasible, score.how)

    def _frozens(self, *states: TrialState) -> list[FrozenTrial]:
        found: list[FrozenTrial] = self.study.get_trials(deepcopy=False, states=states)
        return found


def _storage(path: Path | None) -> BaseStorage:
    if path is None:
        return InMemoryStorage()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size and not _starts_as_database(path):
        raise NetwrightError(f"{path} is no SQLite database. Remove it, or choose another path.")
    # SQLite's default rollback journal, not the faster write-ahead log: with the log a database was found malformed after
    # kill -9 (tests/search/test_study.py does the killing)
    return RDBStorage(f"sqlite:///{path.resolve()}", engine_kwargs={"connect_args": {"timeout": 60}})


def _starts_as_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(15) == b"SQLite format 3"
