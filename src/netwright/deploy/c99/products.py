"""Rules for products of computed tensors: matrix products and attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from netwright.core.graph import Node
from netwright.deploy.c99 import layout
from netwright.deploy.c99.floats import matrix, picked, tile
from netwright.deploy.c99.lower import Literal, Lowering, Pointer, Rule, Value, buffer

ROWS = 32  # of attention scores at a time


def _rows(work: Lowering, x: Value) -> Value:
    """x with the elements of a row side by side."""
    x = work.with_rank(x, max(2, len(x.shape)))
    return x if layout.strides(x.shape, x.order)[-1] == 1 or x.shape[-1] == 1 else work.last(x, (len(x.shape) - 1,))


def _strides(x: Value, rank: int) -> list[int]:
    """Distances along `rank` dimensions, zero where x is repeated."""
    missing = rank - len(x.shape)
    steps = layout.strides(x.shape, x.order)
    return [0] * missing + [s if n > 1 else 0 for s, n in zip(steps, x.shape, strict=True)]


def _outer(work: Lowering, shape: layout.Shape, tensors: Sequence[Value]) -> list[tuple[int, ...]]:
    """Three loops (size, strides of `tensors`) over all dimensions but the last two."""
    steps = [_strides(x, len(shape)) for x in tensors]
    loops = layout.aligned([(shape[d], *(s[d] for s in steps)) for d in range(len(shape) - 2)])
    if len(loops) > 3:
        raise work.refuse(f"over {len(loops)} interleaved dimensions")
    return [(1, *[0] * len(tensors))] * (3 - len(loops)) + loops


def _columns(loops: list[tuple[int, ...]]) -> list[Literal]:
    """All sizes, then the strides of the first tensor, of the second, ..."""
    return [loop[i] for i in range(len(loops[0])) for loop in loops]


def _tiles(rows: int, columns: int) -> tuple[int | str, ...]:
    """Rows and blocks of 16 columns of a register tile."""
    blocks = -(-columns // 16)
    return picked(tile(1, rows, blocks, 24, 1), tile(1, rows, blocks, 12, 2))[1:]


def _result(work: Lowering, node: Node, like: Value, shape: layout.Shape) -> Value:
    """Laid out for the permutation that follows, where there is one."""
    rank, order = len(shape), layout.natural(len(shape))
    readers = work.readers[node.name]
    if len(readers) == 1 and readers[0].op == "permute" and readers[0].attrs["dims"][-1] == rank - 1:
        order = tuple(readers[0].attrs["dims"])
    return work.new(like, shape=shape, order=order)


def matmul(work: Lowering, node: Node) -> Value:
    x = work.floating(node.inputs[0])
    reverse = bool(node.attrs.get("reverse"))
    if len(node.inputs) == 1:
        other = work.floats("other")
        if other.ndim == 2 and not reverse:
            return matrix(work, node, x, np.ascontiguousarray(other.T))
        if other.ndim == 2 and len(x.shape) > 1:
            turn = (*range(len(x.shape) - 2), len(x.shape) - 1, len(x.shape) - 2)
            shape, order = layout.permuted(x.shape, x.order, turn)
            y = matrix(work, node, replace(x, shape=shape, order=order), other)
            shape, order = layout.permuted(y.shape, y.order, turn)
            return replace(y, shape=shape, order=order)
        z = Value(work.const(other, "k"), "f32", other.shape, layout.natural(other.ndim))
        x, z = (z, x) if reverse else (x, z)
    else:
        z = work.floating(node.inputs[1])
    if min(len(x.shape), len(z.shape)) < 2:
        raise work.refuse("of a vector (give it a second dimension)")
    x = _rows(work, x)
    m, k, n = x.shape[-2], x.shape[-1], z.shape[-1]
    shape = (*np.broadcast_shapes(x.shape[:-2], z.shape[:-2]), m, n)
    y = _result(work, node, Value(x.at, "f32", x.shape, x.order), shape)
    loops = _outer(work, shape, (x, z, y))
    xs, zs, ys = (layout.strides(v.shape, v.order) for v in (x, z, y))
    scratch = work.scratch(-(-n // 16) * 16 * k * 4)
    literals = [*_columns(loops)[:3], m, k, n, *_columns(loops)[3:], xs[-2], zs[-2], zs[-1], ys[-2], *_tiles(m, n)]
    work.step("nw_matmul_f32", [x.at, z.at, y.at, scratch], *literals, writes=buffer(y))
    return y


def _mask(work: Lowering, node: Node, rows: int, columns: int) -> Value | None:
    """What is added to the scores: 0 and -infinity for a mask of truth values."""
    mask: Value | None = None
    if "mask" in node.weights:
        found = work.weight("mask")
        assert found is not None
        data = np.where(found, np.float32(0), np.float32(-np.inf)) if found.dtype == bool else found.astype(np.float32)
        mask = Value(work.const(data, "mask"), "f32", data.shape, layout.natural(data.ndim))
    elif len(node.inputs) > 3:
        mask = work.floating(node.inputs[3])
        if work.graph[node.inputs[3]].spec.bits == 1:
            raise work.refuse("with a computed mask of truth values (add 0 or -infinity instead)")
    if node.attrs.get("causal"):
        data = np.triu(np.full((rows, columns), -np.inf, np.float32), 1)
        mask = Value(work.const(data, "mask"), "f32", data.shape, (0, 1))
    if mask is None:
        return None
    mask = work.with_rank(mask, max(2, len(mask.shape)))
    if mask.shape[-1] != columns:
        mask = work.expanded(mask, (*mask.shape[:-1], columns))
    return _rows(work, mask)


def sdpa(work: Lowering, node: Node) -> Value:
    """softmax(scale * q k' + mask) v over the last two dimensions (Vaswani et al. 2017, equation 1)"""
    q, k, v = (_rows(work, work.floating(i)) for i in node.inputs[:3])
    m, n, d, dv = q.shape[-2], k.shape[-2], q.shape[-1], v.shape[-1]
    shape = (*np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2]), m, dv)
    mask = _mask(work, node, m, n)
    y = _result(work, node, Value(q.at, "f32", q.shape, q.order), shape)
    rows = min(m, ROWS)
    tensors = (q, k, v, q if mask is None else mask, y)
    loops = _outer(work, shape, tensors)
    inner = [_strides(x, len(shape))[-2] for x in tensors]
    scale = node.attrs.get("scale")
    scratch = work.scratch(4 * (-(-n // 16) * 16 * d + -(-dv // 16) * 16 * n + rows * n))
    pointers: list[Pointer] = [q.at, k.at, v.at, None if mask is None else mask.at, y.at, scratch]
    columns = _columns(loops)
    literals = [int(mask is not None), *columns[:3], m, n, d, dv, rows, *columns[3:], *inner,
                1 / math.sqrt(d) if scale is None else float(scale), *_tiles(rows, n), *_tiles(rows, dv)]  # fmt: skip
    work.step("nw_sdpa_f32", pointers, *literals, writes=buffer(y))
    return y


RULES: dict[str, Rule] = {"matmul": matmul, "sdpa": sdpa}
