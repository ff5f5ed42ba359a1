"""Codes: whole numbers that stand for real ones, and the fixed-point factors between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

HEADROOM = 2**30  # largest bias of an accumulator: leaves as much room again for the sums


@dataclass(frozen=True)
class Codes:
    """Weights of one node: ``W[o] = codes[o] * scale[o]``.

    Attributes:
        codes: int8 [O, ...]; -127..127 for 8 bits, {-1, 0, 1} for 2, {-1, +1} for 1.
        scale: float64 [O], real value of one code step; may be negative.
        bits: stored bits a code, 8, 2 or 1.
        signs: the node reads the signs of its input codes (a binary convolution).
    """

    codes: np.ndarray
    scale: np.ndarray
    bits: int
    signs: bool = False


@dataclass(frozen=True)
class Range:
    """A code tensor: ``value = code * scale`` with codes lo..hi (0..255 or -127..127), zero point 0."""

    scale: float
    signed: bool

    @property
    def lo(self) -> int:
        return -127 if self.signed else 0

    @property
    def hi(self) -> int:
        return 127 if self.signed else 255

    @property
    def largest(self) -> int:
        return max(-self.lo, self.hi)


def quantise_weights(w: np.ndarray) -> Codes:
    """Symmetric 8-bit codes, one scale an output channel: ``scale[o] = max|W[o]| / 127``."""
    top = np.abs(w.astype(np.float64)).reshape(len(w), -1).max(1)
    scale = np.where(top > 0, top / 127, 1.0)
    codes = np.rint(w / scale.reshape(-1, *[1] * (w.ndim - 1))).astype(np.int8)
    return Codes(codes, scale, 8)


def fixed_point(m: np.ndarray | np.float64, bits: int = 15) -> tuple[np.ndarray, np.ndarray]:
    """``m ~ mult * 2**-shift`` elementwise, |mult| in [2**(bits-1), 2**bits), 1 <= shift <= 60; int32 both.

    15 bits and a sign are stored in two bytes and are exact to 2**-15, a hundredth of a code at most.
    """
    m = np.asarray(m, np.float64)
    shift = np.clip(bits - np.frexp(m)[1], 1, 60).astype(np.int32)
    shift = np.where(m == 0, 1, shift).astype(np.int32)
    mult = np.clip(np.rint(np.ldexp(m, shift)), 1 - 2**bits, 2**bits - 1).astype(np.int32)
    return mult, shift


def shared_shift(factors: np.ndarray, constants: np.ndarray, largest: int) -> int:
    """Largest shift (1..30) for which ``sum(largest*|f|) + |c|``, times 2**shift, and the rounding term fit in int32.

    `factors` [..., inputs], `constants` [...]; a kernel may then compute in 32 bits.
    """
    bound = float((np.abs(factors).sum(-1) * largest + np.abs(constants)).max()) + 0.5
    return int(np.clip(np.floor(np.log2((2**31 - 1 - 4 * largest) / bound)), 1, 30))


def accumulator(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Write ``a*acc + b`` as ``unit * (acc + bias)`` with a whole bias.

    `a` and `b` are float64 [O]. Where |a| is so small that the bias would leave 32 bits (a channel that batch
    normalisation has switched off), the unit grows until the bias fits, and the channel is reported as `dead`: its
    weights must be cleared where their codes allow it.

    Returns: unit float64 [O], bias int32 [O], dead bool [O].
    """
    sign = np.where(a < 0, -1.0, 1.0)
    least = np.abs(b) / HEADROOM
    dead = np.abs(a) < least
    unit = sign * np.maximum(np.abs(a), least)
    bias = np.where(unit == 0, 0.0, b / np.where(unit == 0, 1.0, unit))
    return unit, np.rint(bias).astype(np.int32), dead | (a == 0)
