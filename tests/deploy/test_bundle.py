"""Bundles: what is written is read, and what is damaged is refused with the reason."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import Builder
from torch import nn

from netwright.core.errors import BundleError, UnknownName
from netwright.core.graph import Graph, Node, Spec
from netwright.deploy.bundle import Bundle, write_bundle
from netwright.deploy.c99 import build
from netwright.deploy.exports import export
from netwright.design import trace
from netwright.design.execute import GraphModule


@pytest.fixture(scope="module")
def net() -> Builder:
    b = Builder((1, 3, 6, 6))
    y = b.add(
        "qmean",
        b.conv("qconv2d", b.quantize("x"), 12, 3, bits=2, lo=0, hi=255),
        attrs={"mult": 2**20, "shift": 22, "lo": 0, "hi": 255},
    )
    b.last = b.dequantize(b.linear("qlinear", b.flatten(y), 10))  # type: ignore[attr-defined]
    return b


@pytest.fixture
def bundle(net: Builder, tmp_path: Path) -> Bundle:
    return write_bundle(net.graph(net.last), tmp_path / "b", form="ternary", info={"seed": 7}, name="toy")  # type: ignore[attr-defined]


def test_round_trip(bundle: Bundle, net: Builder) -> None:
    again = Bundle.load(bundle.path)
    assert (again.name, again.form, again.input_shape, again.output_shape, again.time_steps) == (
        "toy",
        "ternary",
        (1, 3, 6, 6),
        (1, 10),
        1,
    )
    assert again.info == {"seed": 7} and again.onnx is None
    assert all(n > 0 for n in again.sizes.values()) and set(again.sizes) == {"weight_bytes", "arena_bytes", "code_bytes"}
    x = np.random.default_rng(0).normal(size=(5, 3, 6, 6)).astype(np.float32)
    with torch.no_grad():
        expected = GraphModule(again.graph)(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(again.run(x), expected)


def test_runs_without_torch(bundle: Bundle) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np; from netwright.deploy.bundle import Bundle\n"
        f"print(Bundle.load({str(bundle.path)!r}).run(np.zeros((2, 3, 6, 6), np.float32)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(2, 10)", done.stderr


@pytest.mark.parametrize(
    "shape, dtype, match", [((3, 6, 6), "f4", "Nx3x6x6"), ((1, 3, 6, 7), "f4", "1x3x6x7"), ((1, 3, 6, 6), "c8", "complex64")]
)
def test_wrong_inputs_are_refused(bundle: Bundle, shape: tuple[int, ...], dtype: str, match: str) -> None:
    with pytest.raises(BundleError, match=match):
        bundle.run(np.zeros(shape, dtype))


def edit(bundle: Bundle, **changes: object) -> None:
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    (bundle.path / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def test_damage_is_found(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="no manifest"):
        Bundle.load(bundle.path / "build")
    edit(bundle, version=2)
    with pytest.raises(BundleError, match=r"version 2.*Upgrade"):
        Bundle.load(bundle.path)
    edit(bundle, version=1, format="other")
    with pytest.raises(BundleError, match="format"):
        Bundle.load(bundle.path)
    edit(bundle, format="netwright-bundle")
    Bundle.load(bundle.path)
    data = bytearray((bundle.path / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (bundle.path / "weights.safetensors").write_bytes(bytes(data))
    with pytest.raises(BundleError, match=r"weights\.safetensors does not match"):
        Bundle.load(bundle.path)
    (bundle.path / "weights.safetensors").unlink()
    with pytest.raises(BundleError, match=r"weights\.safetensors is missing"):
        Bundle.load(bundle.path)
    edit(bundle, files={"../x": "0", **json.loads((bundle.path / "manifest.json").read_text())["files"]})
    with pytest.raises(BundleError, match="outside"):
        Bundle.load(bundle.path)
    (bundle.path / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="damaged"):
        Bundle.load(bundle.path)


def test_unknown_form(net: Builder, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="fp16"):
        write_bundle(net.graph(net.last), tmp_path, form="fp16")  # type: ignore[attr-defined]


def test_files_of_other_engines(tmp_path, monkeypatch):
    monkeypatch.setenv("NETWRIGHT_CACHE", str(tmp_path / "cache"))
    graph = trace(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval(), torch.zeros(1, 2, 6, 6))
    files, notes = export(graph, ["onnx", "qonnx", "torch"])
    bundle = write_bundle(graph, tmp_path / "b", form="float", exports=files)
    assert bundle.backends == ("c99", "onnx", "qonnx", "torch") and not notes
    assert Bundle.load(write_bundle(graph, tmp_path / "b", form="float").path).backends == ("c99",)
    assert not (tmp_path / "b" / "model.pt2").exists(), "files of an older bundle are removed"
    with pytest.raises(UnknownName, match="tvm"):
        export(graph, ["tvm"])
    neurons = Graph((Node("x", "input", (), Spec((1, 3))), Node("n", "integrate", ("x",), Spec((1, 3)), path="body.0")), ("n",))
    files, notes = export(neurons, ["onnx"])
    assert not files and "model.onnx" in notes[0] and "body.0" in notes[0]


def test_one_example_is_read_where_it_lies_or_copied(tmp_path):
    """Large inputs are not copied; others, turned or of another type, are."""
    graph = trace(nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU()).eval(), torch.zeros(1, 3, 90, 80))
    model = build(graph, tmp_path)
    x = np.random.default_rng(0).standard_normal((1, 3, 90, 80), dtype=np.float32)
    expected = model.run(x)
    turned = np.ascontiguousarray(x.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    for given in (x, turned, x.astype(np.float64), x.tolist(), np.concatenate([x, x])[1:]):
        np.testing.assert_array_equal(model.run_one(given), expected)
    with pytest.raises(ValueError, match="shape"):
        model.run_one(x[:, :2])
