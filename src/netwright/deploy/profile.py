"""Profile: how long each operation of a compiled network takes, from the same C file with a clock around every call.

    t(node) = sum over the calls made for the node of (clock behind - clock before) - (cost of reading the clock)

An operation that was folded or fused into another has no call of its own: its time is in that other one's. Clocks between
calls keep the compiler from nothing (calls are never inlined), yet cost some tens of nanoseconds each, which are measured as
an empty interval in the same run and taken off; steps that take less than a microsecond are uncertain by about that.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netwright.core.cost import Quantity
from netwright.core.decision import Control
from netwright.core.errors import NetwrightError
from netwright.core.graph import Graph
from netwright.deploy.c99.compile import compile_c
from netwright.deploy.c99.emit import Emitted, emit
from netwright.deploy.loader import CompiledModel

_CALL = re.compile(r"^  ((?:step\d+|nw_together)\(.*\);)$", re.M)
_CLOCK = """#define _GNU_SOURCE
#include <time.h>
double {name}_spent[{count}];
static double nw_now(void) {{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}}
"""


def timed_source(emitted: Emitted) -> Emitted:
    """The network with a clock around every call: ``NAME_spent[i]`` grows by the microseconds of call i, and the last element
    by those of an empty interval."""
    head, start, rest = emitted.c.partition("\nint NW_RUN(")
    arguments, brace, body = rest.partition("{")
    numbers = iter(range(len(emitted.nodes)))
    array = f"{emitted.name}_spent"
    body, found = _CALL.subn(
        lambda call: f"  {{ const double nw_at = nw_now(); {call[1]} {array}[{next(numbers)}] += nw_now() - nw_at; }}", body
    )
    if found != len(emitted.nodes):
        raise NetwrightError(f"{found} calls were found in the C file where {len(emitted.nodes)} were written; it was changed.")
    empty = f"\n  {{ const double nw_at = nw_now(); {array}[{found}] += nw_now() - nw_at; }}"
    return replace(emitted, c=_CLOCK.format(name=emitted.name, count=found + 1) + head + start + arguments + brace + empty + body)


def profile(
    graph: Graph,
    folder: Path,
    x: tuple[NDArray[np.float32], ...] | None = None,
    *,
    tree: Control | None = None,
    rounds: int = 50,
    threads: int = 1,
) -> dict[str, Quantity]:
    """Microseconds of every operation of a network compiled to C for this machine, the median over `rounds` runs.

    Args:
        graph: carries its values.
        folder: for the C file and the library.
        x: its inputs, batch 1; standard normal numbers where None.
        tree: decisions of a dynamic network; operations that this input does not reach take 0.
        threads: the most that a step is split among.

    Returns:
        Name of a node of the graph -> us with (p10, p90), for those that have calls.

    Raises:
        Unsupported, CompilerError: as `build`.
    """
    emitted = timed_source(emit(graph, tree=tree))
    folder.mkdir(parents=True, exist_ok=True)
    library = compile_c(emitted, folder / f"profile-{threads}.so", threads=threads)
    model = CompiledModel(library, emitted.input_shapes, emitted.output_shapes, emitted.name)
    clocks = (ctypes.c_double * (len(emitted.nodes) + 1)).in_dll(ctypes.CDLL(str(library.resolve())), f"{emitted.name}_spent")
    spent = np.ctypeslib.as_array(clocks)
    rng = np.random.default_rng(0)
    inputs = x or tuple(rng.standard_normal(shape, dtype=np.float32) for shape in emitted.input_shapes)
    samples = np.empty((rounds, len(emitted.nodes)))
    for i in range(-3, rounds):
        spent[:] = 0
        model.run_one(*inputs)
        if i >= 0:
            samples[i] = np.maximum(spent[:-1] - spent[-1], 0)
    found: dict[str, Quantity] = {}
    plural = "s" * (threads != 1)
    for name in dict.fromkeys(emitted.nodes):
        own = samples[:, [n == name for n in emitted.nodes]].sum(1)
        low, median, high = np.percentile(own, [10, 50, 90])
        note = f"its calls in the compiled network, median and p10-p90 of {rounds} runs, {threads} thread{plural}, batch 1"
        found[name] = Quantity(float(median), "us", "measured", (float(low), float(high)), note)
    return found
