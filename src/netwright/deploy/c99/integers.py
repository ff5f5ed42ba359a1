"""Rules for integer, binary and spiking operations: the meaning is that of netwright.design.ops, integer for integer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netwright.core.graph import Node
from netwright.deploy.c99 import layout, pack
from netwright.deploy.c99.floats import framed, reduced
from netwright.deploy.c99.lower import C_TYPES, LIMITS, Buffer, Lowering, Pointer, Rule, Value, buffer


def code_type(lo: int, hi: int) -> str:
    """Smallest type that holds lo..hi, as in design.ops."""
    return "u8" if lo >= 0 and hi <= 255 else "i8" if lo >= -128 and hi <= 127 else "i32"


@dataclass(frozen=True)
class Sums:
    """The weights of one layer [O, I/G, kh, kw], what happens to its sums, and how the window moves."""

    w: NDArray[np.int64]
    bias: NDArray[np.int64]
    mult: NDArray[np.int64] | None
    shift: NDArray[np.int64] | None
    type: str
    bits: int
    attrs: Mapping[str, Any]
    groups: int
    added: tuple[int | str, ...] = ()  # what nw_end says of a tensor that is added to the codes
    residual: Pointer = None

    @property
    def window(self) -> tuple[int, ...]:
        """kh, kw, strides"""
        return (*self.w.shape[2:], *self.attrs["stride"])

    def end(self, largest: int) -> str:
        """What happens to sums of codes up to `largest`, as the kernels take it (nw_end in dot4.h)."""
        if self.mult is None or self.shift is None:
            return "(nw_end){NW_I32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}"
        reach = _reach(self, largest) * abs(self.mult) + (1 << (self.shift - 1))
        narrow = reach.max() < 2**31 and self.shift.max() < 32
        added = self.added or (0, "NW_I8", 0, 0, 1, 0, 0)
        values = (C_TYPES[self.type], 2 if narrow else 1, int(self.attrs["lo"]), int(self.attrs["hi"]), *added)
        return f"(nw_end){{{', '.join(map(str, values))}}}"


def _sums(work: Lowering, node: Node, w: NDArray[np.int64], attrs: Mapping[str, Any], groups: int) -> Sums:
    bias, mult, shift = work.ints("bias"), work.ints("mult"), work.ints("shift")
    o = w.shape[0]
    bias = np.zeros(o, np.int64) if bias is None else bias
    if mult is not None:
        assert shift is not None
        mult, shift = np.broadcast_to(mult, (o,)), np.broadcast_to(shift, (o,))
        if shift.min() < 1 or shift.max() > 62:
            raise work.refuse(f"with a shift outside 1..62 ({shift.min()}..{shift.max()})")
    bits = int(node.attrs["bits"])
    allowed = {1: (-1, 1), 2: (-1, 0, 1)}.get(bits, range(-127, 128))
    if not np.isin(w, list(allowed)).all():
        raise work.refuse(f"with weights that do not fit in {bits} bits")
    kind = "i32" if mult is None else code_type(node.attrs["lo"], node.attrs["hi"])
    return Sums(w, bias, mult, shift, kind, bits, attrs, groups)


def _unpacked(work: Lowering, s: Sums, flat: NDArray[np.int64]) -> Pointer:
    """Codes in the order of `flat`: an array of bytes, or a buffer unpacked from planes of bits."""
    if s.bits == 8:
        return work.const(flat.astype(np.int8), "w")
    y = work.scratch(flat.size)
    negative = work.const(pack.bits(flat < 0), "negative")
    if s.bits == 1:
        work.step("nw_unpack1", [negative, y], flat.size, writes=y)
    else:
        work.step("nw_unpack2", [work.const(pack.bits(flat != 0), "some"), negative, y], flat.size, writes=y)
    return y


def _dot4_weights(work: Lowering, s: Sums) -> Pointer:
    if s.bits == 8 or pack.is_tight(s.w, s.groups):
        return _unpacked(work, s, pack.dot4(s.w, s.groups))
    rows = _unpacked(work, s, pack.rows(s.w, s.groups))
    o, i, kh, kw = s.w.shape
    y = work.scratch(pack.dot4(s.w, s.groups).size)
    work.step("nw_repack", [rows, y], s.groups, kh * kw, i, o // s.groups, writes=y)
    return y


def _vectors(work: Lowering, s: Sums, bias: NDArray[np.int64], blocked: bool) -> list[Pointer]:
    """bias, mult and shift, in blocks of 16 channels or plain."""

    def vector(v: NDArray[np.int64] | None, role: str, fill: int, dtype: type[np.integer[Any]]) -> Pointer:
        if v is None:
            return None
        return work.const((pack.channels(v, s.groups, fill) if blocked else v).astype(dtype), role)

    mult = np.int16 if work.mult16 else np.int32
    return [vector(bias, "b", 0, np.int32), vector(s.mult, "m", 0, mult), vector(s.shift, "s", 1, np.uint8)]


def _reach(s: Sums, largest: int) -> NDArray[np.int64]:
    """Largest magnitude of the sums of each channel."""
    return np.asarray(abs(s.w).reshape(s.w.shape[0], -1).sum(1) * largest + abs(s.bias))


def _largest_sum(s: Sums, largest: int) -> int:
    return int(_reach(s, largest).max())


def _with_residual(work: Lowering, node: Node, s: Sums, y: Value) -> tuple[Sums, Value]:
    """The sums and the result, with the addition of codes that follows this layer."""
    fusion = work.fusions.get(node.name)
    if fusion is None or fusion.residual is None:
        return s, y
    end = work.graph[fusion.output]
    a, first = end.attrs, end.inputs[0] != fusion.residual
    ma, mb = (int(a["ma"]), int(a["mb"])) if first else (int(a["mb"]), int(a["ma"]))
    other = work.channels_last(replace(work.values[fusion.residual], shape=y.shape)) if len(y.shape) == 4 else None
    assert other is not None
    s = replace(s, added=(1, C_TYPES[other.type], ma, mb, int(a["shift"]), int(a["lo"]), int(a["hi"])), residual=other.at)
    return replace(s, type=code_type(a["lo"], a["hi"])), work.new(y, type=code_type(a["lo"], a["hi"]))


def tile(pixels: int, blocks: int, most: int, bands: int) -> tuple[int, int]:
    """Pixels and blocks of 16 channels of a register tile of at most `most` by `bands`: few tiles, little that sticks out."""
    n = min(blocks, bands)
    sizes = range(1, min(pixels, most * bands // n, 12) + 1)
    return min(sizes, key=lambda p: (-(-pixels // p) * (p * n + 2), -p)), n


def _check_range(work: Lowering, s: Sums, largest: int) -> None:
    worst = _largest_sum(s, largest)
    if worst >= 2**31:
        raise work.refuse(f"whose sums can reach {worst}, beyond 32 bits")


def convolve(work: Lowering, node: Node, x: Value, w: NDArray[np.int64], attrs: Mapping[str, Any], groups: int,
             shape: layout.Shape) -> Value:  # fmt: skip
    """Any weighted layer, of x channels last."""
    s = _sums(work, node, w, attrs, groups)
    largest = 1 if x.spikes or node.op.startswith("b") else LIMITS.get(x.type, 0)
    bound = _largest_sum(s, largest) if s.mult is None and largest else 0
    y = work.new(x, type=s.type, shape=shape, order=layout.channels_last(4), spikes=False, bound=bound)
    s, y = _with_residual(work, node, s, y)
    if node.op.startswith("b"):
        _binary(work, s, x, y)
    elif x.type == "i32" and s.mult is None:
        _wide(work, s, x, y)
    elif x.type not in LIMITS:
        raise work.refuse(f"of {x.type} (quantize first)")
    elif x.spikes and s.mult is None:
        _events(work, s, x, y)
    elif groups == x.shape[1] == w.shape[0] and w.shape[1] == 1 and groups > 1:
        _depthwise(work, s, x, y)
    else:
        _dense(work, s, x, y)
    return y


Right = tuple[Value, tuple[int, ...]]  # the right side of a product: a value; matrices, K, O and the distances along them


def _dense(work: Lowering, s: Sums, x: Value, y: Value, other: Right | None = None) -> None:
    (_, c, h, w), (_, o, oh, ow) = x.shape, y.shape
    top, left, bottom, right = s.attrs["pads"]
    zero = 128 if x.type == "i8" else 0
    i, i4, signed = c // s.groups, -(-(c // s.groups) // 4), x.type == "i8"
    at: Pointer = x.at
    if signed or any(s.attrs["pads"]) or i % 4:
        height, width = h + top + bottom, w + left + right
        at = work.scratch(x.steps * height * width * s.groups * i4 * 4)
        work.step("nw_bytes", [x.at, at], x.steps, h, w, s.groups, i, i4, top, left, bottom, right, zero, writes=at)
        h, w = height, width
    bias = s.bias - zero * s.w.reshape(o, -1).sum(1)
    _check_range(work, replace(s, bias=bias), 255)
    direct = s.bits == 2 and pack.is_tight(s.w, s.groups) and i % 16 == 0
    vectors = _vectors(work, s, bias, True)
    if other is not None:
        kernel, vectors[0] = _packed_bytes(work, *other, zero)
    else:
        kernel = work.const(pack.ternary(s.w, s.groups), "w") if direct else _dot4_weights(work, s)
    window = s.window
    if window == (1, 1, 1, 1):
        h, w, oh, ow = 1, h * w, 1, oh * ow
    sizes = (x.steps, h, w, oh, ow, s.groups, i4, o // s.groups, *window, *s.attrs["dilation"])
    wide, narrow = (tile(oh * ow, -(-(o // s.groups) // pack.BLOCK), *most) for most in ((6, 4), (4, 1)))
    shape = (f"NW_TILE({a}, {b})" for a, b in zip(wide, narrow, strict=True))
    pointers = [at, kernel, *vectors, s.residual, y.at]
    end = s.end(LIMITS[x.type])
    work.step("nw_conv_i8", pointers, *sizes, *shape, 2 if direct else 8, end, writes=buffer(y))


def _packed_bytes(work: Lowering, b: Value, sizes: tuple[int, ...], zero: int) -> tuple[Pointer, Pointer]:
    """The right side of a product as weights, and the biases that go with it."""
    groups, k, o = sizes[:3]
    blocks = groups * -(-o // pack.BLOCK)
    packed, bias = work.scratch(blocks * -(-k // 4) * 64), work.scratch(blocks * 64)
    work.step("nw_pack_bytes", [b.at, packed, bias], *sizes, zero, writes=packed)
    return packed, bias


def _depthwise(work: Lowering, s: Sums, x: Value, y: Value) -> None:
    _check_range(work, s, LIMITS[x.type])
    x, h, w = framed(work, x, s.attrs["pads"])
    (_, c, oh, ow) = y.shape
    sizes = (C_TYPES[x.type], x.steps, h, w, oh, ow, c, *s.window, *s.attrs["dilation"])
    weights = _unpacked(work, s, pack.depthwise(s.w))
    vectors = _vectors(work, replace(s, groups=1), s.bias, True)
    work.step("nw_dwconv_i8", [x.at, weights, *vectors, y.at], *sizes, s.end(LIMITS[x.type]), writes=buffer(y))


def _events(work: Lowering, s: Sums, x: Value, y: Value) -> None:
    _check_range(work, s, 1)
    (_, c, h, w), (_, o, oh, ow) = x.shape, y.shape
    top, left, _, _ = s.attrs["pads"]
    window = (*s.window, top, left, *s.attrs["dilation"])
    if s.groups == c == o and s.w.shape[1] == 1 and c > 1:
        weights, (bias, _, _) = _unpacked(work, s, pack.depthwise(s.w)), _vectors(work, replace(s, groups=1), s.bias, True)
        work.step("nw_event_dwconv", [x.at, weights, bias, y.at], x.steps, h, w, oh, ow, c, *window, writes=buffer(y))
        return
    if c // s.groups > 2**15:
        raise work.refuse("of more than 32768 channels")
    bias = work.const(s.bias.astype(np.int32), "b")
    i, blocks = c // s.groups, -(-(o // s.groups) // pack.BLOCK)
    weights, active = _unpacked(work, s, pack.rows(s.w, s.groups)), work.scratch(2 * i + 2)
    sizes = (x.steps, h, w, oh, ow, s.groups, i, o // s.groups, *window)
    if not work.dense_spikes or work.stepwise:
        work.step("nw_event_conv", [x.at, weights, bias, y.at, active], *sizes, writes=buffer(y))
        return
    _, _, bottom, right = s.attrs["pads"]
    wide, narrow = (tile(oh * ow, blocks, *most) for most in ((6, 4), (4, 1)))
    tiles = (f"NW_TILE({a}, {b})" for a, b in zip(wide, narrow, strict=True))
    packed = work.scratch(64 * s.groups * blocks * -(-i // 4) * s.w[0, 0].size)
    frame = work.scratch(4 * s.groups * -(-i // 4) * (h + top + bottom) * (w + left + right))
    dense = work.const(pack.channels(s.bias - 128 * s.w.reshape(o, -1).sum(1), s.groups, 0).astype(np.int32), "b")
    pointers = [x.at, weights, bias, dense, y.at, active, packed, frame]
    work.step("nw_spike_conv", pointers, *sizes, bottom, right, *tiles, writes=buffer(y))


def _wide(work: Lowering, s: Sums, x: Value, y: Value) -> None:
    (_, c, h, w), (_, o, oh, ow) = x.shape, y.shape
    top, left, _, _ = s.attrs["pads"]
    weights, bias = _unpacked(work, s, pack.rows(s.w, s.groups)), work.const(s.bias.astype(np.int32), "b")
    sizes = (x.steps, h, w, oh, ow, s.groups, c // s.groups, o // s.groups, *s.window, top, left, *s.attrs["dilation"])
    work.step("nw_conv_i32", [x.at, weights, bias, y.at], *sizes, writes=buffer(y))


def _missed(length: int, outputs: int, stride: int, pad: int, taps: int, dilation: int) -> list[tuple[int, ...]]:
    """For every output position the taps that lie outside 0..length-1."""
    starts = [o * stride - pad for o in range(outputs)]
    return [tuple(k for k in range(taps) if not 0 <= start + k * dilation < length) for start in starts]


def _binary(work: Lowering, s: Sums, x: Value, y: Value, other: Right | None = None) -> None:
    if s.bits != 1:
        raise work.refuse(f"with weights of {s.bits} bits")
    _check_range(work, s, 1)
    (_, c, h, w), (_, o, oh, ow) = x.shape, y.shape
    top, left, bottom, right = s.attrs["pads"]
    kh, kw = s.w.shape[2:]
    i, words = c // s.groups, -(-(c // s.groups) // 32)
    fh, fw = h + top + bottom, w + left + right
    signs = work.scratch(4 * x.steps * fh * fw * s.groups * words)
    work.step("nw_signs", [x.at, signs], C_TYPES[x.type], x.steps, h, w, s.groups, i, top, left, bottom, right, writes=signs)
    per = o // s.groups
    blocks = -(-per // pack.BLOCK)
    weights: Pointer
    whole = True
    if other is None:
        packed, whole = pack.words(s.w, s.groups)
        weights = work.const(packed, "bits")
    else:
        signed = work.scratch(4 * s.groups * blocks * words * pack.BLOCK)
        work.step("nw_pack_signs", [other[0].at, signed], *other[1], writes=signed)
        weights = signed
    if not whole:
        unpacked = work.scratch(4 * s.groups * blocks * kh * kw * words * pack.BLOCK)
        work.step("nw_unpack_words", [weights, unpacked], s.groups, kh * kw, i, per, writes=unpacked)
        weights = unpacked
    rows = _missed(h, oh, s.attrs["stride"][0], top, kh, s.attrs["dilation"][0])
    columns = _missed(w, ow, s.attrs["stride"][1], left, kw, s.attrs["dilation"][1])
    row_classes, column_classes = (list(dict.fromkeys(m)) for m in (rows, columns))
    classes = len(row_classes) * len(column_classes)
    tables: list[Pointer] = [None] * 3
    if any(row_classes + column_classes):
        taps = np.zeros((len(row_classes), len(column_classes), kh, kw), bool)
        for (r, missed_rows), (k, missed_columns) in product(enumerate(row_classes), enumerate(column_classes)):
            taps[r, k, list(missed_rows)] = taps[r, k, :, list(missed_columns)] = True
        first = np.array([row_classes.index(m) * len(column_classes) for m in rows])
        second = np.array([column_classes.index(m) for m in columns])
        kind = np.uint8 if classes < 256 else np.int32
        if kind is np.int32:
            raise work.refuse(f"with {classes} kinds of border")
        masks = np.concatenate([pack.bits(m) for m in taps.reshape(classes, -1)])
        tables = [work.const(first.astype(kind), "rows"), work.const(second.astype(kind), "columns"), work.const(masks, "missed")]
    else:
        classes = 1
    if (kh, kw) == (1, 1) and s.attrs["stride"] == [1, 1] and classes == 1:
        fh, fw, oh, ow = 1, fh * fw, 1, oh * ow
    tiles = [tile(oh * ow, blocks, *most) for most in ((6, 4), (4, 4), (2, 1))]
    bands = max(n for _, n in tiles)
    base = work.scratch(4 * 16 * bands * (classes + kh * kw))
    pointers = [signs, weights, *_vectors(work, s, s.bias, True), *tables, s.residual, y.at, base]
    shape = (f"NW_B1_TILE({', '.join(map(str, sizes))})" for sizes in zip(*tiles, strict=True))
    sizes = (x.steps, fh, fw, oh, ow, s.groups, i, per, *s.window, *s.attrs["dilation"], classes, *shape)
    work.step("nw_conv_b1", pointers, *sizes, s.end(1), writes=buffer(y))


def conv2d(work: Lowering, node: Node) -> Value:
    x = work.channels_last(work.values[node.inputs[0]])
    w = work.ints("weight")
    assert w is not None
    return convolve(work, node, x, w, node.attrs, int(node.attrs["groups"]), (1, *node.spec.shape[1:]))


def linear(work: Lowering, node: Node) -> Value:
    x, w = work.values[node.inputs[0]], work.ints("weight")
    assert w is not None
    if x.columns is not None:
        w = w[:, x.columns]
    last = len(x.shape) - 1
    x = replace(work.last(x, (last,)), columns=None)
    rows, order = x.elements // x.shape[-1], layout.channels_last(4)
    rows *= x.steps  # all steps at once: the weights, more than all else, are read once
    image = replace(x, shape=(1, x.shape[-1], 1, rows), order=order, steps=1)
    attrs = {**node.attrs, "stride": [1, 1], "pads": [0] * 4, "dilation": [1, 1]}
    y = convolve(work, node, image, w[:, :, None, None], attrs, 1, (1, w.shape[0], 1, rows))
    return replace(y, shape=(*x.shape[:-1], w.shape[0]), order=x.order, steps=x.steps)


def matmul(work: Lowering, node: Node) -> Value:
    """A product of two computed tensors [..., M, K] x [..., K, O]: a 1x1 convolution with a group for each matrix, whose weights
    are packed when it runs."""
    a, b = (work.values[name] for name in node.inputs)
    if a.shape[:-2] != b.shape[:-2] or a.type not in LIMITS or b.type != "i8" or a.steps != 1 or b.steps != 1:
        raise work.refuse(f"of {a.type} {list(a.shape)} and {b.type} {list(b.shape)}")
    rank = len(a.shape)
    groups, m, k, o = a.elements // (a.shape[-1] * a.shape[-2]), a.shape[-2], a.shape[-1], b.shape[-1]
    rows_first = (rank - 2, *range(rank - 2), rank - 1)
    a = work.ordered(a, rows_first)
    matrices = layout.strides(b.shape, b.order)
    lead = [(n, s) for n, s in zip(b.shape[:-2], matrices[:-2], strict=True) if n > 1]
    if any(lead[i][1] != lead[i + 1][0] * lead[i + 1][1] for i in range(len(lead) - 1)):
        b = work.ordered(b, layout.natural(rank))
        matrices = layout.strides(b.shape, b.order)
        lead = [(n, s) for n, s in zip(b.shape[:-2], matrices[:-2], strict=True) if n > 1]
    sizes = (groups, k, o, lead[-1][1] if lead else 0, matrices[-2], matrices[-1])
    image = replace(a, shape=(1, groups * k, m, 1), order=layout.channels_last(4))
    mult, shift = node.attrs.get("mult"), node.attrs.get("shift")
    full = None if mult is None else np.full(groups * o, mult), None if shift is None else np.full(groups * o, shift)
    binary = node.op == "bmatmul"
    worst = np.full((groups * o, k, 1, 1), 1 if binary else 127)
    kind = "i32" if mult is None else code_type(node.attrs["lo"], node.attrs["hi"])
    attrs = {**node.attrs, "stride": [1, 1], "pads": [0] * 4, "dilation": [1, 1]}
    s = Sums(worst, np.zeros(groups * o, np.int64), *full, kind, 1 if binary else 8, attrs, groups)
    y = work.new(image, type=kind, shape=(1, groups * o, m, 1), order=layout.channels_last(4), spikes=False)
    (_binary if binary else _dense)(work, s, image, y, (b, sizes))
    return replace(y, shape=(*a.shape[:-1], o), order=rows_first)


def quantize(work: Lowering, node: Node) -> Value:
    x, a = work.values[node.inputs[0]], node.attrs
    y = work.new(x, type=code_type(a["lo"], a["hi"]), spikes=a["lo"] >= -1 and a["hi"] <= 1)
    inverse = float(np.float32(1.0 / a["scale"]))
    work.step("nw_quantize", [x.at, y.at], C_TYPES[y.type], x.total, inverse, float(a["lo"]), float(a["hi"]), writes=buffer(y))
    return y


def _channels_fastest(work: Lowering, x: Value) -> tuple[Value, int]:
    """x with its channels (axis 1 of images, else the last) fastest in memory, and how many there are."""
    axis = 1 if len(x.shape) == 4 else len(x.shape) - 1
    return work.last(x, (axis,)), x.shape[axis]


def dequantize(work: Lowering, node: Node) -> Value:
    x, scale = work.values[node.inputs[0]], work.floats("scale").reshape(-1)
    x, c = (x, 1) if scale.size == 1 else _channels_fastest(work, x)
    y = work.new(x, type="f32", spikes=False)
    at = work.const(np.broadcast_to(scale, (c,)), "scale")
    work.step("nw_dequantize", [x.at, at, y.at], C_TYPES[x.type], x.total // c, c, writes=buffer(y))
    return y


def qadd(work: Lowering, node: Node) -> Value:
    a, b = (work.values[name] for name in node.inputs)
    n = node.attrs
    if a.shape != b.shape or a.steps != b.steps:
        raise work.refuse(f"of shapes {list(a.shape)} and {list(b.shape)}")
    b = work.ordered(b, a.order)
    y = work.new(a, type=code_type(n["lo"], n["hi"]), spikes=False)
    types = (C_TYPES[a.type], C_TYPES[b.type], C_TYPES[y.type])
    work.step(
        "nw_qadd", [a.at, b.at, y.at], *types, a.total, *(int(n[k]) for k in ("ma", "mb", "shift", "lo", "hi")), writes=buffer(y)
    )
    return y


def qmul(work: Lowering, node: Node) -> Value:
    x, z = (work.values[name] for name in node.inputs)
    n = node.attrs
    if x.elements < z.elements:
        x, z = z, x
    if (
        len(x.shape) != len(z.shape)
        or x.steps != 1
        or z.steps != 1
        or any(k not in (1, m) for k, m in zip(z.shape, x.shape, strict=True))
    ):
        raise work.refuse(f"of shapes {list(x.shape)} and {list(z.shape)}")
    dims = tuple(d for d, k in enumerate(z.shape) if k > 1)
    if (sizes := layout.split(x.shape, x.order, dims)) is None:
        x = work.last(x, dims)
        sizes = layout.split(x.shape, x.order, dims)
    assert sizes is not None
    z = work.ordered(z, x.order)
    y = work.new(x, type=code_type(n["lo"], n["hi"]), spikes=False)
    types = (C_TYPES[x.type], C_TYPES[z.type], C_TYPES[y.type])
    work.step(
        "nw_qmul", [x.at, z.at, y.at], *types, *sizes, *(int(n[k]) for k in ("mult", "shift", "lo", "hi")), writes=buffer(y)
    )
    return y


def requantize(work: Lowering, node: Node) -> Value:
    return _rescaled(work, node, "nw_requantize", ("mult", "bias"))


def qprelu(work: Lowering, node: Node) -> Value:
    return _rescaled(work, node, "nw_qprelu", ("gate", "mult", "bias", "below_mult", "below_bias"))


def _rescaled(work: Lowering, node: Node, kernel: str, roles: tuple[str, ...]) -> Value:
    a = node.attrs
    x, c = _channels_fastest(work, work.values[node.inputs[0]])
    y = work.new(x, type=code_type(a["lo"], a["hi"]), spikes=False)
    vectors: list[Pointer] = []
    for role in roles:
        v = work.ints(role)
        assert v is not None
        vectors.append(work.const(np.broadcast_to(v, (c,)).astype(np.int32), role))
    types = (C_TYPES[x.type], C_TYPES[y.type])
    work.step(
        kernel,
        [x.at, *vectors, y.at],
        *types,
        x.total // c,
        c,
        *(int(a[k]) for k in ("shift", "lo", "hi")),
        writes=buffer(y),
    )
    return y


def lut(work: Lowering, node: Node) -> Value:
    x, a = work.values[node.inputs[0]], node.attrs
    table = work.ints("table")
    assert table is not None
    if x.type == "i32":
        raise work.refuse("of 32-bit sums")
    y = work.new(x, type=code_type(a["lo"], a["hi"]), spikes=False)
    wide = y.type == "i32"
    data = table.astype({"u8": np.uint8, "i8": np.int8, "i32": np.int16}[y.type])
    at = work.const(data if wide else data.view(np.uint8), "table")
    work.step(
        "nw_lut16" if wide else "nw_lut8",
        [x.at, at, y.at],
        C_TYPES[x.type],
        x.total,
        128 if x.type == "i8" else 0,
        writes=buffer(y),
    )
    return y


def _summed(work: Lowering, node: Node, kind: str, *end: int) -> Value:
    x, (before, of, after) = work.together(work.values[node.inputs[0]], (2, 3))
    shape, order = reduced(x, (2, 3), True)
    y = work.new(x, type=kind, shape=shape, order=order, spikes=False)
    work.step("nw_sum_codes", [x.at, y.at], C_TYPES[x.type], C_TYPES[kind], before, of, after, *end, writes=buffer(y))
    return y


def qmean(work: Lowering, node: Node) -> Value:
    a = node.attrs
    return _summed(work, node, code_type(a["lo"], a["hi"]), 1, *(int(a[k]) for k in ("mult", "shift", "lo", "hi")))


def isum(work: Lowering, node: Node) -> Value:
    return _summed(work, node, "i32", 0, 0, 1, 0, 0)


def iadd(work: Lowering, node: Node) -> Value:
    a, b = (work.values[name] for name in node.inputs)
    if a.shape != b.shape or (a.type, b.type) != ("i32", "i32"):
        raise work.refuse(f"of {a.type} {list(a.shape)} and {b.type} {list(b.shape)}")
    b = work.ordered(b, a.order)
    y = work.new(a, steps=max(a.steps, b.steps), bound=a.bound + b.bound if a.bound and b.bound else 0)
    work.step("nw_iadd", [a.at, b.at, y.at], a.steps, b.steps, a.elements, writes=buffer(y))
    return y


NEURONS = {"if": "NW_IF", "bipolar": "NW_BIPOLAR", "memory": "NW_MEMORY", "burst": "NW_BURST"}


def integrate(work: Lowering, node: Node) -> Value:
    x, a = work.channels_last(work.values[node.inputs[0]]), node.attrs
    steps, c = int(a["steps"]), x.shape[1]
    if x.type != "i32" or x.steps != (1 if work.stepwise else a["current_steps"]):
        raise work.refuse(f"of {x.type} over {x.steps} steps where {a['current_steps']} were declared")
    vectors: list[Pointer] = []
    reach = steps * x.bound
    for role in ("theta", "v0"):
        v = work.ints(role)
        assert v is not None
        reach += int(abs(v).max())
        vectors.append(work.const(np.broadcast_to(v, (c,)).astype(np.int32), role))
    wide, positions = int(not x.bound or reach >= 2**31), x.elements // c
    rule = (NEURONS[a["rule"]], int(a["limit"]))
    ones = a["rule"] != "burst"
    if work.stepwise:
        y, state = work.new(x, type="i8", spikes=ones), Buffer(x.elements * ((8 if wide else 4) + 4 * (a["rule"] == "memory")))
        work.step("nw_rest", [vectors[1], state], positions, c, rule[0], wide, writes=state)
        work.step("nw_integrate_step", [x.at, vectors[0], y.at, state], positions, c, *rule, wide, writes=buffer(y))
        return y
    y = work.new(x, type="i8", steps=steps, spikes=ones)
    sizes = (steps, positions, c, int(x.steps == 1), *rule, wide)
    work.step("nw_integrate", [x.at, *vectors, y.at], *sizes, writes=buffer(y))
    return y


def accumulate(work: Lowering, node: Node) -> Value:
    return _in_time(work, node, "nw_running_sums", "steps", int(node.attrs["steps"]))


def difference(work: Lowering, node: Node) -> Value:
    return _in_time(work, node, "nw_changes", "current_steps", 2)


def _in_time(work: Lowering, node: Node, kernel: str, declared: str, grows: int) -> Value:
    """A current, in all its steps at once, whose largest value is at most `grows` times that of its source."""
    x, a = work.values[node.inputs[0]], node.attrs
    if x.type != "i32" or x.steps != (1 if work.stepwise else a[declared]):
        raise work.refuse(f"of {x.type} over {x.steps} steps where {a[declared]} were declared")
    bound = x.bound * grows
    if work.stepwise:
        y, last = work.new(x, spikes=False, bound=bound if bound < 2**31 else 0), Buffer(x.elements * 4)
        work.step("nw_clear", [last], x.elements, writes=last)
        work.step(f"{kernel}_step", [x.at, y.at, last], x.elements, writes=buffer(y))
        return y
    y = work.new(x, steps=int(a["steps"]), spikes=False, bound=bound if bound < 2**31 else 0)
    work.step(kernel, [x.at, y.at], x.steps, y.steps, x.elements, writes=buffer(y))
    return y


def readout(work: Lowering, node: Node) -> Value:
    x, a = work.values[node.inputs[0]], node.attrs
    if x.type != "i32" or x.steps != (1 if work.stepwise else a["steps"]):
        raise work.refuse(f"of {x.type} over {x.steps} steps where {a['steps']} were declared")
    start, channels = work.ints("v0"), x.shape[1]
    v0 = None if start is None else work.const(np.broadcast_to(start, (channels,)).astype(np.int32), "v0")
    x = x if v0 is None else work.channels_last(x)
    y = work.new(x, steps=1)
    if work.stepwise:
        if v0 is None:
            work.step("nw_clear", [y.at], y.elements, writes=buffer(y))
        else:
            work.step("nw_rest", [v0, y.at], y.elements // channels, channels, "NW_IF", 0, writes=buffer(y))
        work.step("nw_accumulate", [x.at, y.at], y.elements, writes=buffer(y))
        return y
    work.step("nw_readout", [x.at, v0, y.at], x.steps, int(a["start"]), x.elements, channels, writes=buffer(y))
    return y


RULES: dict[str, Rule] = {
    "quantize": quantize, "dequantize": dequantize, "qconv2d": conv2d, "bconv2d": conv2d, "qlinear": linear, "blinear": linear,
    "qmatmul": matmul, "bmatmul": matmul,
    "qadd": qadd, "qmul": qmul, "requantize": requantize, "qprelu": qprelu, "lut": lut, "qmean": qmean, "isum": isum,
    "iadd": iadd, "integrate": integrate, "accumulate": accumulate, "difference": difference, "readout": readout,
}  # fmt: skip
