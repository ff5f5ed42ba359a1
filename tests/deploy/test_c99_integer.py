"""Integer, binary and spiking kernels equal the reference operators integer for integer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import Builder

from netwright.deploy.c99 import build, emit
from netwright.design.execute import GraphModule

Check = Callable[..., None]
CHANNELS = [1, 3, 7, 16, 17, 31, 32, 33, 63, 64, 65]


@pytest.mark.parametrize("op, bits", [("qconv2d", 8), ("qconv2d", 2), ("qconv2d", 1), ("bconv2d", 1)])
def test_convolutions_at_awkward_channels(same: Check, op: str, bits: int) -> None:
    b = Builder((1, 65, 5, 7), seed=bits)
    signed, unsigned = b.quantize("x"), b.quantize("x", 0, 255)
    names = []
    for n, c in enumerate(CHANNELS):
        source = signed if n % 2 or op == "bconv2d" else unsigned
        part = b.add("slice", source, attrs={"dim": 1, "start": 0, "end": c, "step": 1})
        k = (1, 3, 5, 3)[n % 4]
        out = b.conv(
            op,
            part,
            CHANNELS[-1 - n],
            k,
            stride=1 + n % 3 // 2,
            bits=bits,
            rescale=n % 4 > 0,
            lo=0 if n % 2 else -127,
            hi=255 if n % 2 else 127,
        )
        names.append(out)
    same(b.gather(names), b.input, avx2=bits == 8 or op == "bconv2d")


@pytest.mark.parametrize("op, bits", [("qconv2d", 8), ("qconv2d", 2), ("qconv2d", 1), ("bconv2d", 1)])
def test_groups_pads_strides_dilation(same: Check, op: str, bits: int) -> None:
    b = Builder((1, 48, 7, 5), seed=3)
    x, u = b.quantize("x"), b.quantize("x", 0, 255)
    names = [
        b.conv(op, x, 48, 3, groups=48, bits=bits),
        b.conv(op, u, 48, 7, groups=48, bits=bits, stride=2, lo=0, hi=255),
        b.conv(op, x, 96, 3, groups=48, bits=bits, bias=False),
        b.conv(op, x, 40, 3, groups=4, bits=bits, pads=[0, 1, 2, 0]),
        b.conv(op, u, 6, 3, groups=2, bits=bits, dilation=2, pads=[2, 2, 2, 2]),
        b.conv(op, x, 5, 2, bits=bits, pads=[1, 0, 0, 1], stride=2, rescale=False),
        b.conv(op, x, 16, 5, bits=bits, pads=[4, 4, 4, 4], stride=3),
        b.conv(op, x, 20, 1, bits=bits, lo=-5000, hi=5000),
    ]
    same(b.gather(names), b.input)


def test_linear_layers_and_flattening_in_channel_order(same: Check) -> None:
    b = Builder((1, 6, 3, 5))
    x = b.quantize("x")
    flat = b.flatten(b.conv("qconv2d", x, 33, 3, lo=-127, hi=127))
    names = [b.linear(op, flat, o, bits=bits, rescale=r) for op, o, bits, r in
             [("qlinear", 10, 8, False), ("qlinear", 65, 2, True), ("qlinear", 17, 1, True),
              ("blinear", 31, 1, False)]]  # fmt: skip
    names.append(b.linear("qlinear", names[1], 3, bits=2))
    same(b.gather(names), b.input)


def test_pointwise_operators(same: Check) -> None:
    b = Builder((1, 19, 5, 3))
    x, u = b.quantize("x"), b.quantize("x", 0, 255)
    gate = b.add("qmean", u, attrs={"mult": 2**20, "shift": 24, "lo": 0, "hi": 255})
    table = np.random.default_rng(1).integers(-127, 128, 256).astype(np.int16)
    rng = np.random.default_rng(2)
    pool = {"kernel": [3, 2], "stride": [2, 2], "padding": [1, 1], "ceil": True}
    names = [
        gate,
        b.add("qadd", x, u, attrs={"ma": 12345, "mb": -23456, "shift": 15, "lo": -127, "hi": 127}),
        b.add("qadd", u, u, attrs={"ma": 2**30, "mb": 2**30, "shift": 31, "lo": 0, "hi": 255}),
        b.add("qmul", x, gate, attrs={"mult": 777, "shift": 14, "lo": -127, "hi": 127}),
        b.add("qmul", x, u, attrs={"mult": -777, "shift": 14, "lo": -128, "hi": 127}),
        b.add("requantize", x, mult=rng.integers(-999, 999, 19).astype(np.int32),
              bias=rng.integers(-9999, 9999, 19).astype(np.int32), attrs={"shift": 9, "lo": -127, "hi": 127}),
        *(b.add("qprelu", codes, **{role: rng.integers(-999, 999, 19).astype(np.int32) for role in ("mult", "below_mult")},
                gate=rng.integers(-60, 60, 19).astype(np.int32), bias=rng.integers(-9999, 9999, 19).astype(np.int32),
                below_bias=rng.integers(-9999, 9999, 19).astype(np.int32), attrs={"shift": 9, "lo": -127, "hi": 127})
          for codes in (x, u)),
        b.add("lut", x, table=table, attrs={"lo": -127, "hi": 127}),
        b.add("lut", u, table=np.abs(table), attrs={"lo": 0, "hi": 255}),
        b.add("qmean", x, attrs={"mult": 2**22, "shift": 25, "lo": -127, "hi": 127}),
        b.add("max_pool2d", x, attrs=pool),
        b.add("max_pool2d", u, attrs={**pool, "ceil": False}),
        b.add("cat", x, x, attrs={"dim": 1}),
        b.add("slice", x, attrs={"dim": 1, "start": 1, "end": 18, "step": 3}),
        b.add("slice", x, attrs={"dim": 2, "start": 1, "end": 4, "step": 1}),
        b.add("permute", x, attrs={"dims": [0, 3, 1, 2]}),
        b.add("isum", x),
    ]  # fmt: skip
    scaled = b.add("dequantize", b.conv("qconv2d", x, 7, 1, rescale=False), scale=rng.uniform(0.1, 2, 7).astype(np.float32))
    same(b.gather([*names, scaled]), b.input)


def test_quantize_rounds_half_to_even_and_takes_nan(same: Check) -> None:
    b = Builder((1, 16))
    codes = b.add("quantize", "x", attrs={"scale": 0.5, "lo": -127, "hi": 127})
    small = b.add("quantize", "x", attrs={"scale": 0.1, "lo": 0, "hi": 255})
    x = np.array(
        [[0.25, 0.75, -0.25, -0.75, 1.25, 1e9, -1e9, np.nan, np.inf, -np.inf, 0.05, 0.15, 0.35, -0.0, 63.4, 12.75]], np.float32
    )
    same(b.gather([codes, small]), x)


def test_extremes_of_sums(same: Check) -> None:
    """All codes and weights at their limits: no 16-bit saturation anywhere."""
    b = Builder((1, 64, 3, 3))
    names = []
    for lo, hi in ((0, 255), (-127, 127)):
        x = b.quantize("x", lo, hi)
        for weight in (-127, 127):
            attrs = {"stride": [1, 1], "pads": [1] * 4, "dilation": [1, 1], "groups": 1, "lo": 0, "hi": 0, "bits": 8}
            names.append(b.add("qconv2d", x, attrs=attrs, weight=np.full((17, 64, 3, 3), weight, np.int8)))
            names.append(b.add("qconv2d", x, attrs={**attrs, "groups": 64}, weight=np.full((64, 1, 3, 3), weight, np.int8)))
    graph = b.gather(names)
    same(graph, np.concatenate([np.full_like(b.input, value) for value in (9e9, -9e9)]), avx2=True)


@pytest.mark.parametrize("rule, limit", [("if", 0), ("bipolar", 0), ("memory", 0), ("memory", 2), ("burst", 3)])
def test_spiking_network(same: Check, rule: str, limit: int) -> None:
    b, steps = Builder((1, 3, 7, 6)), 5

    def neuron(current: str, current_steps: int) -> str:
        c = b.shape(current)[1]
        theta = (
            b.rng.integers(2000, 4000, c).astype(np.int32) if current_steps == 1 else b.rng.integers(100, 300, c).astype(np.int32)
        )
        attrs = {"steps": steps, "current_steps": current_steps, "rule": rule, "limit": limit}
        return b.add("integrate", current, theta=theta, v0=theta // 2, attrs=attrs)

    s = neuron(b.conv("qconv2d", b.quantize("x"), 33, 3, rescale=False), 1)
    first = s
    s = neuron(b.conv("qconv2d", s, 17, 3, stride=2, rescale=False, bits=8), steps)
    t = neuron(b.conv("qconv2d", first, 33, 3, groups=33, rescale=False, bits=2), steps)
    still = b.conv("qconv2d", b.quantize("x"), 33, 1, rescale=False)
    both = b.add("iadd", b.conv("qconv2d", t, 33, 1, rescale=False, bits=1), still, attrs={"a_steps": steps, "b_steps": 1})
    t = neuron(both, steps)
    t = b.add("max_pool2d", t, attrs={"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0], "ceil": True})
    both = b.add("iadd", b.conv("qconv2d", s, 12, 3, groups=1, rescale=False, dilation=2, pads=[2] * 4),
                 b.conv("qconv2d", t, 12, 3, groups=3, rescale=False, pads=[1] * 4),
                 attrs={"a_steps": steps, "b_steps": steps})  # fmt: skip
    u = neuron(both, steps)
    assert 0.02 < float((b.outputs[u] != 0).float().mean()) < 0.98
    heads = [b.add("isum", u), b.linear("qlinear", b.flatten_steps(u), 10)]
    heads[0] = b.add("reshape", heads[0], shape=(1, 12))
    same(b.gather([b.add("readout", h, attrs={"steps": steps, "start": 2}) for h in heads]), b.input)


@pytest.mark.parametrize("op, bits", [("qconv2d", 8), ("qconv2d", 2), ("bconv2d", 1)])
def test_whole_blocks_of_channels(same: Check, op: str, bits: int) -> None:
    """Channels that fill registers: weights of two bits and of one are read as they are stored."""
    b = Builder((1, 64, 9, 6), seed=bits)
    x, u = b.quantize("x"), b.quantize("x", 0, 255)
    names = []
    for n, (i, o) in enumerate([(16, 16), (32, 48), (64, 64), (48, 112), (64, 16), (32, 80)]):
        part = b.add("slice", u if n % 2 and bits > 1 else x, attrs={"dim": 1, "start": 0, "end": i, "step": 1})
        names.append(b.conv(op, part, o, 3 if n % 3 else 1, bits=bits, stride=1 + n // 4, rescale=n != 2))
        names.append(b.conv(op, part, o, 3, bits=bits, pads=[3, 0, 1, 2], dilation=2))
    same(b.gather(names), b.input, avx2=True)


@pytest.mark.parametrize("op, bits", [("qconv2d", 8), ("qconv2d", 2), ("bconv2d", 1)])
@pytest.mark.parametrize("channels", [7, 16, 33, 64])
def test_addition_at_the_end_of_a_layer(same: Check, op: str, bits: int, channels: int) -> None:
    """A convolution adds the codes of another tensor itself: on both sides, of both types, and not where 32 bits are too few."""
    b = Builder((1, channels, 5, 7), seed=channels)
    x, u = b.quantize("x"), b.quantize("x", 0, 255)
    ends = [
        {"ma": 12345, "mb": -23456, "shift": 15, "lo": -127, "hi": 127},
        {"ma": 2**30, "mb": 2**30, "shift": 31, "lo": 0, "hi": 255},
        {"ma": 3, "mb": 1, "shift": 1, "lo": 0, "hi": 255},
    ]
    names = []
    for n, end in enumerate(ends):
        y = b.conv(op, x, channels, 3, bits=bits)
        names.append(b.add("qadd", *((y, x) if n % 2 else (u, y)), attrs=end))
    names.append(b.conv(op, names[0], channels, 3, bits=bits))
    same(b.gather(names), b.input, avx2=True)


def test_wide_borders_of_binary_layers(same: Check) -> None:
    """Every class of border pixels has the bias of the taps that it misses."""
    b = Builder((1, 40, 6, 4), seed=9)
    x = b.quantize("x")
    names = [
        b.conv("bconv2d", x, 24, 7, bits=1, rescale=False),
        b.conv("bconv2d", x, 33, 5, bits=1, pads=[4, 4, 4, 4], stride=2, rescale=False),
        b.conv("bconv2d", x, 8, 3, bits=1, pads=[0, 5, 3, 0], dilation=2, rescale=False),
        b.conv("bconv2d", x, 80, 1, bits=1, pads=[1, 1, 1, 1], rescale=False),
        b.conv("bconv2d", x, 20, 3, bits=1, groups=4, rescale=False),
    ]
    same(b.gather(names), b.input, avx2=True)


@pytest.mark.parametrize("op, bits", [("qlinear", 8), ("qlinear", 2), ("blinear", 1)])
def test_linear_layers_of_tokens(same: Check, op: str, bits: int) -> None:
    b = Builder((1, 7, 33))
    x = b.quantize("x")
    wide = b.linear(op, x, 48, bits=bits, rescale=True)
    names = [b.linear(op, wide, o, bits=bits, rescale=o != 17) for o in (1, 16, 17, 64)]
    same(b.gather(names), b.input, avx2=True)


@pytest.mark.parametrize("op", ["qmatmul", "bmatmul"])
@pytest.mark.parametrize("heads, m, k, o", [(1, 1, 1, 1), (2, 7, 16, 5), (3, 5, 33, 17), (2, 16, 64, 32), (1, 9, 31, 65)])
def test_products_of_two_computed_tensors(same: Check, op: str, heads: int, m: int, k: int, o: int) -> None:
    """As attention needs them: queries by keys of several heads, the keys turned by a permutation."""
    b = Builder((1, m + o, heads * k), seed=k)
    x = b.quantize("x")
    q = b.add("slice", x, attrs={"dim": 1, "start": 0, "end": m, "step": 1})
    keys = b.add("slice", x, attrs={"dim": 1, "start": m, "end": m + o, "step": 1})
    q = b.add("permute", b.add("reshape", q, shape=(1, m, heads, k)), attrs={"dims": [0, 2, 1, 3]})
    keys = b.add("permute", b.add("reshape", keys, shape=(1, o, heads, k)), attrs={"dims": [0, 2, 3, 1]})
    sums = b.add(op, q, keys, attrs={"lo": 0, "hi": 0})
    codes = b.add(op, q, keys, attrs={"mult": 1234, "shift": 16, "lo": 0, "hi": 255})
    values = b.add("permute", keys, attrs={"dims": [0, 1, 3, 2]})
    mixed = b.add("qmatmul", codes, values, attrs={"mult": 777, "shift": 14, "lo": -127, "hi": 127})
    same(b.gather([sums, codes, mixed]), b.input, avx2=True)


@pytest.mark.parametrize("shape", [(5, 33, 17, 1, 3), (7, 64, 48, 1, 3), (6, 12, 20, 4, 3), (4, 40, 70, 1, 1)])
def test_spikes_of_any_density(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Each step has the form that its density asks for; both give the same."""
    side, channels, outputs, groups, kernel = shape
    b = Builder((1, channels, side, side))
    spikes = b.add("quantize", "x", attrs={"scale": 1.0, "lo": -1, "hi": 1})
    conv = b.conv("qconv2d", spikes, outputs, kernel, groups=groups, rescale=False, stride=1 + kernel // 2)
    graph = b.gather([conv])
    assert "nw_spike_conv(p" in emit(graph).c and "nw_spike_conv(p" not in emit(graph, dense_spikes=False).c
    for isa in ("native", "avx2", "portable"):
        model = build(graph, tmp_path / isa, isa=isa)
        for density in (0.0, 0.02, 0.08, 0.12, 0.4, 0.6, 1.0):
            x = (b.rng.random(b.input.shape) < density) * b.rng.choice([-1.0, 1.0], b.input.shape)
            x = x.astype(np.float32)
            expected = GraphModule(graph).eval()(torch.from_numpy(x)).numpy()
            np.testing.assert_array_equal(model.run(x), expected, err_msg=f"{isa} at {density}")
