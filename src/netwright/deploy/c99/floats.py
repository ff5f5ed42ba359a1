"""Rules for float operations."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from netwright.core.graph import Node
from netwright.deploy.c99 import layout, pack
from netwright.deploy.c99.lower import Buffer, Const, Lowering, Pointer, Rule, Value, buffer, whole
from netwright.deploy.c99.sparse import sparse_pointwise

ACTS = {
    "relu": "NW_RELU", "relu6": "NW_CLAMP", "hardtanh": "NW_CLAMP", "gelu": "NW_GELU", "silu": "NW_SILU",
    "hardswish": "NW_HARDSWISH", "hardsigmoid": "NW_HARDSIGMOID",
    "sigmoid": "NW_SIGMOID", "tanh": "NW_TANH", "leaky_relu": "NW_LEAKY", "elu": "NW_ELU",
    **{op: f"NW_{op.upper()}" for op in ("softplus", "mish", "abs", "sqrt", "rsqrt", "exp", "log", "sin", "cos", "erf", "pow")},
}  # fmt: skip
BINARY = ("add", "sub", "mul", "div", "maximum", "minimum", "gt", "ge", "lt", "le", "eq", "ne")
REDUCTIONS = {"sum": "NW_SUM_OF", "mean": "NW_MEAN_OF", "amax": "NW_AMAX_OF", "amin": "NW_AMIN_OF"}


def tile(oh: int, ow: int, blocks: int, registers: int, vectors: int) -> tuple[int, int, int]:
    """Rows, columns and blocks of 16 channels of a register tile that needs the fewest cycles.

    A tile of P pixels and N blocks of `vectors` registers does P*N*vectors multiply-adds for N*vectors + P loads, two of
    each a cycle, and no faster than the latency of four cycles of one multiply-add.
    """

    def cycles(t: tuple[int, int, int]) -> tuple[float, int]:
        rows, columns, n = t
        p, v = rows * columns, n * vectors
        tiles = math.ceil(oh / rows) * math.ceil(ow / columns) * math.ceil(blocks / n)
        return tiles * (max(p * v / 2, (v + p) / 2, 4.0) + 0.5), p * n

    sizes = product(range(1, min(oh, 8) + 1), range(1, min(ow, 16) + 1), range(1, min(blocks, 4) + 1))
    return min((t for t in sizes if t[0] * t[1] * t[2] * vectors <= registers), key=cycles, default=(1, 1, 1))


def picked(wide: tuple[int, ...], narrow: tuple[int, ...]) -> tuple[int | str, ...]:
    return tuple(a if a == b else f"NW_TILE({a}, {b})" for a, b in zip(wide, narrow, strict=True))


def framed(work: Lowering, x: Value, pads: list[int]) -> tuple[Value, int, int]:
    """x (channels last) in a frame of zeros; its height and width."""
    top, left, bottom, right = pads
    _, c, h, w = x.shape
    if not any(pads):
        return x, h, w
    shape = (x.shape[0], c, h + top + bottom, w + left + right)
    y = work.new(x, shape=shape)
    work.step("nw_frame", [x.at, y.at], x.steps * x.shape[0], h, w, c * x.itemsize, top, left, bottom, right, writes=buffer(y))
    return y, shape[2], shape[3]


def convolve(
    work: Lowering, node: Node, x: Value, weight: NDArray[np.float32], shape: layout.Shape, residual: Value | None
) -> Value:
    """The convolution of `node`, of x, plus `residual`; `shape` of the result; all in any order."""
    a = node.attrs
    groups, (sh, sw), (dh, dw) = a.get("groups", 1), a.get("stride", (1, 1)), a.get("dilation", (1, 1))
    o, i, kh, kw = weight.shape
    if x.shape[0] != 1:
        return _convolve_batch(work, node, work.channels_last(x), weight, shape)
    fusion = work.fusions.get(node.name)
    relu, gate = (fusion.relu, fusion.gate) if fusion else (False, None)
    bias = work.floats("bias", np.zeros(o, np.float32))
    if gate is None and (kh, kw, sh, sw, groups) == (1, 1, 1, 1, 1) and not any(a.get("pads", ())):
        found = sparse_pointwise(work, x, weight[:, :, 0, 0], bias, shape, residual, relu)
        if found is not None:
            return found
    x, residual = work.channels_last(x), residual and work.channels_last(residual)
    x, _, width = framed(work, x, a.get("pads", [0] * 4))
    (_, c, h, w), (_, _, oh, ow) = x.shape, shape
    if (kh, kw, sh, sw) == (1, 1, 1, 1) and not any(a.get("pads", ())):
        oh, ow, width = 1, oh * ow, h * w
    y = work.new(x, shape=shape, order=layout.channels_last(4))
    end = (int(residual is not None), int(relu))
    if gate is not None:
        pixels = tile(oh, ow, 1, 24, 1), tile(oh, ow, 1, 12, 2)
        sizes = (width, oh, ow, i, o, kh, kw, sh, sw, dh, dw, *picked(pixels[0][:2], pixels[1][:2]), int(relu))
        _convolve_active(work, x, y, work.values[gate], pack.float_rows(weight, bias), sizes)
        return y
    vectors: list[Pointer]
    if groups == c == o and i == 1 and c > 1:
        wide, narrow = tile(oh, ow, 1, 14, 1)[:2], tile(oh, ow, 1, 10, 1)[:2]
        vectors = [work.const(pack.float_depthwise(weight), "w"), work.const(pack.channels(bias, 1), "b")]
        sizes = (width, oh, ow, c, kh, kw, sh, sw, dh, dw, *picked(wide, narrow))
        kernel = "nw_dwconv_f32"
    else:
        blocks = -(-(o // groups) // pack.BLOCK)
        t = picked(tile(oh, ow, blocks, 24, 1), tile(oh, ow, blocks, 12, 2))
        vectors = [work.const(pack.float_conv(weight, groups), "w"), work.const(pack.channels(bias, groups), "b")]
        sizes = (width, c, oh, ow, groups, i, o // groups, kh, kw, sh, sw, dh, dw, *t)
        kernel = "nw_conv_f32"
    work.step(kernel, [x.at, *vectors, residual.at if residual else None, y.at], *sizes, *end, writes=buffer(y))
    return y


def _convolve_active(
    work: Lowering, x: Value, y: Value, gate: Value, rows: NDArray[np.float32], sizes: tuple[int | str, ...]
) -> None:
    """The channels of y that are on, a block of them at a time, so that no more than its weights are copied at once."""
    o, k = rows.shape
    blocks = -(-o // pack.BLOCK)
    weight, places, packed = work.const(rows, "w"), work.scratch(blocks * pack.BLOCK * 4), work.scratch(k * pack.BLOCK * 4)
    work.step("nw_active_f32", [gate.at, y.at, places], y.elements // o, o, writes=buffer(y))
    for b in range(blocks):
        some = Buffer(pack.BLOCK * 4, "", places, b * pack.BLOCK * 4)
        work.step("nw_gather_rows_f32", [weight, some, packed], k, writes=packed)
        work.step("nw_conv_active_f32", [x.at, packed, some, y.at], *sizes, writes=buffer(y))


def _convolve_batch(work: Lowering, node: Node, x: Value, weight: NDArray[np.float32], shape: layout.Shape) -> Value:
    """Images below each other, in their frames, as one tall image; the rows that belong to two of them are left out."""
    a = node.attrs
    (batch, c, _, _), (_, o, oh, ow), stride = x.shape, shape, a.get("stride", (1, 1))[0]
    top, left, bottom, right = a.get("pads", [0] * 4)
    x, h, w = framed(work, x, [top, left, bottom + -(x.shape[2] + top + bottom) % stride, right])
    tall = replace(x, shape=(1, c, batch * h, w), order=layout.channels_last(4))
    window = a.get("dilation", (1, 1))[0] * (weight.shape[2] - 1) + 1
    rows = (batch * h - window) // stride + 1
    plain = replace(node, attrs={**a, "pads": [0] * 4})
    y = work.channels_last(convolve(work, plain, tall, weight, (1, o, rows, ow), None))
    order = layout.channels_last(4)
    return work.copied(y, [(batch, h // stride * ow * o), (oh * ow * o, 1)], (batch, o, oh, ow), order)


def conv_transpose2d(work: Lowering, node: Node) -> Value:
    """The convolution with turned weights of x with zeros between its elements (Dumoulin and Visin 2016, section 4)."""
    x, a, w = work.channels_last(work.floating(node.inputs[0])), node.attrs, work.floats("weight")
    (i, per, kh, kw), g, (sh, sw) = w.shape, a["groups"], a["stride"]
    if x.shape[0] != 1:
        raise work.refuse(f"of a batch of {x.shape[0]}")
    turned = w.reshape(g, i // g, per, kh, kw).transpose(0, 2, 1, 3, 4)[..., ::-1, ::-1].reshape(g * per, i // g, kh, kw)
    reach = [d * (k - 1) - p for d, k, p in zip(a["dilation"], (kh, kw), a["padding"], strict=True)]
    pads = [*reach, *(r + e for r, e in zip(reach, a["output_padding"], strict=True))]
    if min(pads) < 0:
        raise work.refuse("with padding that is wider than the kernel")
    _, c, height, width = x.shape
    y = work.new(x, shape=(1, c, (height - 1) * sh + 1, (width - 1) * sw + 1))
    work.step("nw_spread", [x.at, y.at], height, width, c * x.itemsize, sh, sw, writes=buffer(y))
    plain = replace(node, attrs={"stride": (1, 1), "pads": pads, "dilation": a["dilation"], "groups": g})
    return convolve(work, plain, y, np.ascontiguousarray(turned), node.spec.shape, None)


def conv2d(work: Lowering, node: Node) -> Value:
    return convolve(work, node, work.values[node.inputs[0]], work.floats("weight"), node.spec.shape, _residual(work, node))


def _residual(work: Lowering, node: Node) -> Value | None:
    """The tensor that is added to the result of `node`."""
    fusion = work.fusions.get(node.name)
    return None if fusion is None or fusion.residual is None else work.values[fusion.residual]


def matrix(work: Lowering, node: Node, x: Value, weight: NDArray[np.float32]) -> Value:
    """x [..., I] times weight [O, I] transposed, as a convolution of one pixel a row."""
    if x.columns is not None:
        weight = weight[:, x.columns]
    last = len(x.shape) - 1
    x = replace(work.last(x, (last,)), columns=None)
    image = (1, x.shape[-1], 1, x.elements // x.shape[-1])
    shape, order = (1, weight.shape[0], *image[2:]), layout.channels_last(4)
    if (added := _residual(work, node)) is not None:
        added = replace(work.ordered(added, x.order), shape=shape, order=order)
    y = work.channels_last(convolve(work, node, replace(x, shape=image, order=order), weight[:, :, None, None], shape, added))
    return replace(y, shape=(*x.shape[:-1], weight.shape[0]), order=x.order)


def linear(work: Lowering, node: Node) -> Value:
    return matrix(work, node, work.values[node.inputs[0]], work.floats("weight"))


def affine(work: Lowering, node: Node) -> Value:
    x = work.channels_last(work.values[node.inputs[0]])
    c = x.shape[1]
    y = work.new(x)
    vectors = [work.const(np.broadcast_to(work.floats(r).reshape(-1), (c,)), r[0]) for r in ("scale", "bias")]
    work.step("nw_affine_f32", [x.at, *vectors, y.at], x.elements // c, c, writes=buffer(y))
    return y


def activation(work: Lowering, node: Node) -> Value:
    x, a = work.values[node.inputs[0]], node.attrs
    name = "NW_GELU_TANH" if node.op == "gelu" and a.get("approximate") == "tanh" else ACTS[node.op]
    low, high = (0.0, 6.0) if node.op == "relu6" else (a.get("min", 0.0), a.get("max", 0.0))
    constants = {"leaky_relu": ("slope", 0.01), "elu": ("alpha", 1.0), "softplus": ("beta", 1.0), "pow": ("scalar", 1.0)}
    if node.op in constants:
        low, high = a.get(*constants[node.op]), a.get("threshold", 20.0)
    if any(s.writes.whole is whole(x.at) for s in work.steps) and _alone(work, x):
        work.step("nw_act_in_place_f32", [x.at], x.total, name, float(low), float(high), writes=buffer(x))
        return x
    y = work.new(x)
    work.step("nw_act_f32", [x.at, y.at], x.total, name, float(low), float(high), writes=buffer(y))
    return y


def _alone(work: Lowering, x: Value) -> bool:
    """Nothing but the present node is still to read the buffer of x, which may then be overwritten."""
    names = [name for name, v in work.values.items() if whole(v.at) is whole(x.at)]
    readers = {r.name for name in names for r in work.readers[name] if r.name not in work.values}
    return readers <= {work.node.name} and not any(name in work.graph.outputs for name in names)


def binary(work: Lowering, node: Node) -> Value:
    op, shape = f"NW_{node.op.upper()}", node.spec.shape
    reverse = int(bool(node.attrs.get("reverse")))
    x = work.values[node.inputs[0]]
    if len(node.inputs) == 2:
        z = work.values[node.inputs[1]]
        if math.prod(shape) != x.elements or isinstance(x.at, Const):
            x, z, reverse = z, x, 1
    else:
        other = work.floats("other") if "other" in node.weights else np.array(node.attrs["scalar"], np.float32)
        z = Value(work.const(other, "k"), "f32", other.shape, layout.natural(other.ndim))
    if x.type != "f32" or z.type != "f32":
        raise work.refuse(f"of {x.type} and {z.type} (dequantize first)")
    if math.prod(shape) != x.elements:
        x = work.expanded(x, shape)
    x = work.with_rank(x, len(shape))
    missing = len(x.shape) - len(z.shape)
    z = replace(z, shape=(1,) * missing + z.shape, order=(*range(missing), *(d + missing for d in z.order)))
    dims = tuple(d for d, n in enumerate(z.shape) if n > 1)
    sizes = layout.split(x.shape, x.order, dims)
    if node.attrs.get("in_place") and sizes == (1, x.elements, 1):
        work.step("nw_add_in_place_f32", [x.at, work.ordered(z, x.order).at], x.elements, writes=buffer(x))
        return x
    if sizes is None and isinstance(z.at, Const):  # stored in full: there is no kernel for gaps
        z, sizes = work.expanded(z, x.shape), (1, x.elements, 1)
    elif sizes is None:
        x = work.last(x, dims)
        sizes = layout.split(x.shape, x.order, dims)
    assert sizes is not None
    if isinstance(z.at, Const):
        data = z.at.data.reshape([z.shape[d] for d in z.order]).transpose(np.argsort(z.order))
        z = replace(z, at=work.const(data.transpose(x.order), "k"), order=x.order)
    z = work.ordered(z, x.order)
    y = work.new(x)
    work.step("nw_binary_f32", [x.at, z.at, y.at], *sizes, op, reverse, writes=buffer(y))
    return y


def layer_norm(work: Lowering, node: Node) -> Value:
    dims = tuple(node.attrs["shape"])
    x = work.values[node.inputs[0]]
    x = work.last(x, tuple(range(len(x.shape) - len(dims), len(x.shape))))
    n = math.prod(dims)
    weight, bias = work.floats("weight", np.ones(n, np.float32)), work.floats("bias", np.zeros(n, np.float32))
    y = work.new(x)
    vectors = [work.const(v.reshape(-1), r) for v, r in ((weight, "w"), (bias, "b"))]
    work.step("nw_layer_norm_f32", [x.at, *vectors, y.at], x.elements // n, n, float(node.attrs["eps"]), writes=buffer(y))
    return y


def softmax(work: Lowering, node: Node) -> Value:
    x = work.values[node.inputs[0]]
    dim = node.attrs["dim"] % len(x.shape)
    x = work.last(x, (dim,))
    y = work.new(x)
    work.step("nw_softmax_f32", [x.at, y.at], x.elements // x.shape[dim], x.shape[dim], writes=buffer(y))
    return y


def reduced(x: Value, dims: tuple[int, ...], keep: bool) -> tuple[layout.Shape, layout.Order]:
    """Shape and order without `dims`, or with them of length one."""
    if keep:
        return tuple(1 if d in dims else n for d, n in enumerate(x.shape)), x.order
    kept = [d for d in range(len(x.shape)) if d not in dims]
    return tuple(x.shape[d] for d in kept), tuple(kept.index(d) for d in x.order if d in kept)


def reduction(work: Lowering, node: Node) -> Value:
    x = work.floating(node.inputs[0])
    dims = tuple(d % len(x.shape) for d in node.attrs["dims"])
    x, sizes = work.together(x, dims)
    shape, order = reduced(x, dims, node.attrs["keepdim"])
    y = work.new(x, shape=shape, order=order)
    work.step("nw_reduce_f32", [x.at, y.at], *sizes, REDUCTIONS[node.op], writes=buffer(y))
    return y


def _pool(work: Lowering, node: Node) -> tuple[Value, Value, tuple[int, ...]]:
    x, (oh, ow) = work.images(work.floating(node.inputs[0])), node.spec.shape[2:]
    _, c, h, w = x.shape
    return x, work.new(x, shape=(1, c, oh, ow)), (h, w, c, oh, ow)


def avg_pool2d(work: Lowering, node: Node) -> Value:
    (x, y, sizes), a = _pool(work, node), node.attrs
    window = (*a["kernel"], *a["stride"], *a["padding"], int(a.get("count_include_pad", True)))
    work.step("nw_avg_pool_f32", [x.at, y.at], *sizes, *window, writes=buffer(y))
    return work.batched(y, node)


def adaptive_avg_pool2d(work: Lowering, node: Node) -> Value:
    x, y, sizes = _pool(work, node)
    work.step("nw_adaptive_pool_f32", [x.at, y.at], *sizes, writes=buffer(y))
    return work.batched(y, node)


def group_norm(work: Lowering, node: Node) -> Value:
    x = work.channels_last(work.floating(node.inputs[0]))
    n, c = x.shape[:2]
    weight, bias = work.floats("weight", np.ones(c, np.float32)), work.floats("bias", np.zeros(c, np.float32))
    y, scratch = work.new(x), work.scratch(4 * c)
    vectors = [work.const(v, r) for v, r in ((weight, "w"), (bias, "b"))]
    sizes = (n, x.elements // (n * c), c, node.attrs["groups"], float(node.attrs["eps"]))
    work.step("nw_group_norm_f32", [x.at, *vectors, y.at, scratch], *sizes, writes=buffer(y))
    return y


def prelu(work: Lowering, node: Node) -> Value:
    x = work.channels_last(work.floating(node.inputs[0]))
    c = x.shape[1] if len(x.shape) > 1 else 1
    y, slope = work.new(x), work.const(np.broadcast_to(work.floats("weight").reshape(-1), (c,)), "w")
    work.step("nw_prelu_f32", [x.at, slope, y.at], x.elements // c, c, writes=buffer(y))
    return y


def where(work: Lowering, node: Node) -> Value:
    shape = node.spec.shape
    values = [work.expanded(work.values[name], shape) for name in node.inputs]
    order = next((v.order for v in values if not isinstance(v.at, Const)), layout.natural(len(shape)))
    values = [work.ordered(v, order) for v in values]
    y = work.new(values[0])
    work.step("nw_where_f32", [*(v.at for v in values), y.at], y.elements, writes=buffer(y))
    return y


RULES: dict[str, Rule] = {
    "conv2d": conv2d, "conv_transpose2d": conv_transpose2d, "linear": linear, "affine": affine, "layer_norm": layer_norm,
    "group_norm": group_norm, "softmax": softmax, "avg_pool2d": avg_pool2d, "adaptive_avg_pool2d": adaptive_avg_pool2d,
    "prelu": prelu, "where": where,
    **dict.fromkeys(ACTS, activation), **dict.fromkeys(BINARY, binary), **dict.fromkeys(REDUCTIONS, reduction),
}  # fmt: skip
