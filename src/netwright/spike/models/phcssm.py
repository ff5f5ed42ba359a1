"""PHCSSM: a spiking state-space model with one shared layer of neurons and one shared layer of synapses.

Neurons stand in R regions of d. Within a time step spikes travel along the connectome K times (multi-transmission loop):

    I^k_t = U x_t + b + sum over p -> r ahead of W_pr s^{k-1}_t  + sum over the others of W_pr s^{k-1}_{t-1},     s^0 = 0
    h^k_t = a h^k_{t-1} + sqrt(1 - a^2) I^k_t,                 a = sigmoid(w), one leak a neuron: a diagonal state space
    theta^k_t = 1 + beta z^k_t,   z^k_t = c z^k_{t-1} + (1 - c) s^{k-1}_{t-1}              (with `adapt`)
    s^k_t = H(h^k_t - theta^k_t)                               no reset, so that h is linear in I
    o_t = e o_{t-1} + (1 - e) V s^K_t,   logits = o_T + f      from all regions

Connections ahead, from a region to the next, carry spikes within the step; those sideways and back have a synaptic delay of one
step (`delay`). Training goes over k: each round is a linear scan over all steps at once, so K rounds of depth log2 T. All
rounds share their weights: one matrix a connection instead of one a layer. Dale's law (`dale`): neurons 4, 9, 14, ... of every
region are inhibitory, the others excitatory, W = sign(sender) |W|.

Deployment, one step at a time. The paper runs one state a neuron (h_t, settled in K rounds from h_{t-1}), which is another
function than the scan: there round k has the history of round k, here all rounds have the history of the last (it calls the two
Jacobi and Gauss-Seidel, and leaves the gap to future work). Both are here:

    `step`     K states a neuron, one for each round: exactly the function that was trained, to the rounding of the sums
    `settle`   one state a neuron, as the paper's: exactly the same where the connectome is feedforward and K >= R, since round
               R then no longer changes; with loops it differs, by what `disagreement` measures

Sequences are [N, T, C], or images row by row. Chiang 2026, abstract and discussion; no code is published, so that sizes, gains,
input to every region and the readout are ours. Left out: short-term plasticity and STDP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from netwright.core.errors import UnknownName
from netwright.core.paper import Paper
from netwright.spike.models.family import Family, Recurrent, sequences
from netwright.spike.models.lif_rnn import LeakyReadout, leak, spread
from netwright.spike.neurons import linear_scan
from netwright.spike.surrogates import ARCTAN, Surrogate

CONNECTOMES = ("feedforward", "recurrent")


@dataclass(frozen=True)
class PHCSSM(Family):
    """`regions` regions of `width` neurons, `loops` transmissions in a step.

    Attributes:
        connectome: feedforward (each region to the next) or recurrent (also to itself and back to the one before).
        delay: spikes sideways and back arrive a step later; without, in the same step.
        dale: every fifth neuron inhibitory, the others excitatory.
        adapt: thresholds rise with the neuron's own spikes.
        taus: shortest and longest initial time constant in steps, spread evenly in their logarithm over a region.
        readout_tau: initial time constant of the classes.
    """

    name: ClassVar[str] = "phcssm"
    paper: ClassVar[Paper] = Paper(
        "chiang2026phcssm",
        "Parallelized Hierarchical Connectome: A Spatiotemporal Recurrent Framework for Spiking State-Space Models",
        "Chiang, Po-Han", "arXiv:2604.01295", 2026, "https://arxiv.org/abs/2604.01295", "S224",
    )  # fmt: skip
    width: Any = 16
    regions: int = 3
    loops: Any = 3
    connectome: Any = "recurrent"
    delay: bool = True
    dale: bool = True
    adapt: bool = False
    taus: tuple[float, float] = (2.0, 64.0)
    readout_tau: float = 4.0
    channels: int = 8
    classes: int = 10
    surrogate: Surrogate = ARCTAN

    def build(self) -> PHCSSMNet:
        """Raises UnknownName for a connectome there is not."""
        return PHCSSMNet(self)

    @property
    def connections(self) -> list[tuple[int, int]]:
        """(from, to) of the regions that are connected."""
        if self.connectome not in CONNECTOMES:
            raise UnknownName("connectome", self.connectome, CONNECTOMES)
        ahead = [(r, r + 1) for r in range(self.regions - 1)]
        if self.connectome == "feedforward":
            return ahead
        return ahead + [(r, r) for r in range(self.regions)] + [(r + 1, r) for r in range(self.regions - 1)]


class Synapse(nn.Linear):
    """W s from one region to another; with `dale` the sign of a column is its sender's."""

    def __init__(self, width: int, dale: bool):
        super().__init__(width, width, bias=False)
        self.dale = dale

    def forward(self, s: Tensor) -> Tensor:
        if not self.dale:
            return super().forward(s)
        inhibitory = torch.arange(self.in_features, device=s.device) % 5 == 4
        sign = torch.where(inhibitory, -4.0, 1.0).to(s.dtype)  # one inhibitory neuron balances four excitatory ones
        return nn.functional.linear(s * sign, self.weight.abs())


def delayed(s: Tensor) -> Tensor:
    """Every step's spikes one step later, [T, ...]."""
    return torch.cat([torch.zeros_like(s[:1]), s[:-1]])


