"""Devices: the compiled forms on other processors, in QEMU, beside this machine's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netwright.core.decision import NEVER, Confident
from netwright.core.errors import BundleError, CompilerError
from netwright.core.graph import Graph
from netwright.core.target import Target
from netwright.deploy.c99 import emit
from netwright.deploy.cross import cross_build


def run_elsewhere(
    graphs: Mapping[str, Graph],
    devices: Sequence[str],
    x: NDArray[np.float32],
    here: Mapping[str, NDArray[np.float32]],
    folder: Path,
) -> list[dict[str, Any]]:
    """A row for every form and device: bytes of flash and RAM, instructions of one input, the largest difference from `here`
    (what this machine gave for x [N, ...]); or why there is none (over budget, a program that is not installed)."""
    rows = []
    for device in devices:
        target = Target.load(device)
        for name, graph in graphs.items():
            row: dict[str, Any] = {"form": name, "device": device, "why": ""}
            try:
                small, spiking = bool(target.memory_bytes), any(n.op == "readout" for n in graph)
                # step by step to the end a spiking network needs the memory of one step
                emitted = emit(graph, tree=Confident(NEVER) if small and spiking else None, dense_spikes=not small)
                made = cross_build(emitted, target, folder / device / name)
                got, instructions = made.run(x)
                difference = float(np.abs(got.reshape(len(x), -1) - here[name].reshape(len(x), -1)).max())
                row |= {"flash_bytes": made.flash_bytes, "ram_bytes": made.ram_bytes,
                        "instructions": int(np.median(instructions)), "max_abs_diff": difference}  # fmt: skip
            except (BundleError, CompilerError) as error:
                row["why"] = str(error)
            rows.append(row)
    return rows
