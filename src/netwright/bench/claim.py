"""A claim: a number, where it comes from, and the bound that it must keep."""

from __future__ import annotations

import csv
import datetime
import io
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from netwright import __version__
from netwright.core.cost import Quantity
from netwright.core.errors import NetwrightError
from netwright.core.files import write_text
from netwright.measure.machine import machine

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, "==": operator.eq, ">": operator.gt, "<": operator.lt,
}  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """One measured or counted number.

    Attributes:
        value: None where this machine cannot measure it; `why` then says what is missing, and the claim counts as open.
        n: samples (rounds of timing, inputs compared).
        spread: 10th and 90th percentile, where there are samples.
        reference: name and value of what it is compared with.
    """

    id: str
    value: float | None
    unit: str
    how: str
    n: int = 1
    spread: tuple[float, float] | None = None
    reference: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True)
class Bench:
    """The claims of one benchmark, in order, with their bounds (operator, number)."""

    name: str
    machine: Mapping[str, Any]
    bounds: Mapping[str, tuple[str, float]]
    claims: Sequence[Claim]

    def holds(self, claim: Claim) -> bool:
        op, bound = self.bounds[claim.id]
        return claim.value is not None and OPERATORS[op](claim.value, bound)

    def to_json(self) -> dict[str, Any]:
        command = f"netwright bench {self.name}"
        rows = [{**asdict(c), "bound": list(self.bounds[c.id]), "holds": self.holds(c), "command": command} for c in self.claims]
        return {"bench": self.name, "machine": dict(self.machine), "claims": rows}

    def write_csv(self, folder: Path) -> Path:
        """One line a claim, into FOLDER/<date>-<version>-<name>.csv; the machine stands in the first lines."""
        text = io.StringIO()
        text.write("".join(f"# {key}: {value}\n" for key, value in self.machine.items()))
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["claim", "value", "operator", "bound", "holds", "unit", "how", "n", "low", "high", "reference", "why"])
        for c in self.claims:
            low, high = c.spread or ("", "")
            value = "" if c.value is None else f"{c.value:.6g}"
            reference = " ".join(f"{k}={v}" for k, v in c.reference.items())
            rows.writerow([c.id, value, *self.bounds[c.id], self.holds(c), c.unit, c.how, c.n, low, high, reference, c.why])
        path = folder / f"{datetime.date.today():%Y-%m-%d}-{__version__}-{self.name}.csv"
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, text.getvalue())
        return path


Stages = Mapping[str, tuple[Callable[[], Iterator[Claim]], tuple[str, ...]]]  # title -> a measurement, the claims that it gives


def collect(
    name: str, bounds: Mapping[str, tuple[str, float]], stages: Stages, progress: Callable[[int, int, str], None] | None
) -> Bench:
    """All claims of `bounds`, in their order; one that cannot be measured here has no value and says why."""
    torch.set_num_threads(1)
    claims: list[Claim] = []
    for i, (title, (measure, ids)) in enumerate(stages.items()):
        if progress is not None:
            progress(i, len(stages), f"bench: {title}")
        try:
            claims.extend(measure())
        except NetwrightError as error:
            claims.extend(Claim(id, None, "", "measured", 0, why=str(error)) for id in ids)
    order = list(bounds)
    return Bench(name, machine(), bounds, sorted(claims, key=lambda c: order.index(c.id)))


def ratio(id: str, timed: Mapping[str, Quantity], ours: str, theirs: str, rounds: int, note: str = "") -> Claim:
    """How many times faster `ours` is than `theirs`: a ratio of medians of one interleaved run; the spread is that of the
    quotients of the slow ends and of the fast ends."""
    a, b = timed[ours], timed[theirs]
    (a_low, a_high), (b_low, b_high) = a.spread or (a.value, a.value), b.spread or (b.value, b.value)
    reference = {"name": theirs, "us": round(b.value, 2), "ours_us": round(a.value, 2)}
    unit = f"times faster, medians, 1 thread, batch 1{', ' + note if note else ''}"
    ends = sorted((b_low / a_low, b_high / a_high))
    return Claim(id, b.value / a.value, unit, "measured", rounds, (round(ends[0], 3), round(ends[1], 3)), reference)
