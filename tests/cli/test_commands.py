import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from netwright.cli import main
from netwright.cli.model import load_graph, shape
from netwright.core.errors import NetwrightError, UnknownName
from netwright.design.models import VARIANTS

OWN = """
import torch, torch.nn as nn, torch.nn.functional as F
class Own(nn.Module):
    def __init__(self):
        super().__init__(); self.a = nn.Conv2d(1, 4, 3, padding=1); self.c = nn.Linear(4, 3)
    def forward(self, x):
        return F.linear(F.adaptive_avg_pool2d(F.relu(self.a(x)), 1).flatten(1), self.c.weight, self.c.bias) @ torch.eye(3)
def make(): return Own()
def broken(): raise RuntimeError("no weights here")
number = 3
"""
MACS = 4 * 9 * 64 + 12 + 9


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def run(capsys, *arguments):
    assert main(list(arguments)) == 0
    return json.loads(capsys.readouterr().out)


def test_estimate_of_an_own_model(own, capsys):
    shown = run(capsys, "estimate", f"{own}:make", "--input", "1x1x8x8", "--json")
    assert shown["total"]["macs"]["value"] == MACS and shown["total"]["macs"]["how"] == "counted"
    assert shown["total"]["energy"]["how"] == "modelled"


def test_an_own_model_becomes_a_bundle_that_is_read_back(own, tmp_path, capsys):
    out = tmp_path / "bundle"
    shown = run(capsys, "deploy", f"{own}:make", "--input", "1x1x8x8", "--out", str(out), "--json")
    assert shown["sizes"]["weight_bytes"] > 0 and (out / "model.onnx").exists()
    timed = run(capsys, "measure", str(out), "--rounds", "3", "--json")
    assert len(timed["latency"]) == 2 and all(q["how"] == "measured" for q in timed["latency"].values())
    assert load_graph(str(out), None).macs == MACS


def test_an_exported_program(tmp_path):
    path = tmp_path / "net.pt2"
    module = VARIANTS["digits_conv"].build().eval()
    torch.export.save(torch.export.export(module, (torch.zeros(1, 1, 8, 8),)), path)
    assert load_graph(str(path), None).macs == load_graph("digits_conv", None).macs
    path.write_bytes(b"not a program")
    with pytest.raises(NetwrightError, match="not an exported program"):
        load_graph(str(path), None)


def test_weights_for_a_model(tmp_path, capsys):
    from safetensors.torch import save_file

    torch.manual_seed(1)
    module = VARIANTS["digits_conv"].build()
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    run(capsys, "deploy", "digits_conv", "--input", "1x1x8x8", "--weights", str(tmp_path / "w.safetensors"),
        "--out", str(tmp_path / "b"), "--json")  # fmt: skip
    from netwright.deploy.bundle import Bundle

    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert abs(Bundle.load(tmp_path / "b").run(x.numpy()) - module.eval()(x).numpy()).max() < 1e-4


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("none.py:make", NetwrightError, "no file none.py"),
        ("{own}:mak", UnknownName, "Did you mean 'make'"),
        ("{own}:broken", NetwrightError, "no weights here"),
        ("{own}:number", NetwrightError, "int"),
        ("convnext_tin", UnknownName, "convnext_tiny"),
    ],
)
def test_models_that_cannot_be_had(own, model, error, message):
    with pytest.raises(error, match=message):
        load_graph(model.format(own=own), (1, 1, 8, 8))


def test_shapes_are_read_and_checked():
    assert shape("1x3x224x224") == (1, 3, 224, 224)
    with pytest.raises(NetwrightError, match="not a shape"):
        shape("1x3xbig")


def test_timm_models_are_traced():
    if find_spec("timm") is None:
        pytest.skip("timm is not installed; pip install 'netwright[zoo]'")
    graph = load_graph("timm:resnet18", (1, 3, 224, 224))
    assert graph.parameters == 11_689_512
    assert graph.macs == 1_814_073_344


def test_init_writes_a_recipe_that_can_be_read(tmp_path, capsys):
    from netwright.pipeline.recipe import RunRecipe

    shown = run(capsys, "init", "--data", "digits", "--out", str(tmp_path / "mine.toml"), "--json")
    assert shown["shape"] == [1, 8, 8] and shown["classes"] == 10
    assert RunRecipe.load(shown["recipe"]).task.data == "digits"
    assert main(["init", "--data", "digits", "--out", str(tmp_path / "mine.toml")]) == 1
    assert "exists" in capsys.readouterr().err


def test_design_commands(tmp_path, capsys):
    names = {e["name"] for e in run(capsys, "design", "list", "--json")}
    assert {"gnconv", "convnext_tiny", "tiny"} <= names
    for name in ("gnconv", "digits_conv", "tiny"):
        assert run(capsys, "design", "show", name, "--json")["name"] == name
    run(capsys, "design", "draw", "digits_mbconv", "--out", str(tmp_path / "n.svg"), "--json")
    assert (tmp_path / "n.svg").read_text().lstrip().startswith("<svg")


def test_bad_data_ends_with_one_line_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "netwright", "init", "--data", str(tmp_path / "none.npz")]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.returncode == 1 and "There is no data at" in shown.stderr and "Traceback" not in shown.stderr


def test_two_networks_are_estimated_side_by_side(capsys):
    assert main(["estimate", "digits_conv", "--compare", "digits_conv", "--input", "1x1x8x8", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {r["name"] for r in rows} >= {"macs", "parameters", "energy"} and all(r["difference"] == 0 for r in rows)
    assert main(["estimate", "digits_conv", "--compare", "digits_conv", "--input", "1x1x8x8"]) == 0
    assert "ratio" in capsys.readouterr().out
