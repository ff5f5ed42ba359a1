"""Auto: several conversions side by side, judged by how often they give the float network's answer.

For every wanted number of steps T, every method makes a network from calibration data, and the first step that the output
counts is chosen anew for each. All are scored on calibration images that made none of them: agreement with the float network's
answers (no labels are needed), and synaptic operations as what stands for energy. The networks that no other beats in
agreement, steps and operations at once are the front; of the networks within `margin` of the best agreement the one with the
fewest operations is picked.

Rows with signed spikes stand beside those without; `binary` leaves them out of the choice, not out of the table.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from netwright.core.paper import Paper
from netwright.design.trace import trace
from netwright.spike.convert.approximate import approximate
from netwright.spike.convert.balance import activation
from netwright.spike.convert.calibrated import Calibrated, check
from netwright.spike.convert.channel import ChannelPercentile
from netwright.spike.convert.converter import Converter, Progress, Spiking
from netwright.spike.convert.converter import Fit as Fitting
from netwright.spike.convert.fit import Fit
from netwright.spike.convert.ltb import LocalThresholdBalancing
from netwright.spike.convert.mmse import MinimumError
from netwright.spike.convert.program import Program
from netwright.spike.convert.read import read
from netwright.spike.convert.readout import counted_from, output_currents

BATCHES, BATCH = 64, 64  # calibration data that are looked at, at most
SIGNED = ("bipolar", "memory")


def methods() -> dict[str, Calibrated]:
    """What is tried unless said otherwise."""
    balanced = {f"ltb, {n} iterations": LocalThresholdBalancing(iterations=n) for n in (8, 64, 256)}
    return {
        **balanced, "channel 99 %": ChannelPercentile(), "channel 99.9 %": ChannelPercentile(share=0.999), "mmse": MinimumError(),
        "fit, binary": Fit(), "fit, bipolar": Fit(neuron="bipolar"),
    }  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One conversion.

    Attributes:
        start: first step that the output counts.
        agreement: share of held-out calibration images with the float network's answer.
        operations: synaptic operations an image.
        signed: whether spikes may be negative.
        seconds: that the conversion took.
        best: whether no other row is as good in agreement, steps and operations and better in one of them.
    """

    method: str
    steps: int
    start: int
    agreement: float
    operations: float
    signed: bool
    seconds: float
    best: bool = False


@dataclass(frozen=True, eq=False)
class Choice:
    """All rows, the picked one, its network, and why in one sentence."""

    rows: tuple[Row, ...]
    picked: Row
    made: Spiking
    why: str

    @property
    def front(self) -> tuple[Row, ...]:
        return tuple(r for r in self.rows if r.best)


def mark(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows with `best` set: the Pareto front of agreement (up), steps and operations (down)."""

    def key(r: Row) -> tuple[float, float, float]:
        return -r.agreement, r.steps, r.operations

    def beaten(r: Row) -> bool:
        return any(all(a <= b for a, b in zip(key(o), key(r), strict=True)) and key(o) != key(r) for o in rows)

    return tuple(replace(r, best=not beaten(r)) for r in rows)


@dataclass(frozen=True)
class Auto(Converter):
    """The best of several methods.

    Attributes:
        steps: T of `convert`; `choose` takes several.
        tried: name -> method; `methods()` when None.
        margin: agreement that fewer operations are worth, as a share of 1.
        binary: pick only networks whose spikes are 0 and 1 (where the network has no linear points).
        held_out: calibration images that score, at most half of them.
    """

    steps: int = 16
    tried: dict[str, Calibrated] | None = field(default=None, hash=False)
    margin: float = 0.005
    binary: bool = False
    held_out: int = 1024

    name: ClassVar[str] = "auto"
    paper: ClassVar[Paper] = LocalThresholdBalancing.paper

    def choose(self, module: nn.Module, example: Tensor, calibration: Tensor, wanted: Sequence[int],
               progress: Progress | None = None) -> Choice:  # fmt: skip
        """Tries every method at every T of `wanted`. Raises as `convert` does."""
        for steps in wanted:
            check(replace(self, steps=steps), calibration)
        calibration = calibration[: BATCHES * BATCH].to(torch.float32)
        held = calibration[-min(self.held_out, max(1, len(calibration) // 2)) :]
        used = calibration[: max(1, len(calibration) - len(held))]
        program = read(approximate(trace(module, example), used)[0])
        tried = self.tried or methods()
        with torch.no_grad():
            answers = program(held, activation).argmax(1)
        rows: list[Row] = []
        networks: list[Spiking] = []
        for steps in wanted:
            for label, method in tried.items():
                row, made = self._try(label, replace(method, steps=steps), program, used, held, answers)
                rows, networks = [*rows, row], [*networks, made]
                if progress is not None:
                    progress(len(rows), len(wanted) * len(tried), label)
        marked = mark(rows)
        allowed = [i for i, r in enumerate(marked) if not (self.binary and r.signed)] or list(range(len(marked)))
        most = max(marked[i].agreement for i in allowed)
        near = [i for i in allowed if marked[i].agreement >= most - self.margin]
        chosen = min(near, key=lambda i: (marked[i].operations, marked[i].steps))
        return Choice(marked, marked[chosen], networks[chosen], self._why(marked[chosen], most, len(near), len(marked)))

    @staticmethod
    def _try(
        label: str, method: Calibrated, program: Program, used: Tensor, held: Tensor, answers: Tensor
    ) -> tuple[Row, Spiking]:
        begun = time.perf_counter()
        made = method.lower(program, used)
        seconds = time.perf_counter() - begun
        with torch.no_grad():
            sums = output_currents(made.module, held).flip(0).cumsum(0).flip(0)  # of the steps from each one on
        agreements = (sums.argmax(2) == answers).double().mean(1)[: max(1, method.steps - 3)]
        start = int(agreements.argmax())
        signed = any(n.attrs["rule"] in SIGNED for n in made.module.graph if n.op == "integrate")
        row = Row(label, method.steps, start, float(agreements[start]), made.operations, signed, seconds)
        return row, made if start == made.start else counted_from(made, start)

    def _why(self, picked: Row, most: float, near: int, rows: int) -> str:
        spikes = "signed spikes" if picked.signed else "binary spikes"
        return (
            f"{picked.method} at T = {picked.steps} with {spikes}: of {rows} networks {near} agree with the float network on at "
            f"least {100 * (most - self.margin):.1f} % of held-out calibration images, and of these it takes the fewest synaptic "
            f"operations ({picked.operations / 1e6:.2f} M an image, {100 * picked.agreement:.1f} % agreement)."
        )

    def convert(self, module: nn.Module, example: Tensor, calibration: Tensor, progress: Progress | None = None,
                fit: Fitting | None = None) -> Spiking:  # fmt: skip
        return self.choose(module, example, calibration, (self.steps,), progress).made
