"""Linear recurrences over time, all steps at once.

    h_t = a_t h_{t-1} + x_t

The pairs (a, x) combine by (a1, x1) o (a2, x2) = (a1 a2, a2 x1 + x2), which is associative, so that T steps take log2(T)
rounds (Hillis and Steele 1986), each over whole tensors; gradients pass through.
"""

from __future__ import annotations

import torch
from torch import Tensor


def linear_scan(decay: float | Tensor, x: Tensor, start: Tensor | None = None) -> Tensor:
    """h [T, ...] of x [T, ...].

    Args:
        decay: a number, a tensor that broadcasts against one step, or one with a step's axis in front [T, ...] (as many
            axes as x).
        start: h before the first step, shaped like x[0]; 0 when None.
    """
    if isinstance(decay, Tensor) and decay.dim() == x.dim():
        return _varying(decay, x, start)
    if start is not None:
        x = torch.cat([(x[0] + decay * start)[None], x[1:]])
    shift = 1
    while shift < len(x):
        x = torch.cat([x[:shift], x[shift:] + decay * x[:-shift]])
        decay, shift = decay * decay, 2 * shift
    return x


def _varying(a: Tensor, x: Tensor, start: Tensor | None) -> Tensor:
    if start is not None:
        x = torch.cat([(x[0] + a[0] * start)[None], x[1:]])
    shift = 1
    while shift < len(x):
        x = torch.cat([x[:shift], x[shift:] + a[shift:] * x[:-shift]])
        a, shift = torch.cat([a[:shift], a[shift:] * a[:-shift]]), 2 * shift
    return x