Settled = tuple[Tensor, Tensor, Tensor]  # potentials h, spikes s and their traces z after a step, each [N, regions, width]


class PHCSSMNet(Recurrent):
    """[N, T, channels] or [N, C, H, W] -> [N, classes]."""

    def __init__(self, c: PHCSSM):
        super().__init__()
        self.config = c
        self.of_input = nn.ModuleList(nn.Linear(c.channels, c.width) for _ in range(c.regions))
        self.synapses = nn.ModuleDict({f"{p}_{r}": Synapse(c.width, c.dale) for p, r in c.connections})
        self.leak = nn.Parameter(leak(spread(c.taus, c.width)).repeat(c.regions, 1))
        if c.adapt:
            self.adaptation = nn.Parameter(torch.full((c.regions, c.width), 0.1))
            self.trace_leak = nn.Parameter(leak(torch.full((c.regions, c.width), 20.0)))
        self.readout = LeakyReadout(c.regions * c.width, c.classes, c.readout_tau)

    def given(self, x: Tensor) -> Tensor:
        """Currents from outside, [..., regions, width], of inputs [..., channels]."""
        return torch.stack([u(x) for u in self.of_input], -2)

    def transmitted(self, s: Tensor, late: Tensor) -> Tensor:
        """Currents that spikes [..., regions, width] cause: s of this step ahead, `late` of the step before back and sideways."""
        parts: list[Any] = [0.0] * self.config.regions
        for p, r in self.config.connections:
            sent = s if p < r or not self.config.delay else late
            parts[r] = parts[r] + self.synapses[f"{p}_{r}"](sent[..., p, :])
        return torch.stack([part if isinstance(part, Tensor) else torch.zeros_like(s[..., 0, :]) for part in parts], -2)

    def run(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes of the last round, [T, N, regions, width], and the last potentials: all steps at once, round after round."""
        given, a = self.given(sequences(x)), torch.sigmoid(self.leak)
        s = h = torch.zeros_like(given)
        for k in range(self.config.loops):
            current = given + self.transmitted(s, delayed(s)) if k else given
            h = linear_scan(a, torch.sqrt(1 - a * a) * current)
            s = self.surrogate(h - self.threshold(self.trace(s)))
        return s, h[-1]

    @property
    def surrogate(self) -> Surrogate:
        return self.config.surrogate

    def trace(self, s: Tensor) -> Tensor:
        """Traces z of all steps from the spikes [T, ...] of the round before; each step sees those before it."""
        if not self.config.adapt:
            return s
        c = torch.sigmoid(self.trace_leak)
        return linear_scan(c, (1 - c) * delayed(s))

    def threshold(self, z: Tensor) -> Tensor | float:
        return 1.0 + self.adaptation * z if self.config.adapt else 1.0

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.readout(self.spikes(x).flatten(2))
        return logits

    def advance(self, current: Tensor, before: Settled, own: Tensor) -> Settled:
        """One neuron update: potentials and traces of the step before, `own` the spikes that its traces follow."""
        h, _, z = before
        a = torch.sigmoid(self.leak)
        h = a * h + torch.sqrt(1 - a * a) * current
        if self.config.adapt:
            c = torch.sigmoid(self.trace_leak)
            z = c * z + (1 - c) * own
        return h, self.surrogate(h - self.threshold(z)), z

    def rest(self, images: int) -> Settled:
        """Nothing has happened."""
        zero = self.leak.new_zeros(images, *self.leak.shape)
        return zero, zero, zero

    def step(self, x: Tensor, state: list[Settled] | None = None) -> tuple[Tensor, list[Settled]]:
        """One element x [N, channels] and the states of all rounds to spikes [N, regions, width] and the next states; the
        function that `spikes` computes at once."""
        given = self.given(x)
        state = [self.rest(len(x))] * self.config.loops if state is None else state
        after: list[Settled] = []
        s, own = torch.zeros_like(given), torch.zeros_like(given)
        for k, before in enumerate(state):
            current = given + self.transmitted(s, own) if k else given
            after.append(self.advance(current, before, own))
            s, own = after[-1][1], before[1]
        return s, after

    def settle(self, x: Tensor, state: Settled | None = None) -> tuple[Tensor, Settled]:
        """The same with one state a neuron, the paper's recurrent network."""
        given = self.given(x)
        before = self.rest(len(x)) if state is None else state
        after, s = before, torch.zeros_like(given)
        for k in range(self.config.loops):
            current = given + self.transmitted(s, before[1]) if k else given
            after = self.advance(current, before, before[1])
            s = after[1]
        return s, after

    def settled(self, x: Tensor) -> Tensor:
        """Spikes of `settle` over sequences, [T, N, regions, width]."""
        state, sent = None, []
        for current in sequences(x):
            s, state = self.settle(current, state)
            sent.append(s)
        return torch.stack(sent)

    def disagreement(self, x: Tensor) -> float:
        """Share of spikes and silences of `settled` that are others than those the network was trained with."""
        with torch.no_grad():
            return float((self.settled(x) != self.spikes(x)).double().mean())

    def settled_logits(self, x: Tensor) -> Tensor:
        """What the network with one state a neuron answers, [N, classes]."""
        logits: Tensor = self.readout(self.settled(x).flatten(2))
        return logits


VARIANTS = {"rows_phcssm": PHCSSM(20, loops=5)}
