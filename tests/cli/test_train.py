"""netwright train --family NAME --data PATH, and what reads its result back."""

from __future__ import annotations

import json

import pytest

from netwright.cli import main

ARGUMENTS = ["--data", "digits", "--limit", "128", "--epochs", "1"]
LIF = ["--family", "lif-cnn", *ARGUMENTS, "--steps", "2", "--option", "widths=(6, 8)", "--option", "pools=(0,)"]


@pytest.fixture(scope="module")
def lif(tmp_path_factory):
    """Folder of a small trained LIF network."""
    out = tmp_path_factory.mktemp("runs")
    assert main(["train", *LIF, "--out", str(out), "--json"]) == 0
    return out / "lif-cnn-digits"


def shown(capsys, *arguments):
    assert main(list(arguments)) == 0
    return json.loads(capsys.readouterr().out)


def fails(capsys, *arguments):
    assert main(list(arguments)) == 1
    return capsys.readouterr().err


def test_the_facts_are_those_of_the_folder(lif, capsys):
    again = shown(capsys, "train", *LIF, "--out", str(lif.parent), "--json")
    kept = json.loads((lif / "config.json").read_text())
    assert again == kept["result"] and list(again["accuracy_over_time"]) == ["1", "2"]
    assert {layer["layer"] for layer in again["layers"]} == {"layers.fire_0", "layers.conv_1.fire"}
    assert kept["config"]["type"] == "LifCnn" and kept["config"]["widths"] == [6, 8] and kept["recipe"]["steps"] == 1


def test_tables_say_the_same(lif, capsys):
    assert main(["train", *LIF, "--out", str(lif.parent)]) == 0
    text = capsys.readouterr().out
    assert "Test accuracy after step 1:" in text and str(lif) in text


def test_it_is_deployed_and_measured(lif, tmp_path, capsys):
    made = shown(capsys, "deploy", str(lif / "config.json"), "--input", "1x1x8x8", "--out", str(tmp_path / "b"), "--json")
    assert made["sizes"]["weight_bytes"] > 0
    timed = shown(capsys, "measure", str(tmp_path / "b"), "--rounds", "3", "--json")
    assert timed["latency"]


def test_it_is_estimated(lif, capsys):
    total = shown(capsys, "estimate", str(lif / "config.json"), "--input", "1x1x8x8", "--json")["total"]
    assert total["parameters"]["value"] == json.loads((lif / "config.json").read_text())["result"]["parameters"]


def test_a_spiking_network_does_not_become_one_again(lif, capsys):
    told = fails(capsys, "spike", str(lif / "config.json"), "--data", "digits", "--limit", "64")
    assert "spiking neurons already" in told and "netwright deploy" in told


def test_an_ordinary_family_is_trained_and_converted(tmp_path, capsys):
    made = shown(capsys, "train", "--family", "conv", *ARGUMENTS, "--out", str(tmp_path), "--json")
    assert made["layers"] == [] and made["accuracy_over_time"] == {}
    found = shown(capsys, "spike", made["config"], "--data", "digits", "--limit", "128", "--method", "max", "--steps", "4",
                  "--out", str(tmp_path), "--json")  # fmt: skip
    assert found["float_accuracy"] == pytest.approx(made["test_accuracy"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--family", "spikformr", "--data", "digits"], "Did you mean 'spikformer"),
        (["--family", "spikformer"], "Which data?"),
        (["--family", "phcssm", "--data", "digits", "--steps", "3"], "leave out --steps"),
        (["--family", "convnext_tiny", "--data", "digits"], "does not run on inputs of 1 x 8 x 8"),
        (["--family", "lif-cnn", "--data", "digits", "--option", "width=3"], "option of lif-cnn"),
        (["--family", "lif-cnn", "--data", "nowhere.npz"], "There is no data"),
        ([], "either a recipe, or --family"),
        (["own.toml", "--family", "lif-cnn"], "either a recipe, or --family"),
        (["own.toml", "--epochs", "3"], "write it into own.toml"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, capsys):
    told = fails(capsys, "train", *arguments, "--out", str(tmp_path))
    assert message in told and "Traceback" not in told and not list(tmp_path.iterdir())


def test_a_recipe_is_trained_as_before(tmp_path, capsys):
    path = tmp_path / "own.toml"
    path.write_text(
        'name = "own"\nforms = ["float"]\ncalibration = 64\n[task]\nlimit = 128\n[design]\nstages = 1\nblocks = ["conv"]\n'
        "widths = [4, 8]\nkernels = [3]\nexpansions = [1]\n[search]\ntrials = 2\npopulation = 2\n"
        "[search.supernet]\nsteps = 4\nevaluations = 1\n[train]\nsteps = 4\nevaluations = 1\n"
    )
    made = shown(capsys, "train", str(path), "--out", str(tmp_path), "--json")
    assert 0 <= made["validation_accuracy"] <= 1 and (tmp_path / "own" / "train" / "weights.safetensors").exists()
