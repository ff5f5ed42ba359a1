"""The simulator gives the numbers of GraphModule: spikes, currents of every step, logits."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import Builder
from torch import Tensor

from netwright.core.errors import CompilerError, NetwrightError, Unsupported
from netwright.core.graph import Graph
from netwright.deploy import simulate as module
from netwright.deploy.simulate import Simulator, simulate
from netwright.design.execute import GraphModule

RULES = [("if", 0), ("bipolar", 0), ("memory", 0), ("memory", 2), ("burst", 3)]
MODES = ["float", "int8"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETWRIGHT_CACHE", str(tmp_path_factory.getbasetemp() / "programs"))


class Spiking(Builder):
    """Spiking networks of `steps` steps; thresholds near the currents' size, so that neurons fire now and then."""

    def __init__(self, shape: tuple[int, ...], steps: int = 5, seed: int = 0):
        super().__init__(shape, seed)
        self.steps = steps

    def neurons(self, current: str, rule: str = "if", limit: int = 0) -> str:
        out = self.outputs[current]
        theta = (0.8 * out.abs().double().mean((0, *range(2, out.dim())))).clamp(min=1).ceil().to(torch.int32).numpy()
        attrs = {"steps": self.steps, "current_steps": len(out), "rule": rule, "limit": limit}
        return self.add("integrate", current, theta=theta, v0=(theta * self.rng.uniform(-0.5, 0.9, len(theta))).astype(np.int32),
                        attrs=attrs)  # fmt: skip

    def sums(self, x: str, outputs: int, k: int = 3, **how: int) -> str:
        return self.conv("qconv2d", x, outputs, k, rescale=False, **how)

    def pooled(self, x: str, k: int, codes: bool = True) -> str:
        """Sums of the spikes of windows of k x k, as codes of 8 bits or as sums."""
        c = self.shape(x)[1]
        attrs = {"stride": [k, k], "pads": [0] * 4, "dilation": [1, 1], "groups": c, "lo": -127, "hi": 127, "bits": 8}
        same = {"mult": np.full(c, 2, np.int32), "shift": np.ones(c, np.int32)} if codes else {}
        return self.add("qconv2d", x, attrs=attrs, weight=np.ones((c, 1, k, k), np.int8), **same)

    def spiking(self, current: str, start: int = 0, v0: np.ndarray | None = None) -> Graph:
        total = self.add("readout", current, attrs={"steps": self.steps, "start": start}, v0=v0)
        scale = np.linspace(0.01, 0.02, self.shape(total)[1], dtype=np.float32)
        return self.graph(self.add("dequantize", total, scale=scale))


def batch(graph: Graph, n: int, seed: int = 9) -> Tensor:
    shape = graph[graph.inputs[0]].spec.shape
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 1.5, (n, *shape[1:])).astype(np.float32))


def check(graph: Graph, n: int = 3) -> None:
    """Both modes give every number of the reference, with neurons that neither rest nor fire always."""
    x, spikes, kept = batch(graph, n), {}, {}

    def visit(node: object, out: Tensor) -> None:
        kept[node.name] = out
        if node.op == "integrate":
            spikes[node.name] = out

    with torch.no_grad():
        expected = GraphModule(graph).eval()(x, visit=visit)
    rates = {name: float((s != 0).double().mean()) for name, s in spikes.items()}
    assert all(0.03 < rate < 0.97 for rate in rates.values()), rates
    readout = graph[graph[graph.outputs[0]].inputs[0]]
    currents = kept[readout.inputs[0]].reshape(readout.attrs["steps"], n, *expected.shape[1:])
    for mode in MODES:
        run = simulate(graph, mode)
        assert run.mode == mode
        assert torch.equal(run(x), expected)
        assert torch.equal(run.over_time(x), currents)
        assert run.rates(x) == pytest.approx(rates)


@pytest.mark.parametrize("channels", [1, 3, 31, 33])
@pytest.mark.parametrize("rule, limit", RULES)
def test_rules_and_channels(channels: int, rule: str, limit: int) -> None:
    b = Spiking((1, 3, 7, 5))
    s = b.neurons(b.sums(b.quantize("x", 0, 255), channels), rule, limit)
    s = b.neurons(b.sums(s, 32 + channels), rule, limit)
    check(b.spiking(b.linear("qlinear", b.flatten_steps(s), 7), start=2))


@pytest.mark.parametrize("rule, limit", RULES)
@pytest.mark.parametrize("side, channels, k", [(7, 33, 2), (8, 3, 2), (9, 1, 3), (6, 31, 2), (8, 300, 2)])
def test_pooling(rule: str, limit: int, side: int, channels: int, k: int) -> None:
    """Fused with its neurons, behind constant currents and others, of sides that k does not divide."""
    b = Spiking((1, 2, side, side + 1))
    codes = b.pooled(b.neurons(b.sums(b.quantize("x"), channels, 1), rule, limit), k)
    sums = b.pooled(b.neurons(b.sums(codes, 12), rule, limit), 2, codes=side % 2 == 0)
    s = b.neurons(b.sums(sums, 5, 1))
    graph = b.spiking(b.linear("qlinear", b.flatten_steps(s), 3))
    assert len(simulate(graph, "float")._fast.pools) == 2
    check(graph)


