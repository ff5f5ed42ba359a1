"""Costing: what is known of a network's cost before and after it runs here; the facts of `netwright estimate` and its page.

Counted and modelled figures need the Graph alone. Latency is measured operator by operator in the engine that the network is
given for: a module in PyTorch, as `torch.export` writes it; a bundle as the C file of this machine. Peaks are those that the
target's data sheet states, or the best that has been seen here: that any kernel of ours or of PyTorch reaches on an operation
that suits it (a square product, a copy larger than the caches, a convolution of 256 by 256 channels), or that a layer of the
network itself reaches, should a busy machine have slowed the former.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netwright.core.cost import Cost, Quantity
from netwright.core.errors import NetwrightError
from netwright.core.graph import Graph, Node, Spec
from netwright.core.target import Target
from netwright.deploy.bundle import Bundle
from netwright.deploy.profile import profile
from netwright.design.draw import draw
from netwright.design.trace import exported, trace
from netwright.estimate.count import cost, table
from netwright.estimate.memory import timeline
from netwright.estimate.roofline import Roofline, kind, machine_peak, roofline
from netwright.measure.latency import time_side_by_side
from netwright.measure.machine import machine
from netwright.measure.operators import threads_set, time_operators

CHANNELS, SIDE = 256, 16  # of the layer whose kernel stands for the peak of codes and signs
LAYERS = {"mac_int8": ("qconv2d", 8), "mac_binary": ("bconv2d", 1)}


@dataclass(frozen=True)
class Timing:
    """A network timed on one number of threads: each operator by the name of its node, and the whole."""

    engine: str
    threads: int
    operators: Mapping[str, Quantity]
    whole: Quantity
    peak: Mapping[str, Quantity]

    @property
    def elsewhere(self) -> float:
        """Microseconds of the whole that no operator of the graph has: views, shape arithmetic, the engine between operators."""
        return self.whole.value - sum(q.value for q in self.operators.values())


def friendly(of: str) -> Graph:
    """A network around one convolution that suits a kernel of codes (``mac_int8``) or signs (``mac_binary``)."""
    op, bits = LAYERS[of]
    codes = np.random.default_rng(0).choice([-1, 1] if bits == 1 else [-2, -1, 1, 2], (CHANNELS, CHANNELS, 3, 3)).astype(np.int8)
    values: dict[str, np.ndarray] = {"w": codes, "s": np.ones(1, np.float32)}
    wide = Spec((1, CHANNELS, SIDE, SIDE))
    attrs = {"stride": [1, 1], "pads": [1] * 4, "dilation": [1, 1], "groups": 1, "lo": -127, "hi": 127, "bits": bits}
    nodes = (
        Node("x", "input", (), wide),
        Node("q", "quantize", ("x",), replace(wide, bits=8, kind="int"), {"scale": 0.03, "lo": -127, "hi": 127}),
        Node("c", op, ("q",), replace(wide, kind="int"), attrs, {"weight": "w"}, codes.size * SIDE * SIDE),
        Node("y", "dequantize", ("c",), wide, {}, {"scale": "s"}),
    )
    return Graph(nodes, ("y",), {"w": Spec(codes.shape, bits, "int"), "s": Spec((1,))}, values)


def peaks_here(graph: Graph, threads: int = 1, rounds: int = 20) -> dict[str, Quantity]:
    """The most that this machine has been seen to do, a second, for every kind of product that the graph has, and for bytes.

    Raises:
        CompilerError: codes or signs, and no C compiler.
    """
    with threads_set(threads):
        best = machine_peak(partial(time_side_by_side, rounds=rounds, warmup=2, threads=threads))
    notes = {"mac_float32": "PyTorch, product of two matrices of 512 by 512", "byte": "PyTorch, copy of 256 MB"}
    plural = "s" * (threads != 1)
    with tempfile.TemporaryDirectory() as folder:
        for of in sorted({kind(graph, n) for n in graph if n.macs} & LAYERS.keys()):
            layer = friendly(of)
            took = profile(layer, Path(folder) / of, rounds=rounds, threads=threads)["c"]
            best[of] = layer.macs / ((took.spread or (took.value, 0))[0] * 1e-6)
            notes[of] = f"our C kernel, 3x3 convolution of {CHANNELS} by {CHANNELS} channels at {SIDE}x{SIDE}"
    units = {of: "B/s" if of == "byte" else "MAC/s" for of in best}
    return {of: Quantity(v, units[of], "measured", note=f"{notes[of]}, {threads} thread{plural}") for of, v in best.items()}


def raised(peak: Mapping[str, Quantity], graph: Graph, operators: Mapping[str, Quantity]) -> dict[str, Quantity]:
    """The peaks of arithmetic, each at least what the fastest layer of that kind has reached."""
    found = dict(peak)
    for node in graph:
        took = operators.get(node.name)
        low = (took.spread or (took.value, 0))[0] if took else 0.0
        of = kind(graph, node)
        if node.macs and low and (rate := node.macs * node.spec.steps / (low * 1e-6)) > found[of].value:
            found[of] = Quantity(rate, "MAC/s", "measured", note=f"{node.path or node.name} of the network itself")
    return found


def stated_peaks(target: Target) -> dict[str, Quantity]:
    """The peaks of a target's data sheet, each with its source; "modelled": nobody has measured them here."""
    units = {of: "B/s" if of == "byte" else "MAC/s" for of in target.peak}
    notes = {of: target.source.get(f"peak.{of}", "no source given") for of in target.peak}
    return {of: Quantity(v, units[of], "modelled", note=f"{target.name}: {notes[of]}") for of, v in target.peak.items()}


