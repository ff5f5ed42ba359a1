"""True widths in the object file, the arena plan, and the generated C under sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from nets import Builder

from netwright.core.errors import CompilerError
from netwright.core.graph import Graph
from netwright.deploy.c99 import build, compile_c, emit, find_compiler, sizes
from netwright.deploy.c99.plan import Interval, aligned, place


def dense(op: str, bits: int, channels: int = 128) -> Graph:
    b = Builder((1, channels, 4, 4))
    return b.gather([b.conv(op, b.quantize("x"), channels, 3, bits=bits, rescale=True)])


@pytest.mark.parametrize(
    "op, bits, channels",
    [("qconv2d", 8, 128), ("qconv2d", 2, 128), ("qconv2d", 1, 128), ("bconv2d", 1, 128), ("bconv2d", 1, 100), ("qconv2d", 2, 99)],
)
def test_weights_take_their_width_in_the_object(tmp_path: Path, op: str, bits: int, channels: int) -> None:
    graph = dense(op, bits, channels)
    emitted = emit(graph)
    vectors = 3 * 4 * 128 + 4 * channels  # bias, mult, shift in blocks, and the scale of the output
    least = channels * channels * 9 * bits // 8
    assert least <= emitted.weight_bytes <= least + vectors + 16
    found = sizes(compile_c(emitted, tmp_path / "m.so"))
    assert least <= found.constant_bytes <= emitted.weight_bytes + 1024  # constants of the kernels and padding
    if shutil.which("size"):
        table = subprocess.run(["size", "-A", str(tmp_path / "m.so")], capture_output=True, text=True, check=True).stdout
        by_name = {line.split()[0]: int(line.split()[1]) for line in table.splitlines() if line.startswith(".")}
        assert (found.code_bytes, found.constant_bytes) == (by_name[".text"], by_name[".rodata"])


def test_depthwise_weights_of_one_bit_take_one_bit() -> None:
    b = Builder((1, 640, 4, 4))
    emitted = emit(b.gather([b.conv("qconv2d", b.quantize("x"), 640, 3, groups=640, bits=1, rescale=False)]))
    assert emitted.weight_bytes == 640 * 9 // 8 + 4 * 640 + 4  # signs, biases, one scale


def random_intervals(seed: int, n: int = 60) -> list[Interval]:
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 40, n)
    return [
        Interval(int(s), int(f), int(f + d))
        for s, f, d in zip(rng.integers(1, 5000, n), first, rng.integers(0, 6, n), strict=True)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_plan_never_overlaps_and_is_near_the_bound(seed: int) -> None:
    buffers = random_intervals(seed)
    offsets, total = place(buffers)
    for i, (a, x) in enumerate(zip(buffers, offsets, strict=True)):
        assert x % 64 == 0 and x + a.size <= total
        for b, y in list(zip(buffers, offsets, strict=True))[:i]:
            assert not a.meets(b) or x + aligned(a.size) <= y or y + aligned(b.size) <= x
    live = max(sum(aligned(b.size) for b in buffers if b.first <= t <= b.last) for t in range(50))
    assert live <= total <= 1.25 * live < sum(b.size for b in buffers)


def test_plan_of_a_chain_holds_two_tensors() -> None:
    assert place([Interval(640, t, t + 1) for t in range(50)])[1] == 1280
    assert place([]) == ([], 0)


def test_arena_of_a_network_is_much_less_than_all_tensors() -> None:
    b = Builder((1, 16, 8, 8))
    x = "x"
    for _ in range(10):
        x = b.conv("conv2d", x, 16, 1)
    emitted = emit(b.graph(b.add("mean", x, attrs={"dims": [2, 3], "keepdim": False})))
    assert emitted.arena_bytes <= 2 * 4096 + 64


MAIN = """
#include "model.h"
#include <stdio.h>
#include <stdlib.h>
int main(void) {
  float *in = malloc(sizeof(float) * MODEL_INPUT_ELEMENTS), *out = malloc(sizeof(float) * MODEL_OUTPUT_ELEMENTS);
  void *arena = aligned_alloc(64, MODEL_ARENA_BYTES);
  if (fread(in, sizeof(float), MODEL_INPUT_ELEMENTS, stdin) != MODEL_INPUT_ELEMENTS) return 1;
  model_run_arena(in, out, arena);
  fwrite(out, sizeof(float), MODEL_OUTPUT_ELEMENTS, stdout);
  free(in); free(out); free(arena);
  return 0;
}
"""


@pytest.mark.parametrize("path", ["-DNETWRIGHT_PORTABLE", "-march=native"])
def test_clean_under_sanitizers(tmp_path: Path, path: str) -> None:
    """Address and undefined-behaviour sanitizers, arena and arguments on the heap so that a byte too far is seen."""
    compiler = find_compiler()
    probe = tmp_path / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    if subprocess.run(
        [*compiler, *flags, str(probe), "-o", str(tmp_path / "probe")], capture_output=True, check=False
    ).returncode:
        pytest.skip("this compiler has no sanitizers")
    b = Builder((1, 7, 5, 6))
    q, u = b.quantize("x"), b.quantize("x", 0, 255)
    f = b.conv("conv2d", b.conv("conv2d", "x", 7, 3, groups=7), 17, 3, stride=2)
    names = [f, b.add("gelu", f), b.add("softmax", f, attrs={"dim": 1}), b.conv("qconv2d", q, 17, 3),
             b.conv("qconv2d", u, 7, 3, groups=7, bits=2), b.conv("bconv2d", q, 18, 3, bits=1),
             b.conv("qconv2d", q, 5, 1, bits=1),
             b.linear("qlinear", b.flatten(u), 3, bits=2)]  # fmt: skip
    theta = np.full(9, 900, np.int32)
    s = b.add(
        "integrate",
        b.conv("qconv2d", q, 9, 3, rescale=False),
        theta=theta,
        v0=theta // 2,
        attrs={"steps": 3, "current_steps": 1, "rule": "bipolar", "limit": 0},
    )
    still = b.conv("qconv2d", q, 4, 1, stride=2, rescale=False)
    current = b.add("iadd", b.conv("qconv2d", s, 4, 3, stride=2, rescale=False), still, attrs={"a_steps": 3, "b_steps": 1})
    names.append(b.add("readout", current, attrs={"steps": 3, "start": 1}))
    pooled = b.add("max_pool2d", s, attrs={"kernel": [3, 3], "stride": [2, 2], "padding": [1, 1]})
    t = b.linear("qlinear", b.flatten_steps(pooled), 4)
    names.append(b.add("readout", t, attrs={"steps": 3, "start": 0}))
    graph = b.gather(names)
    emit(graph).write(tmp_path)
    (tmp_path / "main.c").write_text(MAIN)
    command = [
        *compiler,
        "-O1",
        "-g",
        "-fno-strict-aliasing",
        *flags,
        path,
        str(tmp_path / "model.c"),
        str(tmp_path / "main.c"),
        "-o",
        str(tmp_path / "run"),
        "-lm",
    ]
    subprocess.run(command, check=True, capture_output=True)
    done = subprocess.run(
        [str(tmp_path / "run")],
        input=b.input.tobytes(),
        capture_output=True,
        check=False,
        env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"},
    )
    assert done.returncode == 0, done.stderr.decode()
    expected = b.outputs[graph.outputs[0]].numpy().reshape(-1)
    np.testing.assert_allclose(np.frombuffer(done.stdout, np.float32), expected, rtol=1e-6, atol=1e-5)


def test_no_compiler_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("netwright.deploy.c99.compile.shutil.which", lambda name: None)
    monkeypatch.setattr("netwright.deploy.c99.compile.importlib.util.find_spec", lambda name: None)
    with pytest.raises(CompilerError, match=r"set CC|Set CC.*netwright\[zig\]"):
        find_compiler()


def test_compiler_output_is_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "bad.c").write_text("int main(void) { return nothing; }\n")
    with pytest.raises(CompilerError, match="nothing"):
        compile_c(tmp_path / "bad.c", tmp_path / "bad.so")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.c"]


def test_build_runs_a_batch(tmp_path: Path) -> None:
    b = Builder((1, 3, 4, 4))
    model = build(b.graph(b.add("mean", b.conv("conv2d", "x", 5, 3), attrs={"dims": [2, 3], "keepdim": False})), tmp_path)
    x = np.random.default_rng(0).normal(size=(4, 3, 4, 4)).astype(np.float32)
    y = model.run(x)
    assert y.shape == (4, 5)
    np.testing.assert_array_equal(model.run_one(x[2:3]), y[2:3])
    np.testing.assert_array_equal(model.run(x.astype(np.float64)[:, :, ::-1, ::-1][:, :, ::-1, ::-1]), y)
    assert model.run(x[:0]).shape == (0, 5)