def test_pooling_that_stands_alone() -> None:
    """Windows that overlap, and spikes that others read too."""
    b = Spiking((1, 3, 6, 7))
    s = b.neurons(b.sums(b.quantize("x"), 10), "bipolar")
    attrs = {"stride": [1, 2], "pads": [1, 0, 0, 1], "dilation": [1, 1], "groups": 10, "lo": -127, "hi": 127, "bits": 8}
    same = {"mult": np.full(10, 8, np.int32), "shift": np.full(10, 3, np.int32)}
    overlapping = b.add("qconv2d", s, attrs=attrs, weight=np.ones((10, 1, 2, 3), np.int8), **same)
    ends = [b.add("isum", b.neurons(b.sums(codes, 4))) for codes in (overlapping, b.pooled(s, 1))]
    flat = b.add("reshape", b.add("cat", *ends, attrs={"dim": 1}), shape=(b.steps, 8))
    graph = b.spiking(b.linear("qlinear", flat, 3))
    assert not simulate(graph)._fast.pools
    check(graph)


def test_more_neurons_than_a_part() -> None:
    """Parts of the neurons begin and end at any channel, and windows in the middle of a row."""
    b = Spiking((1, 1, 11, 70))
    s = b.pooled(b.neurons(b.sums(b.quantize("x"), 37)), 2)
    s = b.neurons(b.sums(s, 41), "memory", 3)
    wide = b.neurons(b.linear("qlinear", b.add("reshape", b.add("isum", s), shape=(b.steps, 41)), 4100))
    check(b.spiking(b.linear("qlinear", wide, 3)))


def test_layers_of_every_kind() -> None:
    b = Spiking((1, 6, 9, 7))
    x = b.quantize("x", 0, 200)
    first = b.neurons(b.sums(x, 24, 3))
    signed = b.neurons(b.sums(first, 24, 3, groups=4), "bipolar")
    added = b.add("iadd", b.sums(signed, 24, 1, groups=24), b.sums(x, 24, 1), attrs={"a_steps": b.steps, "b_steps": 1})
    other = b.add("iadd", b.sums(x, 24, 1), b.sums(first, 24, 3, groups=24), attrs={"a_steps": 1, "b_steps": b.steps})
    both = b.add("cat", b.neurons(added), b.neurons(other, "bipolar"), attrs={"dim": 1})
    part = b.add("slice", both, attrs={"dim": 1, "start": 5, "end": 40, "step": 2})
    pool = {"kernel": [3, 2], "stride": [2, 2], "padding": [1, 0], "ceil": True}
    pooled = b.add("max_pool2d", b.sums(part, 20, 3, pads=[2, 0, 1, 1], dilation=1), attrs=pool)
    after = b.add("max_pool2d", b.neurons(pooled, "memory"), attrs={"kernel": 2, "stride": 1, "padding": 0})
    strided = b.neurons(b.sums(after, 33, 3, stride=2, dilation=2, pads=[2] * 4))
    turned = b.add("take", strided, attrs={"dim": 1}, index=np.arange(33)[::-1].copy())
    changes = b.add("difference", b.sums(turned, 17), attrs={"steps": b.steps, "current_steps": b.steps})
    once = b.add("difference", b.sums(x, 17, 1, stride=2), attrs={"steps": b.steps, "current_steps": 1})
    sums = [b.add("accumulate", c, attrs={"steps": b.steps}) for c in (changes, once)]
    flat = [b.add("reshape", b.add("isum", b.neurons(c)), shape=(b.steps, 17)) for c in (*sums, changes)]
    head = b.linear("qlinear", b.add("cat", *flat, attrs={"dim": 1}), 10)
    check(b.spiking(head, start=1, v0=np.arange(-5, 5, dtype=np.int32)))


def test_a_head_on_an_image_and_one_that_is_added() -> None:
    b = Spiking((1, 3, 5, 5))
    s = b.neurons(b.sums(b.quantize("x"), 9))
    sums = [b.sums(b.add("isum", s), 4, 1), b.sums(b.add("isum", b.neurons(b.sums(s, 5))), 4, 1)]
    check(b.spiking(sums[0]))
    added = b.add("iadd", *sums, attrs={"a_steps": b.steps, "b_steps": b.steps})
    check(b.spiking(b.add("reshape", added, shape=(b.steps, 4)), start=3))


def test_parts_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Spiking((1, 3, 6, 6))
    graph = b.spiking(b.linear("qlinear", b.flatten_steps(b.neurons(b.sums(b.quantize("x"), 8))), 3))
    x, run = batch(graph, 7), simulate(graph, "float")
    whole = run(x), run.over_time(x), run.rates(x)
    monkeypatch.setattr(module, "BYTES", 2 * max(step.size for step in run._fast.steps))
    assert [len(p) for p in run._parts(run._fast, x)] == [2, 2, 2, 1]
    assert torch.equal(run(x), whole[0]) and torch.equal(run.over_time(x), whole[1]) and run.rates(x) == whole[2]
    assert torch.equal(run(x.contiguous(memory_format=torch.channels_last).double()), whole[0])