def time_module(
    module: nn.Module, example: tuple[Tensor, ...], threads: Sequence[int], rounds: int
) -> tuple[Graph, list[Timing]]:
    """A module in PyTorch, on each number of threads; the graph is that of the exported program that is timed.

    Raises:
        TraceError: it cannot be exported.
    """
    program = exported(module, example)
    graph, found = trace(program), []
    names = {n.name for n in graph}
    for count in threads:
        timed = time_operators(program, example, rounds=rounds, threads=count)
        with torch.no_grad(), threads_set(count):
            whole = time_side_by_side({"whole": partial(module.eval(), *example)}, rounds=rounds, warmup=2, threads=count)[
                "whole"
            ]
        own = {name: q for name, q in timed.items() if name in names}
        found.append(Timing("PyTorch", count, own, whole, raised(peaks_here(graph, count), graph, own)))
    return graph, found


def time_bundle(bundle: Bundle, threads: Sequence[int], rounds: int) -> tuple[Graph, list[Timing]]:
    """A bundle's C file compiled for this machine, on each number of threads.

    Raises:
        Unsupported, CompilerError.
    """
    from netwright.deploy.c99 import build

    graph, found = bundle.graph, []
    names = {n.name for n in graph}
    x = tuple(np.random.default_rng(0).standard_normal(graph[i].spec.shape, dtype=np.float32) for i in graph.inputs)
    with tempfile.TemporaryDirectory() as folder:
        for count in threads:
            timed = profile(graph, Path(folder), x, tree=bundle.tree, rounds=rounds, threads=count)
            model = build(graph, Path(folder) / f"whole-{count}", threads=count, tree=bundle.tree)
            whole = time_side_by_side({"whole": partial(model.run_one, *x)}, rounds=rounds, threads=count)["whole"]
            own = {name: q for name, q in timed.items() if name in names}
            found.append(Timing("C", count, own, whole, raised(peaks_here(graph, count), graph, own)))
    return graph, found


