"""A bundle that is not whole is refused with a reason, whatever is wrong with it; odd inputs never crash."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import Builder

from netwright.core.errors import BundleError
from netwright.deploy.bundle import Bundle, write_bundle

FILES = ("manifest.json", "graph.json", "weights.safetensors", "model.c", "model.h", "README.md")
ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.lists(st.integers(), max_size=3) | \
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)  # fmt: skip
SLOW = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    b = Builder((1, 8, 5, 5))
    graph = b.graph(b.dequantize(b.linear("qlinear", b.flatten(b.conv("bconv2d", b.quantize("x"), 8, 3, bits=1)), 4)))
    return write_bundle(graph, tmp_path_factory.mktemp("bundle") / "bundle", form="binary").path


def loads_or_is_refused(path: Path) -> None:
    try:
        bundle = Bundle.load(path)
        _ = (bundle.name, bundle.form, bundle.input_shape, bundle.output_shape, bundle.time_steps, bundle.sizes, bundle.info)
        _ = bundle.graph
    except BundleError as error:
        assert str(error)


@SLOW
@given(file=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_one_wrong_byte(whole: Path, tmp_path: Path, file: str, place: float, flip: int) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy, dirs_exist_ok=True)
    data = bytearray((copy / file).read_bytes())
    data[int(place * len(data))] ^= flip
    (copy / file).write_bytes(bytes(data))
    if file != "manifest.json":
        with pytest.raises(BundleError, match="does not match its checksum"):
            Bundle.load(copy)
    else:
        loads_or_is_refused(copy)


@SLOW
@given(file=st.sampled_from(FILES), keep=st.floats(0, 1, exclude_max=True))
def test_a_file_that_ends_early(whole: Path, tmp_path: Path, file: str, keep: float) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy, dirs_exist_ok=True)
    data = (whole / file).read_bytes()
    (copy / file).write_bytes(data[: int(keep * (len(data) - 2))])  # the last line feed says nothing
    with pytest.raises(BundleError):
        Bundle.load(copy)


KEYS = ("format", "version", "name", "form", "input_shape", "output_shape", "time_steps", "sizes", "files", "info")


@SLOW
@given(key=st.sampled_from(KEYS), value=ANYTHING)
def test_a_manifest_of_other_types(whole: Path, tmp_path: Path, key: str, value: Any) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy, dirs_exist_ok=True)
    manifest = json.loads((whole / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, key: value}))
    loads_or_is_refused(copy)


@pytest.mark.parametrize("name", ["../graph.json", "/etc/passwd", "a/../../b", "..", ""])
def test_paths_outside_are_refused(whole: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"][name] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError):
        Bundle.load(copy)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45])
def test_odd_numbers_go_through(whole: Path, value: float) -> None:
    import torch

    from netwright.design.execute import GraphModule

    bundle = Bundle.load(whole)
    x = np.random.default_rng(0).standard_normal((4, 8, 5, 5)).astype(np.float32)
    x[::2, ::3] = value
    expected = GraphModule(bundle.graph)(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(bundle.run(x), expected)
