"""netwright measure BUNDLE..."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path

from netwright.cli.console import progress, write, write_json


def measure(bundles: list[Path], *, rounds: int = 50, seed: int = 0, json: bool = False) -> None:
    """Time bundles and their ONNX files side by side, interleaved in one process, one thread, one input.

    Parameters
    ----------
    bundles: bundle folders, like runs/digits/forms/float/bundle.
    rounds: samples of each.
    seed: of the order and of the input.
    json: print JSON.
    """
    import numpy as np

    from netwright.deploy.bundle import Bundle
    from netwright.deploy.onnx import OrtModel
    from netwright.measure.latency import time_side_by_side
    from netwright.measure.machine import machine

    runs = {}
    for path in bundles:
        bundle = Bundle.load(path)
        x = np.random.default_rng(seed).standard_normal((1, *bundle.input_shape[1:]), dtype=np.float32)
        runs[str(path)] = partial(bundle.model.run_one, x)
        if bundle.onnx is not None:
            ort = OrtModel(bundle.onnx, threads=1)
            runs[f"{path} in ONNX Runtime"] = partial(ort.session.run, None, {ort.names[0]: x})
    with progress(quiet=json) as bars:
        timed = time_side_by_side(runs, rounds=rounds, seed=seed, progress=bars)
    if json:
        return write_json({"machine": machine(), "latency": {name: asdict(q) for name, q in timed.items()}})
    from rich.table import Table

    table = Table("what", "median us", "p10", "p90")
    for name, q in sorted(timed.items(), key=lambda item: item[1].value):
        low, high = q.spread or (q.value, q.value)
        table.add_row(name, f"{q.value:.2f}", f"{low:.2f}", f"{high:.2f}")
    write(table)
    return write(f"Fastest here: {min(timed, key=lambda name: timed[name].value)}")
