"""The whole chain on a tiny budget: what it promises does not depend on how good the network is."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch

from netwright.core.errors import NetwrightError
from netwright.pipeline import Chain, RunRecipe, prove

RECIPE = """
name = "tiny"
calibration = 128
[task]
data = "{data}"
[design]
stages = 2
blocks = ["conv", "convnext", "gnconv", "mbconv", "inception_dw", "vanilla"]
depths = [1, 1]
widths = [8, 16]
kernels = [3]
expansions = [1, 2]
[search]
trials = 6
population = 3
[search.supernet]
steps = 30
evaluations = 1
[train]
steps = 60
evaluations = 2
[compress.ternary]
method = "bitnet"
train = {{ steps = 20, evaluations = 1 }}
[compress.binary]
method = "biper"
train = {{ steps = 20, evaluations = 1 }}
[spike]
steps = 4
[measure]
rounds = 5
devices = ["cortex-m4"]
"""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE.format(data="digits"))
    return path


@pytest.fixture(scope="module")
def run(recipe_file, tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    chain = Chain(RunRecipe.load(recipe_file), root)
    return chain, prove(chain, "netwright run tiny.toml")


def test_five_forms_are_compiled_and_equal_pytorch(run):
    _, summary = run
    variants = {v["name"]: v for v in summary["variants"]}
    assert list(variants) == ["float", "int8", "ternary", "binary", "spiking"]
    assert variants["float"]["max_abs_diff"] < 1e-4
    for name in ("int8", "ternary", "binary", "spiking"):
        assert variants[name]["max_abs_diff"] == 0 and variants[name]["agreement"] == 1
        assert variants[name]["accuracy"] == variants[name]["torch_accuracy"]
    for v in variants.values():
        assert v["latency_us"]["how"] == "measured" and v["latency_us"]["threads"] == 1
        assert v["latency_us"]["p10"] <= v["latency_us"]["median"] <= v["latency_us"]["p90"]
        assert v["energy_pj"]["how"] == "modelled" and v["n_test"] == 360
    assert variants["binary"]["binary_ops"] > 0 and variants["spiking"]["synaptic_ops"] > 0


def test_other_processors_give_the_same_or_say_why_not(run):
    rows = run[1]["devices"]
    assert [r["form"] for r in rows] == ["float", "int8", "ternary", "binary", "spiking"]
    there = shutil.which("arm-none-eabi-gcc") and shutil.which("qemu-system-arm")
    for r in rows:
        if there:
            assert not r["why"] and r["max_abs_diff"] <= (1e-5 if r["form"] == "float" else 0)
            assert r["instructions"] > 10_000 and min(r["flash_bytes"], r["ram_bytes"]) > 10_000
        else:
            assert "apt-get install" in r["why"]


def test_fewer_bits_take_fewer_bytes(run):
    sizes = {v["name"]: v["weight_bytes"] for v in run[1]["variants"]}
    assert sizes["binary"] < sizes["ternary"] < sizes["int8"] < sizes["float"]


def test_a_block_that_cannot_spike_is_left_out_with_the_reason(run):
    chain, _ = run
    assert list(chain.refused) == ["gnconv"] and "mul" in chain.refused["gnconv"]
    assert "gnconv" not in chain.space.decisions["stages.0.block"].values


def test_gnconv_is_searched_where_no_form_refuses_it():
    chain = Chain(RunRecipe.read({"forms": ["float", "int8"]}), "unused")
    assert "gnconv" in chain.space.decisions["stages.0.block"].values


def test_the_files_are_there_and_offline(run):
    chain, summary = run
    assert json.loads((chain.root / "summary.json").read_text()) == json.loads(json.dumps(summary))
    html = (chain.root / "report" / "index.html").read_text()
    assert "<svg" in html and 'src="http' not in html
    for v in summary["variants"]:
        assert (chain.root / v["bundle"] / "model.c").exists()


def test_a_finished_run_is_read_back_not_made_again(run, recipe_file):
    chain, _ = run
    before = {p: p.stat().st_mtime_ns for p in chain.root.rglob("weights.safetensors")}
    again = Chain(RunRecipe.load(recipe_file), chain.root)
    for name in again.recipe.forms:
        x = again.task.test.x[:8].numpy()
        assert np.array_equal(again.form(name).bundle.run(x), chain.form(name).bundle.run(x))
    assert {p: p.stat().st_mtime_ns for p in chain.root.rglob("weights.safetensors")} == before


def test_calibration_data_are_training_images(run):
    chain, _ = run
    train = {t.numpy().tobytes() for t in chain.task.train.x}
    assert all(t.numpy().tobytes() in train for t in chain.calibration)


def test_an_integer_form_that_differed_from_pytorch_would_be_an_error(run, monkeypatch):
    chain, _ = run
    honest = torch.nn.Module.__call__
    monkeypatch.setattr("netwright.pipeline.proof._logits", lambda module, x: honest(module, x[:1]).detach().numpy() + 1)
    with pytest.raises(NetwrightError, match="differs from PyTorch"):
        prove(chain, "")


def test_killed_at_any_moment_a_run_goes_on_and_loses_no_finished_trial(recipe_file, tmp_path):
    command = [sys.executable, "-m", "netwright", "search", str(recipe_file), "--out", str(tmp_path), "--json"]
    study = tmp_path / "tiny" / "search" / "study.db"

    def finished() -> dict[int, list[float]]:
        if not study.exists():
            return {}
        try:
            trials = optuna.load_study(study_name=None, storage=f"sqlite:///{study}").trials
        except Exception:  # the tables are being made
            return {}
        return {t.number: t.values for t in trials if t.state == optuna.trial.TrialState.COMPLETE}

    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while len(finished()) < 2 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = finished()
    assert len(before) >= 2
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    after = finished()
    assert all(after[number] == values for number, values in before.items())
    assert json.loads(shown.stdout)["chosen"]["objectives"]


@pytest.mark.parametrize("channels", [1, 3])
def test_own_data_runs_through_the_same_recipe(recipe_file, tmp_path, channels):
    """Three kinds of blobs, as an .npz: channels, size and classes are found, not asked."""
    rng = np.random.default_rng(0)
    y = np.repeat([4, 7, 9], 40)
    x = rng.integers(0, 60, (120, 9, 11, channels), dtype=np.uint8)
    for i, label in enumerate(y):
        x[i, label - 4 : label - 1, 2:8] += 150
    order = rng.permutation(120)
    x, y = x[order], y[order]
    path = tmp_path / "blobs.npz"
    np.savez(path, x_train=x[:90], y_train=y[:90], x_test=x[90:], y_test=y[90:])
    recipe = RunRecipe.load(recipe_file, {"task.data": str(path), "forms": ["float", "int8"], "search.trials": 2})
    summary = prove(Chain(recipe, Path(tmp_path) / "run"), "")
    assert summary["variants"][0]["n_test"] == 30
    assert summary["variants"][0]["accuracy"] > 0.6
