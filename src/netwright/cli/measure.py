"""netwright measure BUNDLE..."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from netwright.cli.console import progress, write, write_json


def measure(bundles: list[Path], *, rounds: int = 50, seed: int = 0, json: bool = False) -> None:
    """Time bundles side by side: the C file, ONNX Runtime and PyTorch where they have files, OpenVINO where it is installed.

    Interleaved in one process, one thread, one input; says which is fastest, how many times faster each is than the first bundle
    named, which share of its products has 1 bit, and how far each output is from the C file's.

    Parameters
    ----------
    bundles: bundle folders, like runs/digits/forms/float/bundle.
    rounds: samples of each.
    seed: of the order and of the input.
    json: print JSON.
    """
    import numpy as np

    from netwright.core.errors import NetwrightError
    from netwright.deploy.bundle import Bundle
    from netwright.deploy.onnx import OrtModel
    from netwright.estimate.count import binary_ops
    from netwright.measure.latency import time_side_by_side
    from netwright.measure.machine import machine

    runs: dict[str, Callable[[], Any]] = {}
    apart: dict[str, float] = {}
    bits: dict[str, float] = {}
    notes: list[str] = []
    for path in bundles:
        bundle = Bundle.load(path)
        x = np.random.default_rng(seed).standard_normal((1, *bundle.input_shape[1:]), dtype=np.float32)
        engines: dict[str, Callable[[], Any]] = {str(path): partial(bundle.model.run_one, x)}
        if bundle.onnx is not None:
            ort = OrtModel(bundle.onnx, threads=1)
            engines[f"{path} in ONNX Runtime"] = partial(ort.session.run, None, {ort.names[0]: x})
        if importlib.util.find_spec("openvino") is not None:
            from netwright.deploy.openvino import OpenVinoModel, to_openvino

            try:
                engines[f"{path} in OpenVINO"] = partial(OpenVinoModel(to_openvino(bundle.graph), threads=1).run, x)
            except NetwrightError as error:
                notes.append(f"{path} is not timed in OpenVINO: {error}")
        if "torch" in bundle.backends:
            import torch

            import netwright.deploy.torch_program  # noqa: F401  defines the operator that the program calls

            torch.set_num_threads(1)
            program = torch.export.load(bundle.path / "model.pt2").module()
            engines[f"{path} in PyTorch"] = partial(program, torch.from_numpy(x))
        outputs = {name: np.array(run()).reshape(-1) for name, run in engines.items()}
        apart |= {name: float(np.abs(y - outputs[str(path)]).max()) for name, y in outputs.items()}
        runs |= engines
        one_bit = binary_ops(bundle.graph) / max(1, bundle.graph.macs)
        bits |= dict.fromkeys(engines, one_bit)
    with progress(quiet=json) as bars:
        timed = time_side_by_side(runs, rounds=rounds, seed=seed, progress=bars)
    first = timed[str(bundles[0])].value
    fastest = min(timed, key=lambda name: timed[name].value)
    if json:
        latency = {name: asdict(q) for name, q in timed.items()}
        return write_json({"machine": machine(), "latency": latency, "max_abs_diff": apart, "fastest": fastest, "notes": notes,
                           "times_faster_than_first": {name: first / q.value for name, q in timed.items()},
                           "one_bit_share": bits})  # fmt: skip
    from rich.table import Table

    table = Table(
        "what", "median us", "p10", "p90", "times faster than the first", "1-bit products", "largest difference from the C file"
    )
    for name, q in sorted(timed.items(), key=lambda item: item[1].value):
        low, high = q.spread or (q.value, q.value)
        table.add_row(
            name,
            f"{q.value:.2f}",
            f"{low:.2f}",
            f"{high:.2f}",
            f"{first / q.value:.2f}",
            f"{bits[name]:.0%}",
            f"{apart[name]:.2g}",
        )
    write(table)
    return write("\n".join([*notes, f"Fastest here: {fastest}"]))
