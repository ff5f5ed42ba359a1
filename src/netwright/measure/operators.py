"""Operators: how long each operation of an exported program takes where it runs, in the order of the program.

The program runs whole, operation by operation, with a clock around each; what one leaves in the caches the next one finds, as
in a plain run. Python's own work between operations is outside of the clock, and so is in the time of the whole, not in the sum.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export.graph_signature import InputKind

from netwright.core.cost import Quantity
from netwright.core.errors import NetwrightError


class _Timed(torch.fx.Interpreter):
    """Runs a program and keeps the nanoseconds of every operation."""

    spent: dict[str, int]

    def run_node(self, n: torch.fx.Node) -> Any:
        if n.op != "call_function":
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        start = time.perf_counter_ns()
        out = self.call_function(n.target, args, kwargs)
        self.spent[n.name] = time.perf_counter_ns() - start
        return out


@contextmanager
def threads_set(count: int) -> Iterator[None]:
    """PyTorch on so many threads, then on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _state(program: torch.export.ExportedProgram, inputs: tuple[Tensor, ...]) -> list[Any]:
    """Values of the program's placeholders: its parameters, buffers and constants, and the inputs."""
    state: Mapping[str, Any] = {**program.constants, **program.state_dict}
    given = iter(inputs)
    found: list[Any] = []
    for spec in program.graph_signature.input_specs:
        found.append(next(given) if spec.kind == InputKind.USER_INPUT else state.get(spec.target or ""))
    return found


def time_operators(
    program: torch.export.ExportedProgram,
    inputs: tuple[Tensor, ...],
    *,
    rounds: int = 20,
    warmup: int = 3,
    threads: int = 1,
) -> dict[str, Quantity]:
    """Median microseconds of each operation of a program, with (p10, p90) as spread.

    Args:
        inputs: of one inference.
        rounds: runs of the whole program.
        threads: of PyTorch, within each operation.

    Returns:
        Name of the operation in the program's graph -> us; views and shape arithmetic are among them.

    Raises:
        NetwrightError: fewer than one round.
    """
    if rounds < 1:
        raise NetwrightError(f"There is nothing to time in {rounds} rounds; ask for one at least.")
    runner, state = _Timed(program.graph_module), _state(program, inputs)
    samples: dict[str, list[float]] = {}
    with torch.no_grad(), threads_set(threads):
        for i in range(-warmup, rounds):
            runner.spent = {}
            runner.run(*state)
            if i >= 0:
                for name, ns in runner.spent.items():
                    samples.setdefault(name, []).append(ns / 1e3)
    plural = "s" * (threads != 1)
    note = f"in the run of the whole program, median and p10-p90 of {rounds} runs, {threads} thread{plural}"
    found = {}
    for name, values in samples.items():
        low, median, high = np.percentile(values, [10, 50, 90])
        found[name] = Quantity(float(median), "us", "measured", (float(low), float(high)), note)
    return found
