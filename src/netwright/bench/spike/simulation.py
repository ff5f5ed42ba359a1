"""Simulation: images per second of the simulator and of the compiled network beside SpikingJelly and snnTorch.

The same trained network, thresholds and images, one thread, all times of one number of steps interleaved in one run. The peers
get weights with batch norm and thresholds folded in, so that they run nothing but convolutions, pooling and neurons; every
form they have is tried (step by step, all steps of a layer at once, each also through torch.compile) at several batch sizes, and
what is fastest here, found before the run that counts, is what they are compared by.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from netwright.bench.cells import Cells
from netwright.bench.claim import Claim
from netwright.bench.spike.networks import Trained
from netwright.core.cost import Quantity
from netwright.core.errors import MissingExtra
from netwright.deploy.c99 import build
from netwright.deploy.simulate import simulate
from netwright.measure.latency import time_side_by_side
from netwright.measure.machine import machine
from netwright.pipeline.fitting import Progress
from netwright.spike.convert import LocalThresholdBalancing, Spiking

BOUNDS: dict[str, tuple[str, float]] = {
    "simulate_portable_vs_spikingjelly_best": (">=", 3.0),
    "simulate_portable_vs_snntorch": (">=", 4.0),
    "simulate_amx_vs_spikingjelly_best": (">=", 15.0),
    "compiled_integer_vs_spikingjelly_best": (">=", 10.0),
    "simulate_mismatches": ("==", 0.0),
}
FLOAT, INT8, PROGRAM, LAST = "netwright float", "netwright int8", "netwright C", torch.channels_last
OWN = " without torch.compile"


@dataclass(frozen=True)
class Timed:
    """One way to run `images` images."""

    images: int
    run: Callable[[], object]

    def quick(self) -> float:
        """Seconds an image, the better of two runs after one that warms up."""
        self.run()
        took = []
        for _ in range(2):
            start = time.perf_counter()
            self.run()
            took.append(time.perf_counter() - start)
        return min(took) / self.images


def folded(network: nn.Module, made: Spiking) -> list[nn.Module]:
    """The layers of the plain CNN, whose rectifiers become neurons that fire at 1."""
    layers: list[Any] = []
    for layer in deepcopy(network).children():
        if isinstance(layer, nn.BatchNorm2d):
            layers[-1] = fuse_conv_bn_eval(layers[-1], layer)
        else:
            layers.append(layer)
    weighted: list[Any] = [layer for layer in layers if isinstance(layer, (nn.Conv2d, nn.Linear))]
    thresholds = [*(t.to(torch.float32) for t in made.thresholds.values()), torch.ones(1)]
    worth = torch.ones(1)  # of the spikes that a layer reads
    for layer, theta in zip(weighted, thresholds, strict=True):
        rank = layer.weight.dim()
        read = worth.repeat_interleave(layer.weight.shape[1] // len(worth)).reshape(1, -1, *[1] * (rank - 2))
        layer.weight = nn.Parameter((layer.weight * read / theta.reshape(-1, *[1] * (rank - 1))).detach())
        layer.bias = nn.Parameter((layer.bias / theta).detach())
        worth = theta
    return layers


def _channels_last(module: nn.Module) -> nn.Module:
    for p in module.parameters():
        if p.dim() == 4:
            p.data = p.data.contiguous(memory_format=LAST)
    return module


def spikingjelly(layers: list[nn.Module], steps: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """x [N, C, H, W] -> sum of the output over all steps, in every form SpikingJelly has on a CPU."""
    from spikingjelly.activation_based import functional, layer, neuron

    def network(mode: str) -> nn.Module:
        made: list[nn.Module] = []
        for old in layers:
            if isinstance(old, nn.ReLU):
                made.append(neuron.IFNode(v_threshold=1.0, v_reset=None))
            elif isinstance(old, nn.Conv2d):
                new: Any = layer.Conv2d(old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding)
                new.load_state_dict(old.state_dict())
                made.append(new)
            elif isinstance(old, nn.Linear):
                new = layer.Linear(old.in_features, old.out_features)
                new.load_state_dict(old.state_dict())
                made.append(new)
            else:
                made.append(layer.AvgPool2d(2) if isinstance(old, nn.AvgPool2d) else layer.Flatten())
        net = _channels_last(nn.Sequential(*made).eval())
        functional.set_step_mode(net, mode)
        return net

    single, multi = network("s"), network("m")

    def loop(x: Tensor) -> Tensor:
        functional.reset_net(single)
        total = single(x)
        for _ in range(steps - 1):
            total = total + single(x)
        return total

    def together(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        functional.reset_net(multi)
        return net(x.expand(steps, *x.shape)).sum(0)

    return {
        "step by step": loop,
        "step by step, compiled": torch.compile(loop),
        "all steps": partial(together, multi),
        "all steps, compiled": partial(together, torch.compile(multi)),
    }


def snntorch(layers: list[nn.Module], steps: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """As `spikingjelly`, of snnTorch."""
    from snntorch import Leaky

    made = [Leaky(beta=1.0, reset_mechanism="subtract") if isinstance(old, nn.ReLU) else deepcopy(old) for old in layers]
    net = [_channels_last(layer.eval()) for layer in made]

    def loop(x: Tensor) -> Tensor:
        memory = {i: layer.init_leaky() for i, layer in enumerate(net) if isinstance(layer, Leaky)}
        total = torch.zeros(())
        for _ in range(steps):
            h = x
            for i, layer in enumerate(net):
                if i in memory:
                    h, memory[i] = layer(h, memory[i])
                else:
                    h = layer(h)
            total = total + h
        return total

    return {"step by step": loop, "step by step, compiled": torch.compile(loop)}


@dataclass
class Simulation:
    """The measurements.

    Args:
        cells: for the trained network.
        rounds: of the interleaved timing.
        network: "cifar" or "digits".
    """

    cells: Cells
    rounds: int = 11
    network: str = "cifar"
    progress: Progress | None = None

    steps: ClassVar[tuple[int, ...]] = (8, 32)
    batches: ClassVar[tuple[int, ...]] = (8, 64)
    peers: ClassVar[dict[str, Callable[[list[nn.Module], int], dict[str, Callable[[Tensor], Tensor]]]]] = {
        "spikingjelly": spikingjelly,
        "snntorch": snntorch,
    }

    @cached_property
    def trained(self) -> Trained:
        return Trained(self.network, self.cells, progress=self.progress)

    def converted(self, steps: int) -> Spiking:
        """Speed does not ask for the best thresholds, only for real ones."""
        converter = LocalThresholdBalancing(steps=steps, iterations=16, images=64)
        return converter.convert(self.trained.module, self.trained.calibration[:1], self.trained.calibration[:1024])

    def peer(self, name: str, layers: list[nn.Module], steps: int, x: Tensor) -> tuple[dict[str, float], Timed, Timed]:
        """Images per second of every form, the fastest first, the fastest, and the fastest without torch.compile."""
        tried: dict[str, tuple[float, Timed]] = {}
        for n in self.batches:
            torch._dynamo.reset()  # shapes of another batch would make later forms slower
            for form, run in self.peers[name](layers, steps).items():
                timed = Timed(n, partial(run, x[:n].contiguous(memory_format=LAST)))
                try:
                    tried[f"{name} {form}, batch {n}"] = (timed.quick(), timed)
                except Exception as error:  # a form that cannot be compiled here is no candidate
                    if "compiled" not in form:
                        raise
                    tried[f"{name} {form}, batch {n}: {type(error).__name__}"] = (float("inf"), timed)
        order = sorted(tried, key=lambda key: tried[key][0])
        own = next(key for key in order if "compiled" not in key)
        return {key: round(1 / tried[key][0], 1) for key in order}, tried[order[0]][1], tried[own][1]

    def time(self, steps: int) -> tuple[dict[str, Quantity], dict[str, dict[str, float]], int]:
        """Microseconds an image of everything that runs here, images per second of each peer's forms, and wrong logits."""
        torch.set_num_threads(1)
        made, x = self.converted(steps), self.trained.test[0][:64]
        graph = made.module.graph
        runs = {"float": simulate(graph, "float"), "int8": simulate(graph, "int8")}
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            program = build(graph, Path(folder))
            expected = made.module(x)
            outputs = [run(x) for run in runs.values()] + [torch.from_numpy(program.run(x.numpy()))]
            wrong = sum(int((out != expected).sum()) for out in outputs)
            timed = {FLOAT: Timed(64, partial(runs["float"], x)), INT8: Timed(64, partial(runs["int8"], x)),
                     PROGRAM: Timed(64, partial(program.run, x.numpy()))}  # fmt: skip
            layers = folded(self.trained.module, made)
            names: dict[str, dict[str, float]] = {}
            for peer in self.peers:
                if importlib.util.find_spec(peer) is not None:
                    names[peer], timed[peer], timed[f"{peer}{OWN}"] = self.peer(peer, layers, steps, x)
            took = time_side_by_side({k: t.run for k, t in timed.items()}, rounds=self.rounds, warmup=1, min_batch_us=1.0)
        return {k: _per_image(q, timed[k].images) for k, q in took.items()}, names, wrong

    def claims(self) -> Iterator[Claim]:
        results = {steps: self.time(steps) for steps in self.steps}
        amx = "amx_int8" in machine()["isa"]
        asked = {
            "simulate_portable_vs_spikingjelly_best": (FLOAT, "spikingjelly", ""),
            "simulate_portable_vs_snntorch": (FLOAT, "snntorch", ""),
            "simulate_amx_vs_spikingjelly_best": (INT8, "spikingjelly", "" if amx else "This processor has no AMX."),
            "compiled_integer_vs_spikingjelly_best": (PROGRAM, "spikingjelly", ""),
        }
        for id, (ours, peer, why) in asked.items():
            unit = f"times faster, medians, 1 thread, batch 64, the worse of T = {' and '.join(map(str, self.steps))}"
            if any(peer not in took for took, _, _ in results.values()):
                why = str(MissingExtra(f"The comparison with {peer}", "snn"))
                yield Claim(id, None, unit, "measured", 0, why=why)
                continue
            ratios = {steps: took[peer].value / took[ours].value for steps, (took, _, _) in results.items()}
            worst = min(ratios, key=lambda s: ratios[s])
            low, high = _ends(results[worst][0][peer], results[worst][0][ours])
            reference: dict[str, Any] = {"name": next(iter(results[worst][1][peer]))}
            for steps, (took, _, _) in results.items():
                reference[f"T{steps}"] = round(ratios[steps], 2)
                reference[f"T{steps}{OWN}"] = round(took[f"{peer}{OWN}"].value / took[ours].value, 2)
                reference |= {f"T{steps} {k} img/s": round(1e6 / q.value, 1) for k, q in took.items()}
            reference["forms tried"] = {steps: names[peer] for steps, (_, names, _) in results.items()}
            value, spread = (None, None) if why else (ratios[worst], (low, high))
            yield Claim(id, value, unit, "measured", self.rounds, spread, reference, why)
        wrong = sum(count for _, _, count in results.values())
        unit = "logits that differ from the integer graph's, both modes and the C program"
        count = 3 * len(results) * 64 * len(self.trained.task.classes)
        yield Claim("simulate_mismatches", float(wrong), unit, "measured", count)


def _per_image(q: Quantity, images: int) -> Quantity:
    low, high = q.spread or (q.value, q.value)
    return Quantity(q.value / images, q.unit, q.how, (low / images, high / images), q.note)


def _ends(theirs: Quantity, ours: Quantity) -> tuple[float, float]:
    """Quotients of the slow ends and of the fast ends."""
    (a_low, a_high), (b_low, b_high) = ours.spread or (0.0, 0.0), theirs.spread or (0.0, 0.0)
    low, high = sorted((b_low / a_low, b_high / a_high))
    return round(low, 3), round(high, 3)
