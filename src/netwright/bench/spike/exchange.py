"""NIR: what is written to a file and read back, compared with the integer graph spike by spike, and what a reader loses that
follows NIR's words alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nir
import torch
from torch import Tensor

from netwright.bench.claim import Claim
from netwright.bench.spike.networks import Trained
from netwright.core.graph import Graph, Node
from netwright.deploy.nir import from_nir, read_nir, write_nir
from netwright.deploy.nir_interpreter import Interpreter
from netwright.design.execute import GraphModule
from netwright.spike.convert import Fit, Lossless
from netwright.spike.convert.converter import Converter

BATCH = 90
BOUNDS: dict[str, tuple[str, float]] = {"nir_roundtrip_mismatches": ("==", 0.0)}


def graph_spikes(graph: Graph, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the spikes [T*N, ...] of every layer of neurons."""
    found: dict[str, Tensor] = {}

    def keep(node: Node, out: Tensor) -> None:
        if node.op == "integrate":
            found[node.name] = out

    with torch.no_grad():
        return GraphModule(graph)(x, visit=keep), found


def nir_spikes(network: nir.NIRGraph, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The same of a NIR graph, step by step."""
    found: dict[str, list[Tensor]] = {n: [] for n, node in network.nodes.items() if isinstance(node, nir.IF)}

    def keep(name: str, value: Tensor) -> None:
        if name in found:
            found[name].append(value)

    logits = Interpreter(network).infer(x, visit=keep)
    return logits, {name: torch.cat(steps) for name, steps in found.items()}


def differences(graph: Graph, network: nir.NIRGraph, x: Tensor) -> tuple[int, int]:
    """(how many spikes and logits differ, of how many) between a graph, its NIR run step by step, and its NIR as a graph."""
    differ = total = 0
    again = from_nir(network)
    for part in x.split(BATCH):
        logits, spikes = graph_spikes(graph, part)
        for other, found in (nir_spikes(network, part), graph_spikes(again, part)):
            differ += int((other != logits).sum()) + sum(int((found[n] != spikes[n]).sum()) for n in spikes)
            total += logits.numel() + sum(s.numel() for s in spikes.values())
    return differ, total


def by_the_word(network: nir.NIRGraph, x: Tensor) -> Tensor:
    """What NIR's own definitions make of the graph: neurons that reset hard, from 0. The input is coded as ours says."""
    (source,) = (node for node in network.nodes.values() if isinstance(node, nir.Input))
    code = source.metadata
    steps = int(network.metadata["steps"])
    codes = torch.ops.netwright.quantize(x, float(code["scale"]), int(code["lo"]), int(code["hi"]))
    (sink,) = (node for node in network.nodes.values() if isinstance(node, nir.Output))
    scale = torch.as_tensor(sink.metadata["scale"])
    for node in network.nodes.values():
        node.metadata = {}
    network.metadata = {}
    return Interpreter(network).infer(codes, steps) * scale


@dataclass
class Exchange:
    """The round trip of the digits network, converted by calibration and without loss."""

    digits: Trained

    @property
    def methods(self) -> Mapping[str, Converter]:
        return {"fit, T=4": Fit(steps=4), "lossless, 3 bits": Lossless(bits=3)}

    def measured(self, method: Converter) -> dict[str, Any]:
        """Differences over all test images, and the accuracy of the graph, of the file, and of the file taken at NIR's word."""
        x, y = self.digits.test
        graph = method.convert(self.digits.module, x[:1], self.digits.calibration).module.graph
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.nir"
            write_nir(graph, path)
            network, size = read_nir(path), path.stat().st_size
        differ, total = differences(graph, network, x)

        def right(logits: Tensor) -> float:
            return round(float((logits.argmax(1) == y).double().mean()), 4)

        return {"differ": differ, "compared": total, "images": len(x), "bytes": size,
                "accuracy": right(graph_spikes(graph, x)[0]), "read_back": right(Interpreter(network).infer(x)),
                "hard_reset": right(by_the_word(network, x))}  # fmt: skip

    def roundtrip(self) -> Iterator[Claim]:
        found = {name: self.measured(method) for name, method in self.methods.items()}
        reference = {"name": "the integer graph", **{f"{name}: {k}": v for name, m in found.items() for k, v in m.items()}}
        yield Claim("nir_roundtrip_mismatches", float(sum(m["differ"] for m in found.values())),
                    "spikes and logits that differ, stepwise and as a graph again", "measured",
                    sum(m["compared"] for m in found.values()), reference=reference)  # fmt: skip
