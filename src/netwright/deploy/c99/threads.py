"""Which steps several threads share: those that take long enough, of networks that take long enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from netwright.core.graph import Graph
from netwright.deploy.c99.lower import Step

# Kernels that can be split, and multiply-accumulates that they do in a microsecond on one core with AVX-512: modelled, rounded
# from measurements; only the order of magnitude matters.
RATES = {
    "nw_conv_f32": 40e3, "nw_conv_active_f32": 40e3, "nw_dwconv_f32": 8e3, "nw_conv_i8": 150e3, "nw_dwconv_i8": 10e3,
    "nw_conv_b1": 1e6,
}  # fmt: skip
TOGETHER = "nw_together"  # the function that hands a step to the threads
STEP_US = 15.0  # below it, waking and waiting cost more than they save
NETWORK_US = 200.0  # below it, a network is left to one thread


def shared(steps: Sequence[Step], graph: Graph) -> set[int]:
    """Numbers of the steps that are worth splitting."""
    nodes, calls = graph.by_name, Counter(s.node for s in steps if s.kernel in RATES)  # the calls for a node share its work
    work = {name: nodes[name].macs * nodes[name].spec.steps / n for name, n in calls.items()}
    times = {i: work[s.node] / RATES[s.kernel] for i, s in enumerate(steps) if s.kernel in RATES}
    if sum(times.values()) < NETWORK_US:
        return set()
    return {i for i, time in times.items() if time >= STEP_US}
