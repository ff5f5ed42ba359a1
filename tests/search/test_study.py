"""Studies: caching, failures, resuming after kill -9, one process at a time."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from netwright.core import Arch, Space, choice, ints
from netwright.core.errors import NetwrightError
from netwright.search import Score, SearchFailed, Study, run
from netwright.search.store import distribution
from netwright.search.strategies import NSGA2, Random
from netwright.testing.search import BRIEF, NAMES, TOY, Layer, brief, toy

SMALL = Space("small", Layer(choice(1, 2, 3), ints(1, 2), choice("a", "b")))


def test_domains_become_distributions_once():
    kinds = {name: distribution(d) for name, d in TOY.decisions.items()}
    assert kinds["depth"] == optuna.distributions.IntDistribution(1, 4)
    assert kinds["layers.0.kernel"] == optuna.distributions.IntDistribution(3, 7, step=2)
    assert kinds["layers.0.width"] == optuna.distributions.CategoricalDistribution((4, 8, 16, 32))
    assert kinds["residual"] == optuna.distributions.CategoricalDistribution((True, False))
    assert distribution(choice(0.5, 1.0)) == optuna.distributions.CategoricalDistribution((0.5, 1.0))
    assert distribution(ints(3, 3)).single()


def test_an_architecture_is_evaluated_once_but_told_every_time():
    calls: list[Arch] = []

    def objective(arch: Arch) -> Score:
        calls.append(arch)
        return Score({"error": arch["width"] / 10}, {"limit": 1.0 if arch["kind"] == "a" else -1.0}, {"weights": "inherited"})

    study = run(SMALL, Random(), objective, ("error",), trials=60, seed=0)
    assert len(study.trials) == 60
    assert len(calls) == len(set(calls)) == len(study.distinct) == SMALL.size == 12
    first = {t.arch: t for t in study.distinct}
    for t in study.trials:
        same = first[t.arch]
        assert (t.objectives, t.feasible) == (same.objectives, same.feasible)
        assert t.how.get("same_as") == (None if t.number == same.number else str(same.number))
    assert {t.arch["kind"] for t in study.front} == {"b"}
    assert len(study.front) == 2, "both kernels with width 1 tie, each once"


def test_progress_counts_all_trials():
    seen: list[tuple[int, int, str]] = []
    run(SMALL, Random(), lambda a: {"error": float(a["width"])}, ("error",), trials=4, seed=0, progress=lambda *a: seen.append(a))
    assert [s[:2] for s in seen] == [(i, 4) for i in (1, 2, 3, 4)]
    assert seen[-1][2].startswith("best error")


def test_a_failed_trial_is_kept_with_its_reason_and_the_search_goes_on():
    def objective(arch: Arch) -> dict[str, float]:
        if arch["layers.0.width"] == 4:
            raise NetwrightError("does not compile")
        return toy(arch)

    study = run(TOY, NSGA2(population=5), objective, NAMES, trials=30, seed=1, stop_after_failures=10)
    assert len(study.trials) + len(study.failures) == 30
    assert study.failures
    assert all(f.reason == "does not compile" and f.arch["layers.0.width"] == 4 for f in study.failures)


def test_failures_in_a_row_stop_the_search():
    def broken(arch: Arch) -> dict[str, float]:
        raise NetwrightError("no compiler")

    with pytest.raises(SearchFailed, match=r"3 trials in a row failed.*no compiler"):
        run(TOY, Random(), broken, NAMES, trials=30, seed=1, stop_after_failures=3)


@pytest.mark.parametrize(
    ("answer", "words"),
    [({"error": float("nan"), "bytes": 1.0}, "error = nan is no finite number"), ({"error": 0.1}, "objectives error, bytes")],
)
def test_bad_answers_fail_the_trial(answer, words):
    with pytest.raises(SearchFailed, match=words):
        run(TOY, Random(), lambda a: answer, NAMES, trials=3, seed=0, stop_after_failures=1)


def test_errors_of_the_program_are_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        run(TOY, Random(), lambda a: {"error": 1 / 0}, NAMES, trials=3, seed=0)


def test_more_trials_later(tmp_path: Path):
    path = tmp_path / "runs" / "a" / "study.db"
    first = run(BRIEF, Random(), brief, NAMES, trials=3, seed=0, path=path)
    again = run(BRIEF, Random(), brief, NAMES, trials=6, seed=0, path=path)
    assert again.trials[:3] == Study.open(BRIEF, NAMES, path).trials[:3] == first.trials[:3]
    assert len(again.trials) == 6
    # the file is an ordinary Optuna study, as optuna-dashboard opens it
    opened = optuna.load_study(study_name="brief", storage=f"sqlite:///{path}")
    assert [t.values for t in opened.trials] == [list(t.objectives.values()) for t in again.trials]


def test_a_file_that_is_no_database(tmp_path: Path):
    path = tmp_path / "study.db"
    path.write_text("hello, this is no database")
    with pytest.raises(NetwrightError, match="is no SQLite database"):
        run(BRIEF, Random(), brief, NAMES, trials=1, seed=0, path=path)


def test_two_searches_do_not_share_a_study(tmp_path: Path):
    path = tmp_path / "study.db"

    def nested(arch: Arch) -> dict[str, float]:
        with pytest.raises(NetwrightError, match="Another process is searching"):
            run(BRIEF, Random(), brief, NAMES, trials=1, seed=0, path=path)
        return brief(arch)

    assert len(run(BRIEF, Random(), nested, NAMES, trials=1, seed=0, path=path).trials) == 1


def test_optunas_log_level_is_put_back(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    logger = logging.getLogger("optuna")
    level = logger.level
    run(BRIEF, Random(), brief, NAMES, trials=2, seed=0)
    assert logger.level == level
    assert not caplog.records


SEARCH = """
import json, sys, time
from pathlib import Path
from netwright.search import run
from netwright.search.strategies import NSGA2
from netwright.testing.search import BRIEF, NAMES, brief

def slow(arch):
    print(json.dumps(arch.to_json()), flush=True)
    time.sleep(0.05)
    return brief(arch)

run(BRIEF, NSGA2(population=4), slow, NAMES, trials=12, seed=5, path=Path(sys.argv[1]))
"""


def test_survives_kill_9(tmp_path: Path):
    path = tmp_path / "study.db"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    started: list[Arch] = []
    finished: set[Arch] = set()
    for least in (3, 4):
        process = subprocess.Popen([sys.executable, "-c", SEARCH, str(path)], stdout=subprocess.PIPE, text=True, env=env)
        assert process.stdout is not None
        for i, line in enumerate(process.stdout, start=1):
            started.append(Arch.from_json(line))
            if i == least:
                time.sleep(0.02)  # in the middle of the objective
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
        now = {t.arch for t in Study.open(BRIEF, NAMES, path).trials}
        assert now >= finished, "a finished trial was lost"
        finished = now
    done = subprocess.run([sys.executable, "-c", SEARCH, str(path)], capture_output=True, text=True, env=env, check=True)
    started += [Arch.from_json(line) for line in done.stdout.splitlines()]
    study = Study.open(BRIEF, NAMES, path)
    assert len(study.trials) == 12
    assert not study.failures
    undisturbed = run(BRIEF, NSGA2(population=4), brief, NAMES, trials=12, seed=5)
    assert [t.arch for t in study.trials] == [t.arch for t in undisturbed.trials]
    assert started[2] == started[3], "the killed trial is the first to be tried again"
    assert json.loads(study.store.study.user_attrs["netwright"])["objectives"] == list(NAMES)
