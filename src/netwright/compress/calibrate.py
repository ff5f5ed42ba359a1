"""Calibration: the step size of a code tensor from samples of what it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from netwright.core.errors import DataError
from netwright.core.graph import Node

Rule = Literal["mse", "minmax", "percentile"]
RATIOS = torch.logspace(0.0, -0.7, 22)  # clip points tried by the MSE rule: 1 down to 0.2 of the largest value
SAMPLES = 1 << 15


def subsample(x: Tensor, count: int = SAMPLES) -> Tensor:
    """About `count` elements of x, evenly spaced: the same ones every time."""
    flat = x.detach().flatten()
    return flat[:: max(1, flat.numel() // count)]


def _error(x: Tensor, scales: Tensor, lo: int, hi: int) -> Tensor:
    """Mean squared error of quantising x with each of `scales` [R]."""
    s = scales[:, None]
    return ((torch.round(x / s).clamp(lo, hi) * s - x) ** 2).mean(1)


def step_size(x: Tensor, lo: int, hi: int, rule: Rule = "mse") -> float:
    """Real value of one code step for samples `x` and codes lo..hi.

    minmax: ``max|x| / hi``; percentile: the 99.99th percentile of |x| in place of the maximum; mse: of 22 clip points
    between 1 and 0.2 of the maximum, the one with the least squared error.
    """
    top = float(x.abs().max()) if x.numel() else 0.0
    if not top > 0:
        return 1.0 / hi
    if rule == "percentile":
        top = max(float(torch.quantile(subsample(x.abs()), 0.9999)), top * 1e-3)
    if rule != "mse":
        return top / hi
    scales = RATIOS.to(x) * (top / hi)
    return float(scales[_error(subsample(x), scales, lo, hi).argmin()])


def check(calibration: Tensor) -> Tensor:
    """Calibration data as given, if it can be used.

    Raises:
        DataError: it is empty or holds NaN or infinity.
    """
    if calibration.dim() == 0 or len(calibration) == 0:
        raise DataError("the calibration set is empty; give at least one input, better a hundred or more of the training split")
    if not bool(torch.isfinite(calibration).all()):
        raise DataError("the calibration set holds NaN or infinite values; clean it as the training data was cleaned")
    return calibration


def collect(run: Callable[..., Tensor], calibration: Tensor, wanted: Mapping[str, object], batch: int = 256) -> dict[str, Tensor]:
    """Samples of the named node outputs while `run(x, visit=...)` goes over the calibration data."""
    parts: dict[str, list[Tensor]] = {name: [] for name in wanted}
    share = max(512, SAMPLES * batch // max(batch, len(calibration)))

    def visit(node: Node, out: Tensor) -> None:
        if node.name in parts:
            parts[node.name] += [subsample(out.float(), share), out.detach().float().abs().max()[None]]

    with torch.no_grad():
        for x in calibration.split(batch):
            run(x, visit=visit)
    return {name: torch.cat(p) for name, p in parts.items()}
