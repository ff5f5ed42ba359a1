"""Time as a resource: the steps that Dynamic Confidence saves at the accuracy of all steps, and energy in three columns.

Networks are converted by local threshold balancing. The exit is chosen on validation images alone and counted on all test
images; the fewest steps that a fixed stop needs, chosen in the same way on the same images, stand beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from netwright.bench.cells import Cells, Values
from netwright.bench.claim import Claim
from netwright.bench.spike.networks import Trained
from netwright.core.target import Target
from netwright.design.execute import GraphModule
from netwright.estimate.spiking import spiking_energy
from netwright.pipeline.fitting import Progress
from netwright.spike.convert import LocalThresholdBalancing
from netwright.spike.exits.dynamic_confidence import choose
from netwright.spike.unroll import batch_size, delayed, output_over_time
from netwright.tasks.task import Split

BOUNDS: dict[str, tuple[str, float]] = {"dynamic_confidence_speedup_at_equal_accuracy": (">=", 1.5)}
EPSILON = 0.001  # the share of right answers that counts as equal
STEPS, SMALL = 16, 8


def simulated(module: GraphModule, split: Split) -> tuple[Tensor, Tensor]:
    """`output_over_time` of a whole split."""
    index = torch.arange(len(split)).split(batch_size(module))
    parts = [output_over_time(module, split.tensor(i)) for i in index]
    return torch.cat([total for total, _ in parts], 1), parts[0][1]


@dataclass
class Exits:
    """The measurements, each giving claims.

    Attributes:
        held: validation images that choose the exit.
        guard: standard errors that the paired loss on them must keep within `EPSILON`; 2.326 is 99 % confidence.
    """

    cells: Cells
    progress: Progress | None = None
    held: int = 5000
    guard: float = 2.326

    columns: ClassVar[tuple[str, ...]] = ("operations", "float_operations", "memory", "matched", "int8")

    @cached_property
    def networks(self) -> dict[str, Trained]:
        return {name: Trained(name, self.cells, progress=self.progress) for name in ("digits", "cifar")}

    def measured(self, name: str, steps: int) -> Values:
        """Accuracy and mean steps on test images with and without the exit, and the energy of all steps."""
        converter = LocalThresholdBalancing(steps=steps)
        net = self.networks[name]

        def make() -> Values:
            made = converter.convert(net.module, net.calibration[:1], net.calibration)
            held = net.task.validation.subset(torch.arange(min(self.held, len(net.task.validation))))
            delay = made.module.graph["readout"].attrs["delay"]
            totals, unit = simulated(made.module, held)
            found = choose(totals, unit, held.y, made.start, range(made.start + 1), epsilon=EPSILON, guard=self.guard)
            fixed = self._fixed(delayed(totals, unit, delay).argmax(2) == held.y)
            totals, unit = simulated(made.module, net.task.test)
            sums = (totals[found.chosen.start + 1 :] - totals[found.chosen.start]) * unit
            at, y = found.rule.stops(sums), net.task.test.y
            taken = at + found.chosen.start + 1
            right = (sums.argmax(2) == y).gather(0, at[None])
            over_time = (delayed(totals, unit, delay).argmax(2) == y).double().mean(1)
            energy = spiking_energy(made.module.to_graph(), Target.load("cmos45"))
            return {
                "float": net.accuracy, "accuracy": float(right.double().mean()), "mean_steps": float(taken.double().mean()),
                "histogram": torch.bincount(taken - 1, minlength=steps).tolist(), "over_time": over_time.tolist(),
                "fixed_steps": fixed, "chosen": asdict(found.chosen), "full_held_out": found.full, "images": len(y),
                "verdict": energy.verdict, "acs": energy.acs, "analog_macs": energy.analog_macs, "macs": energy.macs,
                "spikes_per_neuron": energy.spikes / energy.neurons, "bits": energy.bits,
                "pj": {c: getattr(energy, c).total for c in self.columns},
            }  # fmt: skip

        key: dict[str, Any] = {"network": name, "recipe": net.recipe.to_json(), "method": repr(converter), "held": self.held,
                               "guard": self.guard, "epsilon": EPSILON}  # fmt: skip
        return self.cells.get(f"exit-{name}-{steps}", key, make)

    def energies(self, rows: Mapping[str, tuple[str, int]]) -> dict[str, Any]:
        """The energy of all steps, by network and T: what stands in the three columns, in uJ."""
        found = {}
        for title, (name, steps) in rows.items():
            v = self.measured(name, steps)
            uj = {column: round(v["pj"][column] / 1e6, 3) for column in self.columns}
            found[f"uJ, {title}"] = {**uj, "M additions": round(v["acs"] / 1e6, 3), "M first-layer products": round(
                v["analog_macs"] / 1e6, 3), "M dense products": round(v["macs"] / 1e6, 3)}  # fmt: skip
        return found

    def _fixed(self, right: Tensor) -> int:
        """The fewest steps at which all inputs may stop, by the rule that the exit is chosen by; right [T, N]."""
        loss = right[-1].double() - right.double()
        fits = loss.mean(1) + self.guard * loss.std(1, correction=0) / right.shape[1] ** 0.5 <= EPSILON
        return int(fits.int().argmax()) + 1

    def claims(self) -> Iterator[Claim]:
        """T by the mean number of steps, where the accuracy on test images is that of all T steps within 0.1 point."""
        found, small = self.measured("cifar", STEPS), self.measured("cifar", SMALL)
        (id,) = BOUNDS
        full, fixed = found["over_time"][-1], found["fixed_steps"]
        reference = {
            "name": f"all {STEPS} steps", "all steps": round(100 * full, 2), "exit": round(100 * found["accuracy"], 2),
            "mean steps": round(found["mean_steps"], 3), "float": round(100 * found["float"], 2), "fixed stop": fixed,
            "fixed stop accuracy": round(100 * found["over_time"][fixed - 1], 2),
            f"times fewer at T = {SMALL}": round(SMALL / small["mean_steps"], 3),
            f"points lost at T = {SMALL}": round(100 * (small["over_time"][-1] - small["accuracy"]), 2),
            **self.energies({f"{name}, T = {t}": (name, t) for name, t in (("digits", 4), ("cifar", SMALL), ("cifar", STEPS))}),
        }  # fmt: skip
        unit = f"times fewer steps than T = {STEPS} on average, local threshold balancing"
        lost = full - found["accuracy"]
        equal = lost <= EPSILON + 1e-9
        why = "" if equal else f"the exit loses {100 * lost:.2f} points of accuracy"
        value = round(STEPS / found["mean_steps"], 4) if equal else None
        yield Claim(id, value, unit, "measured", found["images"], None, reference, why)
