"""RNN-Morph: a recurrent network with quantised activations, and the spiking network that computes the same whole numbers.

    quantised   h_t = clip(rint((W x_t + U h_(t-1) + b) / q), 0, L)            counts; y = V h_S + c behind the last element
    spiking     for each element t, until no neuron fires any more (or for T_q steps):
                v += W s;   s = +1 where v >= theta and A < L,   -1 where v < 0 and A > 0;   v -= theta s;   A += s
                m += U s                                                        what the next element starts from
                then v = v(0) + m;   A = 0;   m = 0

At rest A = h_t (see `lossless`), so m = U h_t: the recurrent weights too are only ever added, once for every spike. An element
flows in once, in its first step (`encode.analog`). Whole numbers as in `quantised`, one unit for W and U of a neuron.

Su et al. 2024, section 3.4. Differs from the paper: whole numbers, hence equality; rectified cells without gates alone; the
recurrent sums of an element are gathered while it runs, so that its spikes need not be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from netwright.core.errors import NetwrightError
from netwright.design.execute import nw
from netwright.spike.convert.quantised import Whole, fire, in_units, rint


class QuantisedRNN(nn.Module):
    """Recurrent layers with counts 0..2^bits - 1 for activations: x [N, S, F] -> logits [N, K]; weights and q are trained.

    Gradients as in `quantised`. One q a layer, as in the paper.

    Args:
        features: F.
        hidden: width of each recurrent layer.
        classes: K.
        bits: of an activation, 1 to 7.
        code: scale, lowest and highest code of the input (`Analog.code`).

    Raises:
        NetwrightError: `bits` is out of range, or there is no recurrent layer.
    """

    def __init__(self, features: int, hidden: Sequence[int], classes: int, bits: int, code: tuple[float, int, int]):
        super().__init__()
        if not 1 <= bits <= 7 or not hidden:
            raise NetwrightError(f"A quantised RNN needs 1 to 7 bits and a layer, got bits = {bits}, hidden = {list(hidden)}.")
        self.levels, self.code = 2**bits - 1, code
        sizes = [features, *hidden]
        self.inputs = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))
        self.recurrent = nn.ParameterList(torch.eye(o) / 2 for o in hidden)
        self.log_steps = nn.ParameterList(torch.zeros(1) for _ in hidden)
        self.head = nn.Linear(hidden[-1], classes)

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """q of each layer so that L q is the 99.9 % quantile of its rectified sums on x [N, S, F]."""
        for layer, recurrent, q in zip(self.inputs, self.recurrent, self.log_steps, strict=True):
            h, seen = x.new_zeros(len(x), len(recurrent)), []
            for element in x.unbind(1):
                h = (layer(element) + h @ recurrent.T).relu()
                seen.append(h)
            x = torch.stack(seen, 1)
            q.fill_(x.flatten()[:: max(1, x.numel() // 10**6)].quantile(0.999).clamp(min=1e-6) / self.levels).log_()

    def whole(self) -> tuple[list[tuple[Whole, Tensor]], Whole]:
        """Each layer's weights (W and U) and threshold [H], and the output's weights, in whole numbers."""
        worth, layers = torch.full((1,), self.code[0], dtype=torch.float64), []
        for linear, recurrent, step in zip(self.inputs, self.recurrent, self.log_steps, strict=True):
            layer, q = cast(nn.Linear, linear), step.double().exp().expand(len(recurrent))
            held = in_units([layer.weight.double() * worth, recurrent.double() * q], layer.bias.double())
            theta = rint((q / held.scale).clamp(1, 2**30))
            layers.append((held, theta))
            worth = theta * held.scale
        return layers, in_units([self.head.weight.double() * worth], self.head.bias.double())

    def forward(self, x: Tensor) -> Tensor:
        layers, out = self.whole()
        n = nw.quantize(x.detach(), *self.code).to(x.dtype)
        for held, theta in layers:
            w, u, b = (p.to(x.dtype) for p in (*held.weights, held.bias))
            h, counts = x.new_zeros(len(x), len(b)), []
            for element in (n @ w.T + b).unbind(1):
                h = fire(element + h @ u.T, theta, self.levels)
                counts.append(h)
            n = torch.stack(counts, 1)
        return (n[:, -1] @ out.weights[0].to(x.dtype).T + out.bias.to(x.dtype)) * out.scale.to(x.dtype)


class SpikingRNN(nn.Module):
    """The spiking form of a `QuantisedRNN`: x [N, S, F] -> the same logits [N, K], in whole numbers up to the last product.

    Args:
        steps: T_q, time steps an element; 0: until the whole batch is at rest, which makes the result exact.
    """

    def __init__(self, net: QuantisedRNN, steps: int = 0):
        super().__init__()
        with torch.no_grad():
            layers, out = net.whole()
        self.levels, self.code, self.steps = net.levels, net.code, steps
        self.layers = [
            (*(w.long() for w in held.weights), theta.long(), ((theta / 2).floor() + held.bias).long()) for held, theta in layers
        ]
        self.out, self.bias, self.scale = out.weights[0].long(), out.bias.long(), out.scale.float()

    @torch.no_grad()
    def run(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of the output [N, K] and the last step with a spike in each element [N, S] (0: none), both int64."""
        codes = nw.quantize(x, *self.code).long()
        steps = torch.zeros(codes.shape[:2], dtype=torch.int64)
        following = [v0.expand(len(x), -1) for *_, v0 in self.layers]
        total = self.bias.expand(len(x), -1)
        for t, element in enumerate(codes.unbind(1)):
            v, following = list(following), [v0.expand(len(x), -1) for *_, v0 in self.layers]
            sent, total = [torch.zeros_like(u) for u in v], self.bias.expand(len(x), -1)
            s, k = element, 0
            while self.steps == 0 or k < self.steps:
                k += 1
                fired = torch.zeros(len(x), dtype=torch.bool)
                for i, (w, recurrent, theta, _) in enumerate(self.layers):
                    v[i] = v[i] + s @ w.T
                    s = ((v[i] >= theta) & (sent[i] < self.levels)).long() - ((v[i] < 0) & (sent[i] > 0)).long()
                    v[i], sent[i] = v[i] - theta * s, sent[i] + s
                    following[i] = following[i] + s @ recurrent.T
                    fired |= s.any(1)
                total = total + s @ self.out.T
                steps[fired, t] = k
                if self.steps == 0 and not fired.any():
                    break
                s = torch.zeros_like(element)
        return total, steps

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)[0] * self.scale
