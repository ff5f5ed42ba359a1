"""Neuron: the role of everything in this folder. State is explicit: a step takes it and returns the next one."""

from __future__ import annotations

from typing import ClassVar, Generic, Literal

import torch
from torch import Tensor
from typing_extensions import TypeVar

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.spike.surrogates.surrogate import Surrogate

State = TypeVar("State", default=Tensor)  # of one neuron model: its potentials, or a tuple of tensors
Reset = Literal["soft", "hard", "none"]


class Neuron(Generic[State]):
    """A spiking neuron model over a tensor of neurons.

    Attributes:
        parallel: whether `scan` computes all steps at once.
    """

    name: ClassVar[str]
    paper: ClassVar[Paper]

    def start(self, like: Tensor) -> State:
        """The state before the first step, for one step's input shaped like `like` [N, C, ...]; at rest, unless said."""
        raise NotImplementedError

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One time step: input current [N, C, ...] and state to spikes (-1, 0, 1) and the next state."""
        raise NotImplementedError

    @property
    def parallel(self) -> bool:
        return False

    def scan(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """What as many steps as `current` [T, N, C, ...] has would give, without a loop over them: (spikes, last state).

        Raises:
            NetwrightError: the model has no parallel form (`parallel` says so).
        """
        raise NetwrightError(f"The neuron {self.name!r} resets or adapts, so its steps cannot be computed at once. Use `unroll`.")


def channelwise(p: Tensor, like: Tensor) -> Tensor:
    """A vector [C] shaped to broadcast along axis 1."""
    return p.reshape(-1, *[1] * (like.dim() - 2))


def fire(u: Tensor, theta: float | Tensor, surrogate: Surrogate, reset: Reset, detach: bool = True) -> tuple[Tensor, Tensor]:
    """Spikes and what they leave of the potential.

        s = H(u - theta);    soft: v = u - theta s;    hard: v = u (1 - s);    none: v = u

    Args:
        detach: no gradient through the reset.
    """
    s = surrogate(u - theta)
    sent = s.detach() if detach else s
    if reset == "soft":
        return s, u - theta * sent
    return s, u * (1 - sent) if reset == "hard" else u


def unroll(neuron: Neuron[State], current: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    """Spikes [T, N, C, ...] of the currents [T, N, C, ...], step after step, and the state after them.

    Args:
        state: of a sequence that goes on; the neuron's own start when None.
    """
    state, spikes = neuron.start(current[0]) if state is None else state, []
    for x in current:
        s, state = neuron.step(x, state)
        spikes.append(s)
    return torch.stack(spikes), state


def simulate(neuron: Neuron[State], current: Tensor) -> Tensor:
    """Spikes [T, N, C, ...] of the currents [T, N, C, ...] from the neuron's start, at once where it can."""
    if neuron.parallel:
        return neuron.scan(current, neuron.start(current[0]))[0]
    return unroll(neuron, current)[0]
