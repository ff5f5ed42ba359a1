"""Shrink: a user's network on a user's data, compressed by one method or by several cheap ones to choose from.

What will happen is counted before anything is trained (`Shrink.expected`); what came out is measured on the test split, which
nothing was chosen on.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from netwright import compress
from netwright.compress import Compressor
from netwright.compress.plan import kept
from netwright.core.errors import NetwrightError
from netwright.core.files import write_json
from netwright.core.graph import Graph
from netwright.deploy.bundle import Bundle, write_bundle
from netwright.design import GraphModule, trace
from netwright.pipeline.fitting import Fitting, TaskData
from netwright.pipeline.trained import TrainedNetwork
from netwright.train.recipe import Recipe

CHEAP: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("int8", {}),
    ("int8", {"rule": "percentile"}),
    ("uniform", {"bits": 4}),
    ("nupes", {"bits": 4}),
    ("mixed", {"budget": 0.5}),
)
TRAINED: tuple[tuple[str, Mapping[str, Any]], ...] = (("bitnet", {}), ("react", {}))


class AccuracyLost(NetwrightError):
    """The compressed network is worse than was allowed; the best point found is kept and named."""


@dataclass(frozen=True)
class Expected:
    """What a method will make of a network, counted before training.

    Attributes:
        bytes: of weights, before and after.
        products: multiply-accumulates after, by the bits of the weights (32: float).
        kept: reason -> the operations that stay in float for it, with their number.
        nodes: every node that stays in float, with its module and the reason.
    """

    bytes: tuple[int, int]
    products: Mapping[int, int]
    kept: Mapping[str, Mapping[str, int]]
    nodes: Mapping[str, str]


@dataclass(frozen=True)
class Point:
    """One compressed network: what it costs and how good it is, beside the float one.

    Attributes:
        accuracy: of (float, compressed) on the test split, in [0, 1].
        bytes: of weights (float, compressed), counted; weights of less than 8 bits at the size of their codes.
        latency_us: of (float, compressed) C programs, one input, one thread, measured side by side; None where not measured.
        seconds: that compressing took.
    """

    method: str
    fields: Mapping[str, Any]
    accuracy: tuple[float, float]
    bytes: tuple[int, int]
    seconds: float
    latency_us: tuple[float, float] | None = None
    error: str = ""

    @property
    def drop(self) -> float:
        """Points of accuracy lost."""
        return 100 * (self.accuracy[0] - self.accuracy[1])

    @property
    def label(self) -> str:
        options = ", ".join(f"{k}={v}" for k, v in self.fields.items())
        return f"{self.method} ({options})" if options else self.method


@dataclass(frozen=True)
class Budget:
    """How long to train: `steps`, or `seconds`, which become steps when a step has been timed."""

    steps: int = 0
    seconds: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Budget:
        """``2000`` or ``2000steps``, ``90s``, ``5m``, ``1h``. Raises NetwrightError."""
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(steps?|s|sec|m|min|h)?\s*", text)
        if not found or not float(found[1]):
            raise NetwrightError(f"--budget {text!r} is neither steps nor time. Write for example 2000 (steps), 90s, 5m or 1h.")
        unit = found[2] or "steps"
        if unit.startswith("step"):
            return cls(steps=max(1, int(float(found[1]))))
        return cls(seconds=float(found[1]) * {"s": 1, "m": 60, "h": 3600}[unit[0]])


def products(graph: Graph) -> dict[int, int]:
    """Multiply-accumulates by the bits of the weights."""
    found: Counter[int] = Counter()
    for node in graph:
        if node.macs:
            bits = 1 if node.op[0] == "b" else int(node.attrs.get("bits", 8)) if node.op[0] == "q" else 32
            found[bits] += node.macs
    return dict(sorted(found.items()))


def weight_bytes(graph: Graph) -> int:
    """Bytes of all weights, codes of 3 to 7 bits counted as such."""
    if all(n.op[0] != "q" or "weight" not in n.weights for n in graph):
        return graph.weight_bytes
    return -(-compress.stored_bits(graph) // 8)


@dataclass
class Shrink(TrainedNetwork):
    """What is common to all attempts at compressing a network.

    Args:
        batch_size: images a step.
    """

    batch_size: int = 64
    history: list[Point] = field(default_factory=list)

    def expected(self, method: Compressor) -> Expected:
        """What the method will make of the network: its untrained result, counted."""
        trainee = method.prepare(deepcopy(self.module), self.example, self.calibration[:8])
        graph = trace(method.finish(trainee, self.calibration[:8]), self.example)
        nodes = kept(self.graph) if method.form != "float" else {}
        by_reason: dict[str, Counter[str]] = {}
        ops = {n.name: n.op for n in self.graph}
        for name, reason in nodes.items():
            by_reason.setdefault(reason, Counter())[ops.get(name, name)] += 1
        return Expected((self.graph.weight_bytes, weight_bytes(graph)), products(graph), by_reason, nodes)

    def data(self, augment: Sequence[str] = ()) -> TaskData:
        return TaskData(self.task, self.task.augmentation(tuple(augment)))

    def recipe(self, steps: int) -> Recipe:
        return Recipe(steps=steps, batch_size=self.batch_size, label_smoothing=0.0, distil_weight=0.7, distil_temperature=2.0,
                      evaluations=4, seed=self.seed)  # fmt: skip

    def steps(self, method: Compressor, budget: Budget, augment: Sequence[str] = ()) -> int:
        """Steps of a budget; a step is timed where the budget is a time."""
        if budget.steps or not method.stages:
            return max(1, budget.steps)
        trainee = method.prepare(deepcopy(self.module), self.example, self.calibration[:8])
        taken = []
        for steps in (2, 12):
            start = time.perf_counter()
            fit = Fitting(self.data(augment), self.recipe(steps).with_(evaluations=0, log_every=1000), self.module)
            fit(deepcopy(trainee), stage="", share=1.0, lr=1e-6, weight_decay=0.0)
            taken.append(time.perf_counter() - start)
        return max(1, int(budget.seconds / (1.1 * max(1e-6, taken[1] - taken[0]) / 10)))

    def run(
        self, method: Compressor, budget: Budget, *, lr: float = 1.0, augment: Sequence[str] = (), folder: Path | None = None
    ) -> tuple[GraphModule, Point]:
        """Compress; returns the network and its point.

        Args:
            budget: of the training, for methods that train.
            lr: factor on the learning rates that the method proposes.
            augment: names of augmentations.
            folder: keeps the state of the training, so that an interrupted run goes on; removed at the end.
        """
        start = time.perf_counter()
        asked = {"method": method.name, "fields": asdict(method), "budget": asdict(budget), "lr": lr, "augment": list(augment),
                 "data": self.task.fingerprint, "seed": self.seed}  # fmt: skip
        recipe = self.recipe(self._same_steps(folder, asked) or self.steps(method, budget, augment))
        if folder is not None:
            write_json(folder / "asked.json", {**asked, "steps": recipe.steps})
        fitting = Fitting(self.data(augment), recipe, self.module, folder, self.progress, f"{method.name}", lr)
        network = method.compress(deepcopy(self.module), self.example, self.calibration, fitting)
        graph = trace(network, self.example)
        fields = {k: v for k, v in asdict(method).items() if v != getattr(type(method)(), k)}
        sizes = (self.graph.weight_bytes, weight_bytes(graph))
        point = Point(method.name, fields, (self.accuracy, self.score(network)), sizes, round(time.perf_counter() - start, 1))
        self.history.append(point)
        if folder is not None:
            shutil.rmtree(folder)
        return network, point

    @staticmethod
    def _same_steps(folder: Path | None, asked: Mapping[str, Any]) -> int:
        """Steps of an interrupted run of the same kind, which a budget of time would count anew; else 0, in an empty folder."""
        if folder is None or not folder.exists():
            return 0
        kept = json.loads((folder / "asked.json").read_text()) if (folder / "asked.json").exists() else {}
        if {k: v for k, v in kept.items() if k != "steps"} == json.loads(json.dumps(asked)):
            return int(kept["steps"])
        shutil.rmtree(folder)
        return 0

    def bundle(self, network: nn.Module, method: Compressor, point: Point, out: Path) -> Bundle:
        """The compressed network as a bundle, with what is known about it."""
        info = {"method": point.label, "accuracy": point.accuracy[1], "float_accuracy": point.accuracy[0], "seed": self.seed,
                "task": self.task.to_json()}  # fmt: skip
        return write_bundle(trace(network, self.example), out, form=method.form, info=info)

    def check(self, point: Point, max_drop: float | None) -> None:
        """Raises AccuracyLost where more than `max_drop` points were lost; the message has the best point so far."""
        if max_drop is None or point.drop <= max_drop:
            return
        best = min(self.history, key=lambda p: p.drop)
        lost = f"{point.label} loses {point.drop:.2f} points ({point.accuracy[0]:.2%} -> {point.accuracy[1]:.2%})"
        found = f"{best.label} at {best.accuracy[1]:.2%} with {best.bytes[1]:,} bytes"
        raise AccuracyLost(
            f"{lost}; --max-drop allows {max_drop:g}. Best point found: {found}. "
            "Train longer (--budget), try another method (netwright compress --advise), or allow more."
        )

    def advise(
        self, attempts: Sequence[tuple[str, Mapping[str, Any]]], budget: Budget, max_drop: float = 1.0
    ) -> tuple[list[Point], Point | None, str]:
        """Try methods one after the other; returns all points, the recommended one and the reason in a sentence."""
        points = []
        for i, (name, options) in enumerate(attempts):
            if self.progress is not None:
                self.progress(i, len(attempts), f"advise: {name}")
            try:
                network, point = self.run(compress.CATALOGUE[name](**options), budget)
                point = Point(**{**vars(point), "latency_us": self.latency(network, 7)})
            except NetwrightError as error:
                point = Point(name, options, (self.accuracy, 0.0), (self.graph.weight_bytes, 0), 0.0, error=str(error))
            points.append(point)
        good = [p for p in points if not p.error and p.drop <= max_drop]
        if not good:
            return points, None, f"No method tried loses at most {max_drop:g} points; train longer, or allow more."
        chosen = min(good, key=lambda p: (p.bytes[1] * (p.latency_us or (1.0, 1.0))[1], p.drop))
        return points, chosen, (
            f"{chosen.label}: of the methods that lose at most {max_drop:g} points it has the least bytes times microseconds."
        )  # fmt: skip