def gaps(graph: Graph, peak: Mapping[str, Quantity], timing: Timing | None) -> Roofline:
    """The graph against peaks, modelled, or with what was measured. In C an operation without a call of its own takes no time:
    it is done within another."""
    found: dict[str, float] | None = None
    if timing is not None:
        folded = [n.name for n in graph if timing.engine == "C" and n.op not in ("input", "constant")]
        found = {**dict.fromkeys(folded, 0.0), **{name: q.value for name, q in timing.operators.items()}}
    return roofline(graph, {of: q.value for of, q in peak.items()}, found)


@dataclass(frozen=True)
class Known:
    """All that is known of a network's cost."""

    name: str
    graph: Graph
    total: Cost
    rows: list[dict[str, Any]]
    roofline: Roofline | None
    peak: Mapping[str, Quantity]
    timings: Sequence[Timing]
    notes: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """model, total, layers; with peaks roofline, and with timings latency (each a mapping)."""
        found: dict[str, Any] = {"model": self.name, "total": self.total.to_json(), "layers": self.rows}
        if self.roofline is not None:
            found |= {"peak": {of: asdict(q) for of, q in self.peak.items()}, "roofline": self.roofline.to_json()}
        if self.timings:
            found |= {"machine": machine(), "latency": [_timing_json(t) for t in self.timings]}
        return found | ({"notes": list(self.notes)} if self.notes else {})

    def to_facts(self) -> dict[str, Any]:
        """`to_json` with what only the page shows: the memory over time, the drawing, the papers, the machine."""
        moments = [{"path": m.path or m.node, "op": m.op, "bytes": m.bytes, "live": m.live[:6]} for m in timeline(self.graph)]
        shapes = [self.graph[i].spec.shape for i in self.graph.inputs]
        papers = [{**asdict(p), "bibtex": p.bibtex()} for p in ([Roofline.paper] if self.roofline else [])]
        return {**self.to_json(), "inputs": shapes, "memory": moments, "drawing": draw(self.graph, self.name),
                "bibliography": papers, "machine": machine()}  # fmt: skip


def _timing_json(timing: Timing) -> dict[str, Any]:
    operators = {name: asdict(q) for name, q in timing.operators.items()}
    peak = {of: asdict(q) for of, q in timing.peak.items()}
    return {"engine": timing.engine, "threads": timing.threads, "whole": asdict(timing.whole), "elsewhere_us": timing.elsewhere,
            "operators": operators, "peak": peak}  # fmt: skip


def known(
    name: str,
    graph: Graph,
    target: Target,
    timings: Sequence[Timing] = (),
    *,
    peaks: Callable[[Graph], Mapping[str, Quantity]] | None = None,
) -> Known:
    """Put together what is known.

    Args:
        target: its energies price the operations, where it has any; its peaks make the roofline, unless there are timings.
        timings: the first one stands in the table and the roofline.
        peaks: what to take for a roofline where neither timings nor the target have peaks; None: then there is no roofline.

    Raises:
        NetwrightError: the target gives some energies and lacks one that the graph needs.
    """
    priced, notes = target if target.energy_pj else None, list[str]()
    if priced is None:
        notes.append(f"The target {target.name} gives no energies: none is modelled.")
    total, rows = cost(graph, priced), table(graph, priced)
    timing = timings[0] if timings else None
    peak = timing.peak if timing else stated_peaks(target) if target.peak else peaks(graph) if peaks else {}
    line = None
    if peak:
        try:
            line = gaps(graph, peak, timing)
        except NetwrightError as error:
            notes.append(f"There is no roofline: {error}")
    if line is not None:
        total = total | line.to_cost()
        by_name = {layer.name: layer for layer in line.layers}
        keys = ("intensity", "waterline", "ideal", "bound", "latency", "efficiency")
        rows = [r | {k: getattr(by_name[r["name"]], k) for k in keys} if r["name"] in by_name else r for r in rows]
    for each in timings:
        total = total | Cost({f"latency_{each.threads}_threads" if each.threads > 1 else "latency": each.whole})
    return Known(name, graph, total, rows, line, peak if line else {}, timings, notes)
