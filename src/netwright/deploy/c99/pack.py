"""Weights in the order the kernels read them, at their true width."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
BLOCK = 16  # output channels side by side


def _blocks(w: Array, groups: int) -> Array:
    """[O, I, kh, kw] -> [G, O/16, 16, kh, kw, I], zeros beyond O."""
    o, i, kh, kw = w.shape
    per = o // groups
    blocks = -(-per // BLOCK)
    wide = np.zeros((groups, blocks * BLOCK, i, kh, kw), w.dtype)
    wide[:, :per] = w.reshape(groups, per, i, kh, kw)
    return wide.reshape(groups, blocks, BLOCK, i, kh, kw).transpose(0, 1, 2, 4, 5, 3)


def float_conv(w: Array, groups: int) -> Array:
    """[G][O/16][kh][kw][I][16]"""
    return np.ascontiguousarray(_blocks(w, groups).transpose(0, 1, 3, 4, 5, 2))


def float_rows(w: Array, bias: Array) -> Array:
    """[O][kh*kw*I + 1]: each output channel's weights in a row, its bias at the end."""
    return np.concatenate([w.transpose(0, 2, 3, 1).reshape(len(w), -1), bias[:, None]], 1)


def float_depthwise(w: Array) -> Array:
    """[C, 1, kh, kw] -> [C/16][kh][kw][16]"""
    return np.ascontiguousarray(_blocks(w, 1)[0, ..., 0].transpose(0, 2, 3, 1))


def channels(v: Array, groups: int, fill: int = 0) -> Array:
    """A per-channel vector as [G][O/16][16]."""
    per = v.size // groups
    wide = np.full((groups, -(-per // BLOCK) * BLOCK), fill, v.dtype)
    wide[:, :per] = v.reshape(groups, per)
    return wide.reshape(-1)


def dot4(w: Array, groups: int) -> Array:
    """[G][O/16][kh][kw][I/4][16][4], zeros beyond I."""
    b = _blocks(w, groups)
    i = b.shape[-1]
    wide = np.zeros((*b.shape[:-1], -(-i // 4) * 4), b.dtype)
    wide[..., :i] = b
    g, o, _, kh, kw, full = wide.shape
    return np.ascontiguousarray(wide.reshape(g, o, BLOCK, kh, kw, full // 4, 4).transpose(0, 1, 3, 4, 5, 2, 6))


def ternary(w: Array, groups: int) -> Array:
    """[G][O/16][kh][kw][I/16][16][4] bytes: w + 1 of channels 4k + r of sixteen in bits 2k of byte r; I fills sixteens."""
    codes = dot4(w + 1, groups)
    g, o, kh, kw, i4, _, _ = codes.shape
    four = codes.reshape(g, o, kh, kw, i4 // 4, 4, BLOCK, 4).astype(np.uint8)
    shifts = (2 * np.arange(4, dtype=np.uint8)).reshape(4, 1, 1)
    return np.bitwise_or.reduce(four << shifts, axis=5).astype(np.uint8).view(np.int8)


def is_tight(w: Array, groups: int) -> bool:
    """`dot4` adds no zeros."""
    return w.shape[1] % 4 == 0 and (w.shape[0] // groups) % BLOCK == 0


def rows(w: Array, groups: int) -> Array:
    """[G][kh][kw][I][O]: one input channel's weights side by side."""
    o, i, kh, kw = w.shape
    return np.ascontiguousarray(w.reshape(groups, o // groups, i, kh, kw).transpose(0, 3, 4, 2, 1))


def depthwise(w: Array) -> Array:
    """[C, 1, kh, kw] -> [kh][kw][C]"""
    return np.ascontiguousarray(w[:, 0].transpose(1, 2, 0))


def bits(flags: Array) -> NDArray[np.uint32]:
    """Flags to words of 32 bits, the first flag in the lowest bit."""
    flat = np.packbits(np.asarray(flags, bool).reshape(-1), bitorder="little")
    wide = np.zeros(-(-flat.size // 4) * 4, np.uint8)
    wide[: flat.size] = flat
    return wide.view("<u4").astype(np.uint32)


def words(w: Array, groups: int) -> tuple[NDArray[np.uint32], bool]:
    """Signs of [O, I, kh, kw] for conv_b1.h: [G][O/16][kh][kw][words][16] (set: -1), and whether nothing was left out.

    Where channels do not fill words or blocks, the bits stand one after another in the same order without gaps.
    """
    o, i, kh, kw = w.shape
    per = o // groups
    negative = np.less(w, 0).reshape(groups, per, i, kh, kw).transpose(0, 3, 4, 2, 1)  # g, kh, kw, i, o
    whole = i % 32 == 0 and per % BLOCK == 0
    parts: list[Array] = []
    for g in range(groups):
        for b in range(0, per, BLOCK):
            block = negative[g, ..., b : b + BLOCK].reshape(kh * kw, i, -1)
            for tap in block:
                parts.extend(tap[j : j + 32].T.reshape(-1) for j in range(0, i, 32))
    return bits(np.concatenate(parts)), whole
