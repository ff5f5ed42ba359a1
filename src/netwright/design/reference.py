"""Recurrent layers: nodes `lstm`, `gru` and `rnn`, one a layer and direction.

A node reads x [N, T, I] and, where they are not zeros, the first states [N, H]; it writes the states of all steps
[N, T, H]. Gates stand in PyTorch's order: i, f, g, o and r, z, n.

    lstm:  c = sigmoid(f) c + sigmoid(i) tanh(g),  h = sigmoid(o) tanh(c)              (Hochreiter and Schmidhuber 1997)
    gru:   n = tanh(x_n + sigmoid(r) h_n),  h = (1 - sigmoid(z)) n + sigmoid(z) h      (Cho et al. 2014)
    rnn:   h = tanh(x + h)  or  relu(x + h)                                            (Elman 1990)

with x and h standing for ``W x + b`` and ``R h + b'``. `reverse` walks from the last step to the first. With `cell`, an
lstm writes one row more, [N, T + 1, H]: the cell after its last step.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from netwright.core.graph import Node


def _lstm(n: Node, x: Tensor, h: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = (x + h).chunk(4, -1)
    state = torch.sigmoid(f) * state + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(state), state


def _gru(n: Node, x: Tensor, h: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    (xr, xz, xn), (hr, hz, hn) = x.chunk(3, -1), h.chunk(3, -1)
    z = torch.sigmoid(xz + hz)
    state = (1 - z) * torch.tanh(xn + torch.sigmoid(xr + hr) * hn) + z * state
    return state, state


def _rnn(n: Node, x: Tensor, h: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    state = F.relu(x + h) if n.attrs["activation"] == "relu" else torch.tanh(x + h)
    return state, state


STEPS = {"lstm": _lstm, "gru": _gru, "rnn": _rnn}


def recurrent(n: Node, w: Mapping[str, Tensor], x: Tensor, *first: Tensor) -> Tensor:
    """The reference: one step after another."""
    hidden = w["recurrent"].shape[1]
    h = first[0] if first else x.new_zeros(len(x), hidden)
    state = first[1] if len(first) > 1 else x.new_zeros(len(x), hidden) if n.op == "lstm" else h
    given = F.linear(x, w["weight"], w.get("bias"))
    steps = range(x.shape[1])
    found: dict[int, Tensor] = {}
    for t in reversed(steps) if n.attrs["reverse"] else steps:
        h, state = STEPS[n.op](n, given[:, t], F.linear(h, w["recurrent"], w.get("recurrent_bias")), state)
        found[t] = h
    return torch.stack([found[t] for t in steps] + ([state] if n.attrs.get("cell") else []), 1)
