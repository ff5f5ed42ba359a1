"""Output filtering: a low-pass filter behind a spiking network that estimates signals.

    y_t = b_0 x_t + b_1 x_{t-1} + ... - a_1 y_{t-1} - ...           a Bessel filter, run as second-order sections

What a spiking decoder estimates (a velocity, a force) jumps with every spike, while the signal itself is slow. A Bessel
filter has the flattest group delay, so it keeps the form of the signal; Zhou, Sun and Basu 2024 (S242) find it the best of
the filters that they try.

Forms, all for x [T, N, K], time first:
- `Bessel.filter`: causal, in any pieces (the state is passed on); delays slow signals by `Bessel.delay` steps.
- `Bessel.blocks`: block-bidirectional. Each output is read from a window of the last `block` inputs that is filtered
  forwards and then backwards, which cancels the delay of the filter; it is read `ahead` steps before the end of the window,
  and so comes `ahead` steps late. A larger one is more accurate; ahead = 0 is the causal filter again, without latency.

The initial state is that of an input which has always been x_0: no step at the start. Coefficients come from scipy.signal.
Differs from the paper: its two variants fix block and latency for one data set; here both are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import signal
from torch import Tensor

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper

paper = Paper(
    "zhou2024filtering", "Combining SNNs with Filtering for Efficient Neural Decoding in Implantable Brain-Machine Interfaces",
    "Zhou, Biyan and Sun, Pao-Sheng Vincent and Basu, Arindam", "arXiv", 2024, "https://arxiv.org/abs/2312.15889", "S242",
)  # fmt: skip

CHUNK = 1024  # windows filtered at a time


@dataclass(frozen=True)
class Bessel:
    """A low-pass Bessel filter.

    Attributes:
        cutoff: as a share of the sampling rate, in (0, 0.5); where the gain is 1/sqrt(2).
        order: of the filter.

    Raises:
        NetwrightError: a value outside its range.
    """

    cutoff: float
    order: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.cutoff < 0.5 or self.order < 1:
            raise NetwrightError(
                f"Bessel: cutoff = {self.cutoff} must lie in (0, 0.5) of the sampling rate, order = {self.order} >= 1."
            )

    @cached_property
    def sections(self) -> NDArray[np.float64]:
        """[sections, 6] as scipy has them: b0 b1 b2 1 a1 a2."""
        found: NDArray[np.float64] = signal.bessel(self.order, 2 * self.cutoff, output="sos", norm="mag")
        return found

    @cached_property
    def _rest(self) -> NDArray[np.float64]:
        """The state [sections, 2] of an input that has always been 1."""
        found: NDArray[np.float64] = signal.sosfilt_zi(self.sections)
        return found

    @property
    def delay(self) -> float:
        """Steps by which a slow signal comes late: the group delay at frequency 0."""
        b, a = signal.sos2tf(self.sections)
        return float(signal.group_delay((b, a), w=[1e-6])[1][0])

    def start(self, x: Tensor) -> NDArray[np.float64]:
        """The state [sections, 2, N, K] of an input that has always been x [N, K]."""
        return self._rest.reshape(*self._rest.shape, *[1] * x.dim()) * x.detach().cpu().numpy().astype(np.float64)

    def filter(self, x: Tensor, state: NDArray[np.float64] | None = None) -> tuple[Tensor, NDArray[np.float64]]:
        """Filtered x [T, N, K], without gradient, and the state to go on with.

        Args:
            state: of the piece before; None starts anew.
        """
        state = self.start(x[0]) if state is None else state
        y, state = signal.sosfilt(self.sections, x.detach().cpu().numpy().astype(np.float64), 0, state)
        return torch.from_numpy(y).to(x), state

    def blocks(self, x: Tensor, block: int, ahead: int = 0) -> Tensor:
        """Estimates of x [T, N, K] at the same times, each from the window that ends `ahead` steps later; no gradient.

        Before the signal x_0 is taken to have stood; where it ends, the last outputs share the last window.

        Raises:
            NetwrightError: `ahead` does not lie in the window, or the signal is not longer than it.
        """
        if not 0 <= ahead < min(block, len(x)):
            raise NetwrightError(f"Bessel: ahead = {ahead} must lie in the block of {block} and in the signal of {len(x)} steps.")
        given = x.detach().cpu().numpy().astype(np.float64)
        padded = np.concatenate([np.repeat(given[:1], block - 1, 0), given])
        windows = np.lib.stride_tricks.sliding_window_view(padded, block, axis=0)[ahead:]
        read = block - 1 - ahead
        parts = [self._both(windows[i : i + CHUNK])[..., read:] for i in range(0, len(windows), CHUNK)]
        last = np.moveaxis(parts[-1][-1], -1, 0)[1:]
        return torch.from_numpy(np.concatenate([*(part[..., 0] for part in parts), last])).to(x)

    def _both(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Forwards and then backwards along the last axis."""
        for _ in range(2):
            state = self._rest.reshape(len(self._rest), *[1] * (x.ndim - 1), 2) * x[..., :1]
            x = signal.sosfilt(self.sections, x, -1, state)[0][..., ::-1]
        return x


def r2(estimate: Tensor, truth: Tensor) -> float:
    """Coefficient of determination of [T, N, K], mean over K: 1 - sum (truth - estimate)^2 / sum (truth - mean)^2."""
    residual = (truth - estimate).square().flatten(0, 1).sum(0)
    total = (truth - truth.flatten(0, 1).mean(0)).square().flatten(0, 1).sum(0)
    return float((1 - residual / total).mean())
