"""Rules for operations that move or select elements, of any type."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np

from netwright.core.graph import Node
from netwright.deploy.c99 import layout
from netwright.deploy.c99.lower import Buffer, Lowering, Rule, Value, buffer

LINEAR = ("linear", "qlinear", "blinear")


def graph_input(work: Lowering, node: Node) -> Value:
    shape = node.spec.shape
    sequence = len(shape) == 3 and shape[1] == 1  # steps, or layers of states, stand before the batch
    if not (shape[:1] == (1,) or sequence) or node.spec.kind != "float":
        raise work.refuse(f"of shape {list(shape)} and type {node.spec.kind} (trace with one float example)")
    names = work.graph.inputs
    name = "in" if len(names) == 1 else f"in{names.index(node.name)}"
    return Value(Buffer(4 * node.spec.elements, name), "f32", shape, layout.natural(len(shape)))


def constant(work: Lowering, node: Node) -> Value:
    data = work.floats("value")
    return Value(work.const(data, "value"), "f32", data.shape, layout.natural(data.ndim))


def reshape(work: Lowering, node: Node) -> Value:
    x, shape = work.values[node.inputs[0]], node.spec.shape
    if x.steps > 1 or math.prod(shape) != x.elements:  # shapes of spikes count the time steps
        shape = (1, *shape[1:])
    order = layout.reshaped(x.shape, x.order, shape)
    if order is not None:
        return replace(x, shape=shape, order=order)
    flat = len(shape) == 2 and shape[0] == 1 and all(reader.op in LINEAR for reader in work.readers[node.name])
    if flat and node.name not in work.graph.outputs:
        columns = np.arange(x.elements).reshape(x.shape).transpose(x.order).reshape(-1)
        return replace(x, shape=shape, order=(0, 1), columns=columns)
    x = work.ordered(x, layout.natural(len(x.shape)))
    return replace(x, shape=shape, order=layout.natural(len(shape)))


def permute(work: Lowering, node: Node) -> Value:
    x = work.values[node.inputs[0]]
    shape, order = layout.permuted(x.shape, x.order, tuple(node.attrs["dims"]))
    return replace(x, shape=shape, order=order)


def slice_(work: Lowering, node: Node) -> Value:
    x, a = work.values[node.inputs[0]], node.attrs
    dim = a["dim"] % len(x.shape)
    start, stop, step = slice(a["start"], a["end"], a.get("step", 1)).indices(x.shape[dim])
    count = len(range(start, stop, step))
    x, (before, of, after) = work.together(x, (dim,))
    y = work.new(x, shape=tuple(count if d == dim else n for d, n in enumerate(x.shape)))
    if before == 1 and step == 1 and isinstance(x.at, Buffer):
        return replace(y, at=Buffer(buffer(y).size, "", x.at, start * after * x.itemsize))  # it lies in one piece already
    work.step("nw_slice", [x.at, y.at], before, of, count, start, step, after * x.itemsize, writes=buffer(y))
    return y


def take(work: Lowering, node: Node) -> Value:
    x, index = work.values[node.inputs[0]], work.ints("index")
    assert index is not None
    dim = node.attrs["dim"] % len(x.shape)
    at = x.order.index(dim)
    before, after = (math.prod(x.shape[d] for d in dims) for dims in (x.order[:at], x.order[at + 1 :]))
    y = work.new(x, shape=tuple(index.size if d == dim else n for d, n in enumerate(x.shape)))
    rows = work.const(index.astype(np.int32), "index")
    work.step("nw_take", [x.at, rows, y.at], before * x.steps, x.shape[dim], index.size, after * x.itemsize, writes=buffer(y))
    return y


def topk(work: Lowering, node: Node) -> Value:
    x, a = work.floating(node.inputs[0]), node.attrs
    x, (before, of, after) = work.together(x, (a["dim"],))
    y = work.new(x, shape=node.spec.shape)
    scratch = work.scratch(2 * of * 4)
    work.step("nw_topk", [x.at, y.at, scratch], before, of, a["k"], after, int(a["largest"]), writes=buffer(y))
    return y


def gather(work: Lowering, node: Node) -> Value:
    """Whole rows are fetched where all their elements stand at one place."""
    source, name = work.graph[node.inputs[1]], node.inputs[1]
    dim, shape = node.attrs["dim"], node.spec.shape
    x, index = work.values[node.inputs[0]], work.floating(name)
    if any(a != b for d, (a, b) in enumerate(zip(x.shape, shape, strict=True)) if d != dim):
        raise work.refuse("of some of the rows (its places must have the shape of its input but for one dimension)")
    x = work.ordered(x, layout.natural(len(x.shape)))
    before, of, after = math.prod(shape[:dim]), x.shape[dim], math.prod(shape[dim + 1 :])
    if source.op == "expand" and work.values[source.inputs[0]].elements == before * shape[dim]:
        index, each = work.floating(source.inputs[0]), 0
    else:
        each = 1
    index = work.ordered(index, layout.natural(len(index.shape)))
    y = work.new(x, shape=shape)
    sizes = (before * x.steps, of, shape[dim], after, x.itemsize, each)
    work.step("nw_gather", [x.at, index.at, y.at], *sizes, writes=buffer(y))
    return y


def expand(work: Lowering, node: Node) -> Value:
    return work.expanded(work.values[node.inputs[0]], node.spec.shape)


def _only_for(work: Lowering, at: Buffer, node: Node) -> bool:
    """Nobody but `node` reads what lies at `at`, which is a place of its own."""
    names = {name for name, value in work.values.items() if value.at is at}
    readers = {reader.name for name in names for reader in work.readers[name]}
    return not at.external and not at.inside and readers <= names | {node.name} and not names & set(work.graph.outputs)


def _side_by_side(xs: Sequence[Value]) -> Buffer | None:
    """The buffer that the tensors fill, one after another, if there is one."""
    parts = [x.at for x in xs if isinstance(x.at, Buffer) and x.at.inside]
    ends = [0, *accumulate(p.size for p in parts)]
    within = parts[0].inside if parts else None
    if within is None or len(parts) < len(xs) or ends[-1] != within.size or any(p.inside is not within for p in parts):
        return None
    return within if [p.offset for p in parts] == ends[:-1] else None


def cat(work: Lowering, node: Node) -> Value:
    xs, dim = [work.values[name] for name in node.inputs], node.attrs["dim"] % len(node.spec.shape)
    first = xs[0]
    if any((x.type, x.steps) != (first.type, first.steps) for x in xs):
        raise work.refuse("of different types or time steps")
    order = layout.channels_last(4) if len(first.shape) == 4 and first.at is not None and dim == 1 else first.order
    shape = tuple(sum(x.shape[d] for x in xs) if d == dim else n for d, n in enumerate(first.shape))
    y = work.new(first, shape=shape, order=order, spikes=all(x.spikes for x in xs))
    filled = _side_by_side(xs) if all(x.order == order for x in xs) else None
    if filled is not None:
        return replace(y, at=filled)
    position = order.index(dim)
    before = first.steps * math.prod(shape[d] for d in order[:position])
    after = y.itemsize * math.prod(shape[d] for d in order[position + 1 :])
    at = 0
    for x in xs:
        x = work.ordered(x, order)
        if before == 1 and isinstance(x.at, Buffer) and x.at.size == x.shape[dim] * after and _only_for(work, x.at, node):
            x.at.inside, x.at.offset = buffer(y), at * after  # made where it belongs
            at += x.shape[dim]
            continue
        work.step("nw_place", [x.at, y.at], before, x.shape[dim], shape[dim], at, after, writes=buffer(y))
        at += x.shape[dim]
    return y


def pad(work: Lowering, node: Node) -> Value:
    x, a = work.values[node.inputs[0]], node.attrs
    rank, fill = len(x.shape), {"f32": np.float32, "i32": np.int32, "u8": np.uint8, "i8": np.int8}[x.type](a.get("value", 0.0))
    for i in range(len(a["pad"]) // 2):
        dim, (low, high) = rank - 1 - i, a["pad"][2 * i : 2 * i + 2]
        if low == high == 0:
            continue
        if low < 0 or high < 0:
            raise work.refuse("with negative padding")
        if rank == 4:
            x = work.channels_last(x)
        position = x.order.index(dim)
        before = x.steps * math.prod(x.shape[d] for d in x.order[:position])
        after = math.prod(x.shape[d] for d in x.order[position + 1 :])
        wide = x.shape[dim] + low + high
        y = work.new(x, shape=tuple(wide if d == dim else n for d, n in enumerate(x.shape)))
        value = work.const(np.array([fill]), "fill")
        work.step("nw_fill", [value, y.at], y.total, y.itemsize, writes=buffer(y))
        work.step("nw_place", [x.at, y.at], before, x.shape[dim], wide, low, after * x.itemsize, writes=buffer(y))
        x = y
    return x


def max_pool2d(work: Lowering, node: Node) -> Value:
    x, a = work.images(work.values[node.inputs[0]]), node.attrs
    (_, c, h, w), (oh, ow) = x.shape, node.spec.shape[2:]
    y = work.new(x, shape=(1, c, oh, ow), bound=x.bound)
    sizes = (x.steps, h, w, c, oh, ow, *a["kernel"], *a["stride"], *a["padding"])
    work.step(f"nw_max_pool_{x.type}", [x.at, y.at], *sizes, writes=buffer(y))
    return work.batched(y, node)


def interpolate(work: Lowering, node: Node) -> Value:
    x, a = work.images(work.values[node.inputs[0]]), node.attrs
    (_, c, h, w), (oh, ow) = x.shape, node.spec.shape[2:]
    if x.steps > 1 or (a["mode"], x.type) == ("bilinear", "i32"):
        raise work.refuse("of spikes or sums")
    y = work.new(x, shape=(1, c, oh, ow))
    if a["mode"] == "nearest":
        work.step("nw_nearest", [x.at, y.at], h, w, c * x.itemsize, oh, ow, writes=buffer(y))
    elif a["mode"] == "bilinear" and x.type == "f32":
        work.step("nw_bilinear_f32", [x.at, y.at], h, w, c, oh, ow, int(a["align_corners"]), writes=buffer(y))
    else:
        raise work.refuse(f"of mode {a['mode']} on {x.type}")
    return work.batched(y, node)


RULES: dict[str, Rule] = {
    "input": graph_input, "constant": constant, "reshape": reshape, "permute": permute, "slice": slice_, "cat": cat, "pad": pad,
    "take": take, "topk": topk, "gather": gather, "expand": expand, "max_pool2d": max_pool2d, "interpolate": interpolate,
}  # fmt: skip
