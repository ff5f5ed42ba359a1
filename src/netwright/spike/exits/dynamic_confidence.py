"""Dynamic Confidence: an input stops at the first time step at which the network is sure of it (Li, Jones, Furber; ICCV 2023).

    C_t  = max_k softmax(alpha * sum_{start <= tau < t} o_tau)_k,        o_tau: the logits of one step, [N, K]
    exit = first t with C_t >= c, else T;        answer = argmax_k of that sum

The sum rather than the mean makes time itself evidence: after few steps only a large margin is enough (on digits with T = 16
the mean needs 13 steps for what the sum decides after 4). alpha ("confidence smoothing") keeps C off its ends, so that c is
not a matter of its last digits; the paper divides by its alpha, 30 for T = 27, so ours is one over it.

Calibration, on held-out inputs: for every alpha and c the pair (mean steps, accuracy); the Pareto front; the fastest point
whose accuracy is at least that of all T steps minus epsilon. Held out means that neither training nor conversion has seen
them: on training data networks are surer than they are right, and stop too early.

Added to the paper: the step from which the output is counted (delayed evaluation) is chosen with alpha and c, since no input
can stop before it; and the loss of accuracy, which is paired, must stay `guard` standard errors within epsilon, since the
best of many points on few inputs looks better than it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from netwright.core.decision import NEVER, Confident
from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.design.execute import GraphModule
from netwright.spike.exits.rule import ExitRule
from netwright.spike.unroll import Data, batch_size, batches, counted_from, output_over_time

SUREST = 0.9999  # a confidence above it is a matter of rounding in float32
SHARPNESS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
LEVELS = 100


@dataclass(frozen=True)
class DynamicConfidence(ExitRule):
    """`confidence` is c, `alpha` multiplies the sum of the logits; the defaults are those of the paper's code (T = 27)."""

    name: ClassVar[str] = "dynamic_confidence"
    paper: ClassVar[Paper] = Paper(
        "li2023dynamic", "Unleashing the Potential of Spiking Neural Networks by Dynamic Confidence",
        "Li, Chen and Jones, Edward and Furber, Steve", "ICCV", 2023, "https://arxiv.org/abs/2303.10276", "S250",
    )  # fmt: skip
    confidence: float = 0.6
    alpha: float = 1 / 30

    def __post_init__(self) -> None:
        if not (self.confidence > 0 and self.alpha > 0):
            raise NetwrightError(
                f"Dynamic confidence needs confidence > 0 and alpha > 0, got {self.confidence} and {self.alpha}."
            )

    @property
    def control(self) -> Confident:
        return Confident(self.confidence, self.alpha)

    def exits(self, module: GraphModule, x: Tensor) -> tuple[Tensor, Tensor]:
        found = []
        for part in x.split(batch_size(module)):
            total, unit = output_over_time(module, part)
            start = next(int(n.attrs["start"]) for n in module.graph if n.op == "readout")
            sums = (total[start + 1 :] - total[start]) * unit
            at = self.stops(sums)
            mean = sums.gather(0, at[None, :, None].expand(1, -1, sums.shape[2]))[0] / (at + 1)[:, None]
            found.append((mean.to(torch.float32), at + start + 1))
        logits, steps = zip(*found, strict=True)
        return torch.cat(logits), torch.cat(steps)

    def stops(self, sums: Tensor) -> Tensor:
        """Index of the first of the sums [T-start, N, K] that the rule accepts, else of the last, int64 [N]."""
        return _first(_confidence(sums, self.alpha), self.confidence)


@dataclass(frozen=True)
class Point:
    """One (start, alpha, c) on held-out inputs."""

    start: int
    alpha: float
    confidence: float
    steps: float
    accuracy: float


@dataclass(frozen=True)
class CalibratedExit:
    """What `calibrate` found: the chosen point, the Pareto front that it is on, and what to expect of it.

    `steps` is T and `full` the accuracy of all T steps on the `images` held-out inputs; `chosen.steps` and `chosen.accuracy`
    are the expected ones.
    """

    chosen: Point
    front: tuple[Point, ...]
    steps: int
    full: float
    images: int

    @property
    def rule(self) -> DynamicConfidence:
        return DynamicConfidence(self.chosen.confidence, self.chosen.alpha)

    @property
    def speedup(self) -> float:
        """T by the expected mean number of steps."""
        return self.steps / self.chosen.steps

    def network(self, module: GraphModule) -> GraphModule:
        """`module` with its output counted from the chosen step; the rule is for this network."""
        return counted_from(module, self.chosen.start)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "rule": DynamicConfidence.name}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CalibratedExit:
        """Read what `to_json` made.

        Raises:
            NetwrightError: it is something else.
        """
        try:
            front = tuple(Point(**p) for p in data["front"])
            return cls(Point(**data["chosen"]), front, int(data["steps"]), float(data["full"]), int(data["images"]))
        except (KeyError, TypeError, ValueError) as error:
            raise NetwrightError(f"This is no calibrated exit: {data!r:.60}. Calibrate the network again.") from error


