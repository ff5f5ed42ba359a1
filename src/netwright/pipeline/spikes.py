"""Spikes: a user's network on a user's data, converted to a spiking one by one method or by the best of several.

Methods are judged on calibration images; the test split only says how good the result is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from netwright.core.errors import NetwrightError
from netwright.core.target import Target
from netwright.deploy.bundle import Bundle, write_bundle
from netwright.design import trace
from netwright.estimate import SpikingEnergy, spiking_energy
from netwright.pipeline.fitting import Fitting, TaskData
from netwright.pipeline.trained import TrainedNetwork
from netwright.spike import exits, unroll
from netwright.spike.convert import Approximation, Auto, Choice, Converter, Fit, Spiking, approximate, unsupported
from netwright.spike.layers import Spiking as SpikingLayer
from netwright.spike.models.family import Recurrent
from netwright.train.recipe import Recipe

STEPS = (1, 2, 4, 8, 16, 32)  # what --auto tries
BOTH: Mapping[str, Any] = {"fit, binary": Fit(), "fit, bipolar": Fit(neuron="bipolar")}
RATED = 512  # test images on which spikes are counted
LOSS = 0.001  # share of right answers that stopping early may cost, on the validation split


class AccuracyMissed(NetwrightError):
    """The spiking network is worse than was allowed."""


@dataclass(frozen=True)
class Measured:
    """A spiking network on the test split.

    Attributes:
        method: that made it.
        over_time: accuracy after 1..T steps, in [0, 1]; `accuracy` is the float network's.
        health: spike rates, dead and saturated neurons of every layer.
        seconds: that the conversion took.
    """

    method: str
    made: Spiking
    accuracy: float
    over_time: tuple[float, ...]
    health: Mapping[str, unroll.Health]
    seconds: float

    @property
    def drop(self) -> float:
        """Points of accuracy lost after all steps."""
        return 100 * (self.accuracy - self.over_time[-1])

    def facts(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "method": self.method, "steps": self.made.steps, "start": self.made.start, "float_accuracy": self.accuracy,
            "accuracy": self.over_time[-1], "accuracy_over_time": list(self.over_time), "drop_points": self.drop,
            "synaptic_operations": self.made.operations, "seconds": self.seconds,
            "layers": [{**asdict(layer), **({"health": asdict(h), "ailments": list(h.ailments)} if h else {})}
                       for layer, h in ((la, self.health.get(la.name)) for la in self.made.layers)],
        }  # fmt: skip


@dataclass
class Spikes(TrainedNetwork):
    """Attempts at converting a network.

    Args:
        calibration_size: training images that thresholds, weights and the choice are made on.

    Raises:
        NetwrightError: as `TrainedNetwork`, and for a network that is spiking already.
    """

    calibration_size: int = 2048

    def __post_init__(self) -> None:
        if any(isinstance(m, (SpikingLayer, Recurrent)) for m in self.module.modules()):
            raise NetwrightError(
                "This network is made of spiking neurons already: it does not convert. Compile it with `netwright deploy`, or "
                "convert a float network."
            )
        super().__post_init__()

    @cached_property
    def approximated(self) -> Approximation:
        """What stands for functions that no neuron computes.

        Raises:
            NetwrightError: layers that cannot be converted, all of them, each with its reason.
        """
        graph, found = approximate(self.graph, self.calibration)
        if reasons := unsupported(graph):
            raise NetwrightError("This network does not convert to spikes:\n  " + "\n  ".join(reasons))
        return found

    @cached_property
    def test(self) -> tuple[Tensor, Tensor]:
        return self.task.test.x, self.task.test.y

    def convert(self, method: Converter, train_steps: int = 2000) -> Measured:
        """By one method; `train_steps` are for those that train."""
        start = time.perf_counter()
        recipe = Recipe(steps=train_steps, label_smoothing=0.0, distil_weight=0.7, distil_temperature=2.0, evaluations=4,
                        seed=self.seed)  # fmt: skip
        fitting = Fitting(TaskData(self.task, self.task.augmentation(())), recipe, self.module, None, self.progress, method.name)
        made = method.convert(deepcopy(self.module), self.example, self.calibration, self.progress,
                              fitting if method.trains else None)  # fmt: skip
        return self.measure(made, method.name, time.perf_counter() - start)

    def choose(self, wanted: Sequence[int] = STEPS, tried: Mapping[str, Any] | None = None, binary: bool = False) -> Choice:
        """Several methods at several T, judged on held-out calibration images; `binary` allows spikes of 0 and 1 only."""
        auto = Auto(tried=dict(tried) if tried is not None else None, binary=binary)
        return auto.choose(deepcopy(self.module), self.example, self.calibration, wanted, self.progress)

    def measure(self, made: Spiking, method: str, seconds: float) -> Measured:
        """Accuracy over time and the state of the neurons, on the test split."""
        over_time = tuple(unroll.accuracy_over_time(made.module, self.test))
        health = unroll.health(made.module, self.test[0][:RATED])
        return Measured(method, made, self.accuracy, over_time, health, round(seconds, 1))

    def exit(self, made: Spiking) -> exits.CalibratedExit:
        """Dynamic confidence, calibrated on the validation split."""
        return exits.calibrate(made.module, (self.task.validation.x, self.task.validation.y), epsilon=LOSS)

    def energy(self, made: Spiking, target: str = "cmos45") -> SpikingEnergy:
        """Modelled, in three columns, with the spike rates of the calibration images."""
        return spiking_energy(made.module.to_graph(), Target.load(target))

    def bundle(self, found: Measured, out: Path, early: exits.CalibratedExit | None = None) -> Bundle:
        """The spiking network as a bundle; with `early` its program stops as soon as it is sure."""
        module = found.made.module if early is None else early.network(found.made.module)
        info = {**found.facts(), "seed": self.seed, "task": self.task.to_json()}
        if early is not None:
            info["exit"] = early.to_json()
        graph = trace(module, self.example)
        return write_bundle(graph, out, form="spiking", info=info, tree=None if early is None else early.rule.control)

    @staticmethod
    def require(found: Measured, max_drop: float | None) -> None:
        """Raises AccuracyMissed where more than `max_drop` points are lost."""
        if max_drop is not None and found.drop > max_drop:
            raise AccuracyMissed(
                f"{found.method} at T = {found.made.steps} loses {found.drop:.2f} points ({found.accuracy:.2%} -> "
                f"{found.over_time[-1]:.2%}); --max-drop allows {max_drop:g}. Take more steps, or let --auto choose."
            )


def seeded(steps: int, seed: int, method: type[Converter], options: Mapping[str, Any]) -> Converter:
    """A method with T and, where it has one, the seed."""
    known = {"steps": steps, "seed": seed}
    fields = {k: v for k, v in known.items() if k in method.__dataclass_fields__ and k not in options}  # type: ignore[attr-defined]
    return method(**fields, **options)
