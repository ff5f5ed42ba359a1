"""Several threads give what one gives, at sizes that do not divide; small networks are left to one."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from nets import Builder
from torch import nn

from netwright.core.errors import CompilerError
from netwright.deploy.c99 import build, emit, threads
from netwright.deploy.c99.compile import compile_c
from netwright.design import trace


@pytest.fixture
def every_step(monkeypatch):
    """All steps that can be split are, however small."""
    monkeypatch.setattr(threads, "STEP_US", 0.0)
    monkeypatch.setattr(threads, "NETWORK_US", 0.0)
    monkeypatch.setenv("NETWRIGHT_THREADS", "3")


def codes():
    """Integer, ternary, binary and depthwise convolutions and products, large and small, with and without padding."""
    b = Builder((1, 24, 15, 13))
    x = b.quantize("x")
    names = []
    for bits in (8, 2, 1):
        op = "bconv2d" if bits == 1 else "qconv2d"
        names += [b.conv(op, x, o, k, bits=bits, groups=g, stride=s) for o, k, g, s in ((40, 3, 1, 1), (72, 1, 2, 2))]
    names.append(b.conv("qconv2d", x, 24, 3, groups=24))
    pooled = b.conv("qconv2d", x, 19, 3, stride=4, pads=[0] * 4)
    names += [b.linear(op, b.flatten(pooled), 150, bits=bits) for op, bits in (("qlinear", 8), ("blinear", 1))]
    return b.gather(names), b.input


def floats():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(5, 40, 3, 2, 1), nn.ReLU(), nn.Conv2d(40, 40, 3, 1, 1, groups=40), nn.Conv2d(40, 70, 1), nn.GELU(),
        nn.Conv2d(70, 70, 5, 1, 2, groups=70), nn.Conv2d(70, 33, (3, 1)), nn.Flatten(), nn.LazyLinear(100), nn.Linear(100, 7),
    ).eval()  # fmt: skip
    x = np.random.default_rng(0).standard_normal((1, 5, 41, 27), dtype=np.float32)
    net(torch.from_numpy(x))
    return trace(net, torch.from_numpy(x)), x


@pytest.mark.parametrize("case", [codes, floats])
@pytest.mark.parametrize("isa", ["native", "portable", "dispatch"])
def test_three_threads_give_what_one_gives(case, isa, every_step, tmp_path):
    graph, x = case()
    assert "nw_together(part" in emit(graph).c
    one = build(graph, tmp_path / "one", isa=isa, threads=1)
    three = build(graph, tmp_path / "three", isa=isa, threads=3)
    expected = one.run(x)
    for _ in range(20):
        np.testing.assert_array_equal(three.run(x), expected)


def test_a_child_of_fork_has_threads_of_its_own(every_step, tmp_path):
    graph, x = codes()
    build(graph, tmp_path, threads=3)
    program = f"""
import os, sys, numpy as np
from netwright.deploy.loader import CompiledModel
x = np.zeros({x.shape}, np.float32) + 0.5
model = CompiledModel({str(tmp_path / "model.so")!r}, {x.shape}, (1, {emit(graph).output_shape[1]}))
before = model.run(x)
child = os.fork()
same = np.array_equal(model.run(x), before)
if child == 0:
    os._exit(0 if same else 1)
sys.exit(0 if same and os.waitpid(child, 0)[1] == 0 else 1)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_several_callers_at_once(every_step, tmp_path):
    """Each with an arena of its own: one has the pool, the others work alone."""
    graph, _ = codes()
    emitted = emit(graph)
    emitted.write(tmp_path)
    program = tmp_path / "main.c"
    program.write_text(
        """
#include "model.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
static float in[MODEL_INPUT_ELEMENTS], expected[MODEL_OUTPUT_ELEMENTS];
static void *caller(void *result) {
  void *arena = aligned_alloc(64, (MODEL_ARENA_BYTES + 63) / 64 * 64);
  float *out = malloc(sizeof expected);
  long wrong = 0;
  for (int i = 0; i < 200; i++) {
    model_run_arena(in, out, arena);
    wrong += memcmp(out, expected, sizeof expected) != 0;
  }
  free(arena);
  free(out);
  return (void *)wrong;
}
int main(void) {
  pthread_t t[4];
  long wrong = 0;
  for (int i = 0; i < MODEL_INPUT_ELEMENTS; i++) in[i] = (float)(i % 7) - 3.0f;
  model_run(in, expected);
  for (int i = 0; i < 4; i++) pthread_create(&t[i], 0, caller, 0);
  for (int i = 0; i < 4; i++) {
    void *result;
    pthread_join(t[i], &result);
    wrong += (long)result;
  }
  return wrong != 0;
}
"""
    )
    flags = ["-std=gnu11", "-O2", "-fno-strict-aliasing", "-DNETWRIGHT_THREADS=3", "-pthread", "-DNETWRIGHT_PORTABLE"]
    made = tmp_path / "main"
    subprocess.run(["cc", *flags, str(program), str(tmp_path / "model.c"), "-o", str(made), "-lm"], check=True)
    subprocess.run([made], check=True, timeout=120)


def test_small_networks_are_left_to_one_thread():
    graph, _ = codes()
    assert "nw_together" not in emit(graph).c
    large = trace(nn.Sequential(nn.Conv2d(64, 256, 3, 1, 1), nn.Conv2d(256, 4, 1, 8)).eval(), torch.zeros(1, 64, 56, 56))
    source = emit(large).c
    assert "nw_together(part" in source
    assert source.count("nw_together(part") == 1, "the second layer is not worth it"


def test_threads_must_be_a_number(tmp_path, monkeypatch):
    emitted = emit(trace(nn.Linear(3, 2), torch.zeros(1, 3)))
    with pytest.raises(CompilerError, match="1 to 256"):
        compile_c(emitted, tmp_path / "m.so", threads=0)
    monkeypatch.setenv("NETWRIGHT_THREADS", "many")
    with pytest.raises(CompilerError, match="many"):
        compile_c(emitted, tmp_path / "m.so")
