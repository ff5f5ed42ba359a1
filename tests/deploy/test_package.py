"""The self-test and the CMake project of a bundle work, and the self-test notices a wrong network."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nets import Builder

from netwright.core.graph import Graph
from netwright.deploy.bundle import write_bundle
from netwright.deploy.c99 import find_compiler


def network(kind: str) -> Graph:
    b = Builder((1, 8, 6, 6))
    if kind == "float":
        return b.graph(b.linear("linear", b.flatten(b.conv("conv2d", "x", 16, 3)), 5))
    x = b.conv("bconv2d", b.conv("qconv2d", b.quantize("x"), 32, 3, bits=2), 16, 3, bits=1)
    return b.graph(b.dequantize(b.linear("qlinear", b.flatten(x), 5)))


@pytest.mark.parametrize("kind", ["float", "binary"])
def test_the_self_test_passes_and_can_fail(tmp_path: Path, kind: str) -> None:
    folder = write_bundle(network(kind), tmp_path / "bundle", form=kind).path

    def run() -> int:
        command = [*find_compiler(), "-std=c99", "-O1", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([*command, "model.c", "test_model.c", "-o", "t", "-lm"], cwd=folder, check=True)
        return subprocess.run([str(folder / "t")], capture_output=True, check=False).returncode

    assert run() == 0
    source = (folder / "test_model.c").read_text()
    start = source.index("out_0[5] = {\n") + len("out_0[5] = {\n")
    (folder / "test_model.c").write_text(source[:start] + "1e3f + " + source[start:])
    assert run() == 1


@pytest.mark.skipif(shutil.which("cmake") is None, reason="not installed: cmake")
@pytest.mark.parametrize("option", ["-DNETWRIGHT_THREADS=2", "-DNETWRIGHT_PORTABLE=ON", "-DNETWRIGHT_DISPATCH=ON"])
def test_the_cmake_project(tmp_path: Path, option: str) -> None:
    if "DISPATCH" in option and platform.machine() != "x86_64":
        pytest.skip("x86-64 only")
    folder = write_bundle(network("binary"), tmp_path / "bundle", form="binary").path
    for command in (["cmake", "-B", "b", option], ["cmake", "--build", "b"], ["ctest", "--test-dir", "b", "--output-on-failure"]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_bundle_runs_without_torch(tmp_path: Path) -> None:
    """Loading and running needs NumPy and a compiler; PyTorch, ONNX and SciPy are not even looked for."""
    write_bundle(network("binary"), tmp_path / "bundle", form="binary")
    code = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx", "onnxruntime", "scipy", "sklearn", "optuna"):
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Block())
import numpy as np
from netwright.deploy.bundle import Bundle
y = Bundle.load({str(tmp_path / "bundle")!r}).run(np.zeros((3, 8, 6, 6), np.float32))
assert y.shape == (3, 5)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
