"""Pieces: a function of one value as a sum of rectifiers, clipped at 1 or open.

With knots t_0 < ... < t_K and an anchor t_a, where f is nought if it is anywhere on the range,

    f(z) ~ f(t_a) + sum_{k >= a} d_k clip((z - t_k) / w_k, 0, 1) - sum_{k < a} d_k clip((t_{k+1} - z) / w_k, 0, 1),
    w_k = t_{k+1} - t_k,        d_k = f(t_{k+1}) - f(t_k).

A function that is piecewise linear itself is found out by its second differences and is exact: as clipped pieces between its
bends where both ends are flat, else as rectifiers that do not clip, one a bend and side. Knots of the others stand where f bends
sharply, and for the rest at equal quantiles of (p f''^2)^(1/5), p the density of z on the calibration data mixed with a uniform
one, which gives the least mean squared error in the limit of many knots (de Boor 1973); then each is moved while that lowers the
error. Values at the knots are those of the least mean squared error. Beyond the calibration range, widened by a tenth, f is
constant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netwright.core.errors import NetwrightError

Vector = NDArray[np.float64]
Function = Callable[[Tensor], Tensor]
GRID = 4097
MARGIN = 0.1  # of the calibration range, on both sides
TINY = 1e-9
KINK = 0.03  # turn of the slope from one point of the grid to the next, of the steepest slope, that asks for a knot


@dataclass(frozen=True)
class Pieces:
    """offset + sum_k gain[k] r(scale[k] z + shift[k]) with r clip(., 0, 1), or relu where `open`."""

    scale: Vector
    shift: Vector
    gain: Vector
    offset: float = 0.0
    open: bool = False
    exact: bool = False

    def carried(self) -> Pieces:
        """The offset as a rectifier that is always 1: beyond the border of an image it is nought, as the value is."""
        zero, one = np.zeros(1), np.ones(1)
        scale, shift, gain = (np.concatenate(v) for v in ((self.scale, zero), (self.shift, one), (self.gain, one * self.offset)))
        return replace(self, scale=scale, shift=shift, gain=gain, offset=0.0)

    def __call__(self, z: Vector) -> Vector:
        r = np.maximum(np.multiply.outer(z, self.scale) + self.shift, 0)
        return self.offset + (r if self.open else np.minimum(r, 1)) @ self.gain


def _offset(value: float) -> float:
    return float(value) if abs(value) > TINY else 0.0


def _ramps(knots: Vector, values: Vector, anchor: int, exact: bool = False) -> Pieces:
    widths, rises, right = np.diff(knots), np.diff(values), np.arange(len(knots) - 1) >= anchor
    keep = np.abs(rises) > TINY * max(np.abs(rises).max(), TINY)
    scale = np.where(right, 1, -1) / widths
    shift = np.where(right, -knots[:-1], knots[1:]) / widths
    gain = np.where(right, rises, -rises)
    return Pieces(scale[keep], shift[keep], gain[keep], _offset(values[anchor]), exact=exact)


def _hinges(kinks: Vector, slopes: Vector, values: Vector) -> Pieces:
    """Rectifiers that do not clip, to the right and to the left of the kink whose value is nearest to nought."""
    a = int(np.abs(values).argmin())
    bends = np.diff(slopes)
    right = [(1.0, -kinks[a], slopes[a + 1]), *((1.0, -t, c) for t, c in zip(kinks[a + 1 :], bends[a + 1 :], strict=True))]
    left = [(-1.0, kinks[a], -slopes[a]), *((-1.0, t, c) for t, c in zip(kinks[:a], bends[:a], strict=True))]
    scale, shift, gain = np.array([h for h in (*right, *left) if abs(h[2]) > TINY]).T
    return Pieces(scale, shift, gain, _offset(values[a]), open=True, exact=True)


def _anchored(f: Function, kinks: Vector, values: Vector) -> tuple[Vector, Vector]:
    """With a knot more at nought where f is nought there, so that nothing constant is left."""
    if not kinks[0] < 0 < kinks[-1] or np.abs(kinks).min() < TINY or abs(f(torch.zeros(1, dtype=torch.float64)).item()) > TINY:
        return kinks, values
    at = int(np.searchsorted(kinks, 0.0))
    return np.insert(kinks, at, 0.0), np.insert(values, at, 0.0)


def _kinked(f: Function, low: float, high: float, knots: int) -> Pieces | None:
    """f itself, where it is piecewise linear, continuous, and bends no more than `knots` + 1 times."""
    z = np.linspace(min(low, -8.0) - 0.0317, max(high, 8.0) + 0.0291, GRID)  # so that no kink lies on the grid
    y = f(torch.from_numpy(z)).numpy()
    bent = np.flatnonzero(np.abs(np.diff(y, 2)) > TINY * (1 + np.abs(y).max()))
    starts = bent[np.diff(bent, prepend=-9) > 2]
    if not len(bent) or len(starts) > knots + 1 or len(bent) > 2 * len(starts) or starts[0] < 1 or bent[-1] > GRID - 5:
        return None
    edges = [0, *(int(s) + 4 for s in starts)]  # the first point of every straight part that is surely on it
    slopes = np.array([(y[e + 1] - y[e]) / (z[e + 1] - z[e]) for e in edges])
    levels = np.array([y[e] - s * z[e] for e, s in zip(edges, slopes, strict=True)])
    if (np.diff(slopes) == 0).any():
        return None
    kinks = -np.diff(levels) / np.diff(slopes)
    if any(not z[s] <= t <= z[s + 3] for s, t in zip(starts, kinks, strict=True)):
        return None  # it jumps
    values = slopes[1:] * kinks + levels[1:]
    slopes = np.where(np.abs(slopes) < 1e-7, 0.0, slopes)
    if len(kinks) > 1 and slopes[0] == slopes[-1] == 0:
        kinks, values = _anchored(f, kinks, values)
        return _ramps(kinks, values, int(np.abs(values).argmin()), exact=True)
    return _hinges(kinks, slopes, values)


def pieces(f: Function, samples: Vector, low: float, high: float, knots: int) -> Pieces:
    """f on [low, high], widened, as at most `knots` + 1 pieces; `samples` are values that it is asked for.

    Raises:
        NetwrightError: f is not finite there.
    """
    found = _kinked(f, low, high, knots)
    if found is not None:
        return found
    z, p, y = _weighted(f, samples, low, high)
    turns = np.zeros_like(y)  # of the slope, at every point of the grid
    turns[1:-1] = np.abs(np.diff(y, 2)) / (z[1] - z[0])
    sharp = turns > KINK * np.abs(np.diff(y)).max() / (z[1] - z[0])
    fixed = {float(t) for t in z[sharp & (turns >= np.maximum(np.roll(turns, 1), np.roll(turns, -1)))]}
    zero = bool(z[0] < 0 < z[-1]) and abs(f(torch.zeros(1, dtype=torch.float64)).item()) < TINY
    if zero:
        fixed = {t for t in fixed if abs(t) > z[1] - z[0]} | {0.0}
    density = (p * np.where(sharp, 0, turns) ** 2) ** 0.2
    total = np.cumsum(density + 1e-3 * density.max() + TINY)
    t = np.interp(np.linspace(total[0], total[-1], max(knots - len(fixed), 1) + 1), total, z)
    t = _improved(z, y, p, np.unique([*t, *fixed]), fixed)
    anchor = int(np.flatnonzero(t == 0)[0]) if zero else None
    values = _fitted(z, y, p, t, anchor)
    return _ramps(t, values, int(np.abs(values).argmin()) if anchor is None else anchor)


def _weighted(f: Function, samples: Vector, low: float, high: float) -> tuple[Vector, Vector, Vector]:
    wide = MARGIN * max(high - low, 1e-6)
    for margin in (wide, 0.0):
        z = np.linspace(low - margin, high + margin, GRID) if high > low else np.linspace(low - wide, high + wide, GRID)
        y = f(torch.from_numpy(z)).numpy()
        if np.isfinite(y).all():
            break
    else:
        raise NetwrightError(f"a function to approximate is not finite on [{low:.4g}, {high:.4g}]; clip its input first")
    count, _ = np.histogram(samples, 64, (z[0], z[-1]))
    p = np.interp(z, np.linspace(z[0], z[-1], 64), count / max(count.sum(), 1)) * 64
    return z, 0.9 * p + 0.1, y


def _improved(z: Vector, y: Vector, p: Vector, t: Vector, fixed: set[float]) -> Vector:
    """Knots, one at a time, where they lower the weighted squared error, in steps that halve."""
    coarse = slice(None, None, 16)
    z, y, p = z[coarse], y[coarse], p[coarse]
    anchor = float(0.0 in fixed)

    def error(t: Vector) -> float:
        values = _fitted(z, y, p, t, int(np.flatnonzero(t == 0)[0]) if anchor else None)
        return float((p * (np.interp(z, t, values) - y) ** 2).sum())

    least, step = error(t), (z[-1] - z[0]) / 8
    for _ in range(6):
        for _ in range(4):
            before = least
            for i in (i for i in range(1, len(t) - 1) if t[i] not in fixed):
                for moved in (t[i] - step, t[i] + step):
                    if t[i - 1] < moved < t[i + 1]:
                        tried = t.copy()
                        tried[i] = moved
                        if (found := error(tried)) < least:
                            t, least = tried, found
            if least == before:
                break
        step /= 2
    return t


def _fitted(z: Vector, y: Vector, p: Vector, t: Vector, fixed: int | None) -> Vector:
    """Values at the knots of the least weighted squared error; that of knot `fixed` is nought."""
    hats = np.stack([np.interp(z, t, row) for row in np.eye(len(t))], 1)
    free = [i for i in range(len(t)) if i != fixed]
    weighted = hats[:, free] * p[:, None]
    values = np.zeros(len(t))
    values[free] = np.linalg.solve(weighted.T @ hats[:, free] + 1e-9 * np.eye(len(free)), weighted.T @ y)
    return values
