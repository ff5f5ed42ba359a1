"""Study: a search that can be killed at any moment and goes on where it was."""

from __future__ import annotations

import fcntl
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from netwright.core.errors import NetwrightError
from netwright.core.space import Arch, Space
from netwright.core.trial import Trial, pareto_front
from netwright.search.hypervolume import hypervolume
from netwright.search.objective import Objective, Score
from netwright.search.store import Failure, Store
from netwright.search.strategies.role import Strategy

Progress = Callable[[int, int, str], None]


class SearchFailed(NetwrightError):
    """Too many trials in a row failed; carries the last reason."""


@dataclass(frozen=True)
class Study:
    """What a search has found. Reads the store anew on every access."""

    store: Store
    path: Path | None = None

    @classmethod
    def open(cls, space: Space, objectives: Sequence[str], path: Path | None = None, name: str | None = None) -> Study:
        """Create or open, see `Store.open`; while another process searches, its running trial is left alone."""
        return cls(Store.open(space, objectives, path, name), path)

    @property
    def trials(self) -> list[Trial]:
        """Finished trials in their order; an architecture asked for twice is there twice, `how["same_as"]` names the first."""
        return self.store.trials

    @property
    def failures(self) -> list[Failure]:
        return self.store.failures

    @property
    def distinct(self) -> list[Trial]:
        """Finished trials, each architecture once."""
        return list({t.arch: t for t in reversed(self.trials)}.values())[::-1]

    @property
    def front(self) -> list[Trial]:
        """The feasible, non-dominated architectures, each once, by the first objective."""
        return sorted(pareto_front(self.distinct), key=lambda t: tuple(t.objectives.values()))

    def hypervolume(self, reference: Sequence[float]) -> float:
        """Of the front, in the order of the objectives."""
        return hypervolume([tuple(t.objectives.values()) for t in self.front], reference)


def run(
    space: Space,
    strategy: Strategy,
    objective: Objective,
    objectives: Sequence[str],
    *,
    trials: int,
    seed: int,
    path: Path | None = None,
    name: str | None = None,
    stop_after_failures: int = 5,
    progress: Progress | None = None,
) -> Study:
    """Search until the study has `trials` trials, those of earlier runs counted.

    A trial left running by a killed process is failed and its architecture tried again. Trial n draws from a generator
    seeded with (seed, n), so a search that was killed asks for the same architectures as one that was not. An
    architecture that was tried before is answered from its first trial. An objective that raises a `NetwrightError`
    fails its trial with the reason, and the search goes on.

    Args:
        objective: Arch -> values by name, or a `Score` with limits and facts; all values are minimised.
        objectives: the names, in the order in which they are stored.
        trials: how many the study shall have, finished or failed.
        path: the SQLite file (``runs/<name>/study.db``; optuna-dashboard opens it); None keeps the trials in memory.
        stop_after_failures: this many failed trials in a row end the search.
        progress: called with (trials done, trials, text).

    Raises:
        SearchFailed: `stop_after_failures` trials failed in a row.
        NetwrightError: the file is of another search, or another process is searching in it.
    """
    with _alone(path):
        state = strategy.init(space, objectives, path, name)
        study = Study(state.store, path)
        state.store.recover()
        known = state.store.scores
        done, in_a_row = len(study.trials) + len(study.failures), 0
        while done < trials:
            arch, state = strategy.ask(state, random.Random(f"{seed}:{done}"))
            try:
                score = _answer(arch, objective, known, state.store.objectives)
            except NetwrightError as error:
                state = strategy.fail(state, arch, str(error))
                in_a_row += 1
                text = f"trial failed: {error}"
                if in_a_row >= stop_after_failures:
                    raise SearchFailed(f"{in_a_row} trials in a row failed, the last one ({arch}) with: {error}") from error
            else:
                in_a_row = 0
                known.setdefault(arch, (state.number, score))
                state = strategy.tell(state, arch, score)
                values = [s.objectives[objectives[0]] for _, s in known.values() if s.feasible]
                text = f"best {objectives[0]} {min(values):.4g}" if values else "no feasible trial yet"
            done += 1
            if progress:
                progress(done, trials, text)
    return study


def _answer(arch: Arch, objective: Objective, known: dict[Arch, tuple[int, Score]], names: tuple[str, ...]) -> Score:
    """The score of the first trial of the same architecture, else what the objective says."""
    if arch in known:
        number, score = known[arch]
        return replace(score, how={**score.how, "same_as": str(number)})
    start = time.perf_counter()
    score = Score.of(objective(arch), names)
    return replace(score, how={**score.how, "seconds": f"{time.perf_counter() - start:.3f}"})


@contextmanager
def _alone(path: Path | None) -> Iterator[None]:
    """Holds the study's lock file; the system frees it when the process ends, however it ends."""
    if path is None:
        yield
        return
    lock = Path(path).with_suffix(".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise NetwrightError(
                f"Another process is searching in {path}. Wait for it, or give this search another name."
            ) from error
        yield