def test_modes() -> None:
    b = Spiking((1, 3, 5, 5))
    s = b.neurons(b.sums(b.quantize("x"), 4))
    graph = b.spiking(b.linear("qlinear", b.flatten_steps(s), 2))
    assert simulate(graph).mode in MODES
    with pytest.raises(NetwrightError, match="auto, int8 and float"):
        simulate(graph, "bf16")
    with pytest.raises(NetwrightError, match="Nx3x5x5 and was given 2x3x5x4"):
        simulate(graph)(torch.zeros(2, 3, 5, 4))
    other = Builder((1, 3, 5, 5))
    with pytest.raises(NetwrightError, match="Convert it first"):
        simulate(other.graph(other.quantize("x")))


def test_sums_beyond_the_exact_are_refused() -> None:
    def graph(weight: int, theta: int) -> Graph:
        b = Spiking((1, 600, 1, 1), steps=200)
        attrs = {"stride": [1, 1], "pads": [0] * 4, "dilation": [1, 1], "groups": 1, "lo": 0, "hi": 0, "bits": 8}
        current = b.add("qconv2d", b.quantize("x", 0, 255), attrs=attrs, weight=np.full((2, 600, 1, 1), weight, np.int8))
        both = np.full(2, theta, np.int32)
        s = b.add("integrate", current, theta=both, v0=both, attrs={"steps": 200, "current_steps": 1, "rule": "if", "limit": 0})
        return b.spiking(b.linear("qlinear", b.flatten_steps(s), 2))

    simulate(graph(10, 1000))
    with pytest.raises(Unsupported, match="19431000; float32 is exact"):
        simulate(graph(127, 1000))
    with pytest.raises(Unsupported, match="beyond 32 bits"):
        simulate(graph(100, 1000))


def test_other_operations_are_named() -> None:
    b = Spiking((1, 3, 5, 5))
    codes = b.conv("qconv2d", b.quantize("x"), 4, 3, rescale=True)
    graph = b.spiking(b.linear("qlinear", b.flatten_steps(b.neurons(b.sums(codes, 4))), 2))
    with pytest.raises(Unsupported, match="qconv2d with rescaling"):
        simulate(graph)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    b = Spiking((1, 3, 5, 5))
    graph = b.spiking(b.linear("qlinear", b.flatten_steps(b.neurons(b.sums(b.quantize("x"), 4))), 2))
    monkeypatch.setenv("NETWRIGHT_CACHE", str(tmp_path_factory.mktemp("none")))
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(CompilerError, match="no-such-compiler"):
        simulate(graph)


@pytest.mark.parametrize("isa", ["avx2", "portable"])
def test_other_instruction_sets(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    if isa == "avx2" and not (platform.machine() == "x86_64" and "avx2" in Path("/proc/cpuinfo").read_text()):
        pytest.skip("this processor has no AVX2")
    monkeypatch.setenv("NETWRIGHT_ISA", isa)
    b = Spiking((1, 3, 8, 8))
    s = b.pooled(b.neurons(b.sums(b.quantize("x"), 19), "bipolar"), 2)
    s = b.neurons(b.sums(b.neurons(b.sums(s, 7), "memory", 2), 5), "burst", 4)
    check(b.spiking(b.linear("qlinear", b.flatten_steps(s), 3)))


def test_many_steps_compiled(same: Callable[[Graph, np.ndarray], None]) -> None:
    """The compiled network takes neurons in parts where the steps are many, and all steps of a matrix product at once."""
    b = Spiking((1, 3, 9, 13), steps=11)
    x, names = b.quantize("x"), []
    for (rule, limit), channels in zip(RULES, (33, 16, 5, 31, 40), strict=True):
        s = b.neurons(b.sums(b.neurons(b.sums(x, channels), rule, limit), 17, stride=2), rule, limit)
        names.append(b.add("readout", b.linear("qlinear", b.flatten_steps(s), 6), attrs={"steps": b.steps, "start": 2}))
    wide = b.neurons(b.linear("qlinear", b.flatten(b.add("isum", x)), 2100), "memory", 2)
    names.append(b.add("readout", b.linear("qlinear", wide, 3), attrs={"steps": b.steps, "start": 0}))
    same(b.gather(names), b.input)


def test_a_converted_network() -> None:
    """From PyTorch through conversion: the simulator stands in for the module."""
    from netwright.spike.convert import LocalThresholdBalancing
    from netwright.testing.spike import small_network

    x = torch.rand(48, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    made = LocalThresholdBalancing(steps=6, iterations=2, images=16).convert(small_network(0), x[:1], x[:32])
    with torch.no_grad():
        expected = made.module(x)
    for mode in MODES:
        run: Simulator = simulate(made.module.graph, mode)
        assert torch.equal(run(x), expected)
