"""One library for several instruction sets chooses when it runs, and NETWRIGHT_ISA forces one."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nets import Builder

from netwright.core.errors import CompilerError
from netwright.core.graph import Graph
from netwright.deploy.c99 import build, compile_c, emit, sizes

x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="kernels are chosen at run time on x86-64 only")


def network() -> tuple[Graph, np.ndarray]:
    b = Builder((1, 32, 9, 9))
    x = b.conv("bconv2d", b.quantize("x"), 64, 3, bits=1)
    x = b.conv("qconv2d", x, 48, 3, bits=2)
    return b.gather([b.conv("qconv2d", x, 17, 1), b.conv("conv2d", "x", 8, 3)]), b.input


@x86
@pytest.mark.parametrize("isa", ["", "portable", "avx2", "avx512"])
def test_every_choice_gives_the_same(tmp_path: Path, isa: str) -> None:
    graph, x = network()
    emitted = emit(graph)
    library = compile_c(emitted, tmp_path / "model.so", isa="dispatch")
    expected = build(graph, tmp_path / "plain", isa="portable").run(x)
    np.save(tmp_path / "x.npy", x)
    code = (
        "import numpy as np, sys; from netwright.deploy.loader import CompiledModel\n"
        f"m = CompiledModel({str(library)!r}, {emitted.input_shapes!r}, {emitted.output_shapes!r})\n"
        f"np.save({str(tmp_path / 'y.npy')!r}, m.run(np.load({str(tmp_path / 'x.npy')!r})))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "NETWRIGHT_ISA"} | ({"NETWRIGHT_ISA": isa} if isa else {})
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-5)
    assert sizes(library).constant_bytes < 1.5 * emitted.weight_bytes + 4096  # the weights are there once


def test_an_unknown_instruction_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, _ = network()
    monkeypatch.setenv("NETWRIGHT_ISA", "mmx")
    with pytest.raises(CompilerError, match=r"mmx.*portable, avx2"):
        build(graph, tmp_path)
