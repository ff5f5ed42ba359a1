"""The same C file on microcontrollers and on 64-bit Arm, in QEMU."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nets import Builder

from netwright.core.errors import BundleError, CompilerError
from netwright.core.graph import Graph
from netwright.core.target import Target
from netwright.deploy.c99 import build, emit
from netwright.deploy.cross import check_budget, cross_build

TARGETS = ("cortex-m4", "cortex-m7", "aarch64")


def installed(name: str) -> pytest.MarkDecorator:
    made = Target.load(name).build
    missing = [p for p in (made["compiler"], made["machine"][0]) if shutil.which(p) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}; apt-get install {made['packages']}")


def network(kind: str) -> Graph:
    b = Builder((1, 3, 8, 6), seed=1)
    if kind == "float":
        x = b.add("gelu", b.conv("conv2d", "x", 17, 3))
        return b.graph(b.add("softmax", b.linear("linear", b.flatten(x), 10), attrs={"dim": -1}))
    x = b.conv("qconv2d", b.quantize("x"), 16, 3)
    if kind == "spiking":
        theta = {"theta": np.full(16, 40, np.int32), "v0": np.full(16, 20, np.int32)}
        currents = b.conv("qconv2d", b.quantize("x"), 16, 3, rescale=False)
        spikes = b.add("integrate", currents, attrs={"steps": 3, "current_steps": 1, "rule": "if", "limit": 0}, **theta)
        sums = b.linear("qlinear", b.flatten_steps(spikes), 10)
        return b.graph(b.dequantize(b.add("readout", sums, attrs={"steps": 3, "start": 1})))
    op, bits = {"int8": ("qconv2d", 8), "ternary": ("qconv2d", 2), "binary": ("bconv2d", 1)}[kind]
    y = b.conv(op, b.conv(op, x, 48, 3, bits=bits), 48, 3, groups=3, bits=bits)
    return b.graph(b.dequantize(b.linear("blinear" if kind == "binary" else "qlinear", b.flatten(y), 10, bits=bits)))


@pytest.mark.parametrize("kind", ["int8", "ternary", "binary", "spiking", "float"])
@pytest.mark.parametrize("target", [pytest.param(t, marks=installed(t)) for t in TARGETS])
def test_outputs_are_those_of_this_machine(tmp_path: Path, target: str, kind: str) -> None:
    graph = network(kind)
    x = np.random.default_rng(0).normal(0, 2, (20, 3, 8, 6)).astype(np.float32)
    made = cross_build(emit(graph), target, tmp_path / "cross")
    got, instructions = made.run(x)
    expected = build(graph, tmp_path / "here", isa="portable").run(x)
    if kind == "float":
        np.testing.assert_allclose(got, expected, atol=1e-5)
    else:
        np.testing.assert_array_equal(got, expected)
    if target != "aarch64":
        assert instructions.min() > 10_000 and instructions.max() < 1.5 * instructions.min()
        emitted = emit(graph)
        assert emitted.weight_bytes < made.flash_bytes < emitted.weight_bytes + 64_000
        assert emitted.arena_bytes < made.ram_bytes < emitted.arena_bytes + 16_000


def test_over_budget_is_refused_before_compiling() -> None:
    small = replace(Target.load("cortex-m4"), memory_bytes={"flash": 524288, "ram": 4096})
    with pytest.raises(BundleError, match=r"needs [\d,]+ bytes of ram and cortex-m4 has 4,096"):
        check_budget(emit(network("int8")), small)


def test_a_missing_compiler_is_named_with_its_packages(tmp_path: Path) -> None:
    target = Target.load("aarch64")
    target = replace(target, build={**target.build, "compiler": "no-such-compiler"})
    with pytest.raises(CompilerError, match=r"no-such-compiler is not installed; on Debian: apt-get install gcc-aarch64"):
        cross_build(emit(network("int8")), target, tmp_path)