def _confidence(sums: Tensor, alpha: float) -> Tensor:
    """C_t [T-start, N]."""
    return (alpha * sums.to(torch.float32)).softmax(2).amax(2)


def _first(confidence: Tensor, level: float) -> Tensor:
    """Index of the first of the steps that reaches `level`, else of the last, int64 [N]."""
    return (confidence.cummax(0).values < level).sum(0).clamp(max=len(confidence) - 1)


def _points(totals: Tensor, unit: Tensor, y: Tensor, start: int, alphas: Sequence[float]) -> Iterator[tuple[Point, Tensor]]:
    """Every point that counts from `start`, and which inputs it answers rightly, bool [N]."""
    sums = (totals[start + 1 :] - totals[start]) * unit
    right = sums.argmax(2) == y
    for alpha in alphas:
        confidence = _confidence(sums, alpha)
        tried = confidence.flatten().sort().values[:: max(1, confidence.numel() // LEVELS)].unique()
        for level in tried[tried <= SUREST].tolist():
            at = _first(confidence, level)
            hits = right.gather(0, at[None])[0]
            steps = float((at + 1 + start).to(torch.float64).mean())
            yield Point(start, alpha, level, steps, float(hits.to(torch.float64).mean())), hits


def calibrate(
    module: GraphModule,
    data: Data,
    *,
    epsilon: float = 0.0,
    guard: float = 1.0,
    sharpness: Sequence[float] = SHARPNESS,
    starts: Sequence[int] | None = None,
) -> CalibratedExit:
    """Choose start, alpha and c for a spiking network.

    Args:
        module: a converted network; its own start and all T steps are what the exits are compared with.
        data: (inputs [N, ...], labels [N]) or an iterable of such batches that neither training nor conversion has seen.
        epsilon: share of right answers that may be lost against all T steps.
        guard: standard errors of the paired loss that must also fit within epsilon; 0 is the paper's rule.
        sharpness: alphas tried, as multiples of 1/T: 1 leaves the softmax of the mean logits as it is at t = T.
        starts: first steps of the output that are tried; None: from the network's own down to 0.

    Raises:
        NetwrightError: the module is not spiking, or there are no data.
    """
    found = [(*output_over_time(module, x), y) for x, y in batches(data, batch_size(module))]
    if not found:
        raise NetwrightError("An exit was to be calibrated on no data. Give held-out inputs with their labels.")
    own = next(int(n.attrs["start"]) for n in module.graph if n.op == "readout")
    totals, labels = torch.cat([f[0] for f in found], 1), torch.cat([f[2] for f in found])
    starts = range(own + 1) if starts is None else starts
    return choose(totals, found[0][1], labels, own, starts, epsilon=epsilon, guard=guard, sharpness=sharpness)


def choose(
    totals: Tensor,
    unit: Tensor,
    y: Tensor,
    own: int,
    starts: Sequence[int],
    *,
    epsilon: float,
    guard: float = 1.0,
    sharpness: Sequence[float] = SHARPNESS,
) -> CalibratedExit:
    """`calibrate` on outputs that were simulated before (`output_over_time`), of a network that counts from step `own`."""
    steps = len(totals) - 1
    full = (totals[-1] - totals[own]).mul(unit).argmax(1) == y
    alphas = [s / steps for s in sharpness]
    all_steps = Point(own, alphas[0], NEVER, float(steps), float(full.to(torch.float64).mean()))
    points, allowed = [all_steps], [all_steps]
    for start in starts:
        for point, hits in _points(totals, unit, y, start, alphas):
            points.append(point)
            loss = full.to(torch.float64) - hits.to(torch.float64)
            error = float(loss.std(correction=0)) / len(y) ** 0.5
            if float(loss.mean()) + guard * error <= epsilon:
                allowed.append(point)
    chosen = min(allowed, key=lambda p: (p.steps, -p.accuracy))
    return CalibratedExit(chosen, _front(points), steps, all_steps.accuracy, len(y))


def _front(points: Sequence[Point]) -> tuple[Point, ...]:
    """Points that no other beats in both mean steps and accuracy, fastest first."""
    kept: list[Point] = []
    for p in sorted(points, key=lambda p: (p.steps, -p.accuracy)):
        if not kept or p.accuracy > kept[-1].accuracy:
            kept.append(p)
    return tuple(kept)
