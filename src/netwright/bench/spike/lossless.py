"""Lossless conversion: whether it is, in how many steps, and what quantised activations cost.

Everything is compared as whole numbers: counts of spikes with quantised activations, sums of output currents with the quantised
network's, C programs with both.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from statistics import mean

import numpy as np
import torch
from torch import Tensor, nn

from netwright.bench.cells import Cells, Values
from netwright.bench.claim import Claim
from netwright.bench.spike.networks import Trained
from netwright.core.graph import Graph, Node
from netwright.deploy.c99 import build
from netwright.design.execute import GraphModule
from netwright.pipeline.fitting import Fitting, Progress, TaskData
from netwright.spike.convert import Lossless, QuantisedRNN, SpikingRNN
from netwright.spike.convert.lossless import spiking
from netwright.spike.encode import Analog
from netwright.spike.unroll import batch_size, steps_to_rest
from netwright.tasks import load_task
from netwright.train import fit
from netwright.train.evaluate import accuracy
from netwright.train.recipe import Recipe

BOUNDS: dict[str, tuple[str, float]] = {
    "lossless_mismatches": ("==", 0.0),
    "lossless_3bit_steps": ("<=", 10.0),
    "lossless_residual_4bit_gap_points": ("<=", 1.5),
    "rnn_morph_mismatches": ("==", 0.0),
}
SEEDS = (0, 1, 2)
INPUTS = 10_000  # test, training and random images of the digits network that are compared
COMPILED = 200  # of them that run in C as well
RESIDUAL = Recipe(steps=600, weight_decay=0.0, evaluations=2, label_smoothing=0.0, channels_last=True)
RNN = Recipe(steps=1200, weight_decay=0.0, evaluations=1, label_smoothing=0.0)
HIDDEN, ROWS = 64, 8


def sums(graph: Graph, x: Tensor) -> dict[str, Tensor]:
    """Counts of every layer of neurons and sums of the output, whole numbers, for x [N, ...]."""
    found: dict[str, Tensor] = {}
    module = GraphModule(graph).eval()
    with torch.no_grad():
        for part in x.split(batch_size(module)):
            kept: dict[str, Tensor] = {}

            def visit(node: Node, out: Tensor, kept: dict[str, Tensor] = kept) -> None:
                if node.op == "integrate":
                    kept[node.name] = out.reshape(node.attrs["steps"], -1, *out.shape[1:]).sum(0, dtype=torch.int32)
                elif node.op == "readout":
                    kept[node.name] = out

            module(part, visit=visit)
            for name, value in kept.items():
                found[name] = torch.cat([found[name], value]) if name in found else value
    return found


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> int:
    """Inputs for which any number differs."""
    return int(torch.stack([(a[k] != b[k]).flatten(1).any(1) for k in a]).any(0).sum())


class RowsRNN(nn.Module):
    """A recurrent network with rectifiers in floating point, the twin of `QuantisedRNN`."""

    def __init__(self, features: int, hidden: int, classes: int):
        super().__init__()
        self.rnn = nn.RNN(features, hidden, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(hidden, classes)
        with torch.no_grad():
            dict(self.rnn.named_parameters())["weight_hh_l0"].copy_(torch.eye(hidden) / 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.rnn(x)[0][:, -1])
        return logits


@dataclass
class Exactness:
    """The measurements, each giving claims."""

    cells: Cells
    progress: Progress | None = None

    def network(self, name: str) -> Trained:
        return Trained(name, self.cells, progress=self.progress)

    def mismatches(self) -> Iterator[Claim]:
        """Digits: the spiking network and its quantised one on test, training and random images, and the C program."""
        trained, converter = self.network("digits"), Lossless(bits=3)
        net = converter.prepare(trained.module, trained.calibration[:1], trained.calibration)
        graph, made = net.write(trained.calibration[:1])[0], converter.finish(net, trained.calibration)
        real = torch.cat([trained.test[0], trained.calibration])
        drawn = torch.rand(INPUTS - len(real), *real.shape[1:], generator=torch.Generator().manual_seed(0)) * float(real.max())
        x = torch.cat([real, drawn])
        quantised, spikes = sums(graph, x), sums(made.module.graph, x)
        wrong, late = differing(quantised, spikes), int((steps_to_rest(made.module, x) >= made.steps).sum())
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            compiled = build(made.module.graph, folder)
            got = np.concatenate([np.array(compiled.run_one(one[None].numpy())).reshape(1, -1) for one in x[:COMPILED]])
            wrong += int((got != GraphModule(graph).eval()(x[:COMPILED]).numpy()).any(1).sum())
        cifar = self.cifar()
        unit = "inputs for which a count, or the C program's output, differs from the quantised network"
        reference = {"name": "digits", "inputs": len(x), "in C": COMPILED, "not at rest in time": late, "T": made.steps,
                     "cifar": cifar["inputs"]}  # fmt: skip
        compared = len(x) + COMPILED + cifar["inputs"]
        yield Claim("lossless_mismatches", float(wrong + cifar["mismatches"]), unit, "measured", compared, None, reference)

    def cifar(self) -> Values:
        """The plain CNN in 3 bits at a budget of ten steps: steps that its test images need, of twice as many."""
        trained, converter = self.network("cifar"), Lossless(bits=3, steps=10, images=128)

        def make() -> Values:
            x, y = trained.test
            net = converter.prepare(trained.module, trained.calibration[:1], trained.calibration)
            graph = net.write(x[:1])[0]
            longer = spiking(graph, 2 * converter.steps)
            steps = steps_to_rest(GraphModule(longer).eval(), x)
            few = x[:500]
            wrong = differing(sums(graph, few), sums(spiking(graph, int(steps.max())), few))
            return {"levels": net.levels, "most": int(steps.max()), "mean": float(steps.double().mean()), "images": len(x),
                    "late": int((steps > converter.steps).sum()), "mismatches": wrong, "inputs": len(few),
                    "accuracy": accuracy(net, (x, y)), "float": trained.accuracy}  # fmt: skip

        key = {"network": "cifar", "recipe": trained.recipe.to_json(), "fields": asdict(converter), "test": 2000}
        return self.cells.get("lossless-cifar-3bit", key, make)

    def steps(self) -> Iterator[Claim]:
        found = self.cifar()
        reference = {"name": f"counts 0..{found['levels']}", "mean": round(found["mean"], 2),
                     "points below float": round(100 * (found["float"] - found["accuracy"]), 2)}  # fmt: skip
        unit = "steps, the most that a test image needs until no neuron fires any more"
        yield Claim("lossless_3bit_steps", float(found["most"]), unit, "measured", found["images"], None, reference)

    def residual(self) -> Iterator[Claim]:
        """The residual network in 4 bits, calibrated and then trained; its spiking form on a few test images."""
        trained, converter = self.network("residual"), Lossless(bits=4)

        def make() -> Values:
            calibration, (x, y) = trained.calibration, trained.test
            net = converter.prepare(trained.module, calibration[:1], calibration)
            found: Values = {"float": trained.accuracy, "calibrated": accuracy(net, (x, y))}
            training = Fitting(trained.data, RESIDUAL, trained.module, progress=self.progress, name="lossless")
            training(net, stage=converter.name, share=1.0, lr=converter.lr, weight_decay=0.0)
            found["trained"] = accuracy(net.eval(), (x, y))
            made, few = converter.finish(net, calibration[:256]), x[:100]
            found |= {"steps": made.steps, "most": int(steps_to_rest(made.module, few).max()), "inputs": len(few)}
            found["mismatches"] = differing(sums(net.write(few[:1])[0], few), sums(made.module.graph, few))
            return found

        key = {"network": "residual", "recipe": trained.recipe.to_json(), "training": RESIDUAL.to_json(),
               "fields": asdict(converter), "test": 2000}  # fmt: skip
        found = self.cells.get("lossless-residual-4bit", key, make)
        points = {k: round(100 * found[k], 2) for k in ("calibrated", "trained")}
        reference = {"name": "float", "accuracy": round(100 * found["float"], 2), **points, "T": found["steps"]}
        unit = "points of test accuracy below the float network"
        gap = 100 * (found["float"] - found["trained"])
        yield Claim("lossless_residual_4bit_gap_points", gap, unit, "measured", 2000, None, reference)

    def recurrent(self) -> Iterator[Claim]:
        """Digits read by rows: a float RNN, the quantised one and its spiking form."""
        task = load_task("digits", seed=0)
        data, (x, y) = TaskData(task, task.augmentation(("shift",))), (task.test.x, task.test.y)

        def make(seed: int) -> Values:
            torch.manual_seed(seed)
            recipe = RNN.with_(seed=seed)
            rows = nn.Flatten(1, 2)
            twin = fit(nn.Sequential(rows, RowsRNN(8, HIDDEN, 10)), data, recipe, progress=self.progress).module
            calibration = task.train.x
            net = QuantisedRNN(8, (HIDDEN,), 10, bits=3, code=Analog().code(calibration))
            net.calibrate(rows(calibration))
            fit(nn.Sequential(rows, net), data, recipe, progress=self.progress)
            spikes = SpikingRNN(net.eval())
            everything = rows(torch.cat([x, calibration]))
            with torch.no_grad():
                wrong = int((spikes(everything) != net(everything)).any(1).sum())
            steps = spikes.run(everything)[1]
            return {"float": accuracy(twin, (x, y)), "quantised": accuracy(nn.Sequential(rows, net), (x, y)),
                    "mismatches": wrong, "inputs": len(everything), "most": int(steps.max()),
                    "mean": float(steps.double().mean())}  # fmt: skip

        key = {"task": "digits, rows", "recipe": RNN.to_json(), "hidden": HIDDEN, "bits": 3}
        found = [self.cells.get(f"lossless-rnn-{s}", {**key, "seed": s}, partial(make, s)) for s in SEEDS]
        reference = {"name": "float RNN", "accuracy": round(100 * mean(v["float"] for v in found), 2),
                     "quantised and spiking": round(100 * mean(v["quantised"] for v in found), 2),
                     "most steps an element": max(v["most"] for v in found)}  # fmt: skip
        wrong, compared = (sum(v[k] for v in found) for k in ("mismatches", "inputs"))
        unit = "sequences whose output differs from the quantised RNN's, 3 bits, 3 seeds"
        yield Claim("rnn_morph_mismatches", float(wrong), unit, "measured", compared, None, reference)
