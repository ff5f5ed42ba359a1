"""Dynamic: what a dynamic network gives for one input, by the reference operators."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from netwright.core.decision import Control, OverTime, Quiet, taken
from netwright.core.errors import NetwrightError
from netwright.core.graph import WEIGHTED, Graph, Node
from netwright.design.execute import GraphModule


def first_steps(graph: Graph, steps: int) -> Graph:
    """A spiking network that stops after so many time steps; its readout then sums fewer."""

    def attrs(old: dict[str, object]) -> dict[str, object]:
        over = {k: steps for k in ("steps", "current_steps", "a_steps", "b_steps") if isinstance(v := old.get(k), int) and v > 1}
        return {**old, **over}

    return graph.replace([replace(n, attrs=attrs(dict(n.attrs))) for n in graph])


def outcome(graph: Graph, control: Control | None, *inputs: Tensor) -> tuple[tuple[Tensor, ...], int]:
    """Results of one example [1, ...], and the number of its exit, or of the time steps that it took.

    Raises:
        NetwrightError: `control` is over time steps, and the network has no readout over them.
    """
    with torch.no_grad():
        if isinstance(control, OverTime):
            return _in_time(graph, control, *inputs)
        got = GraphModule(graph).eval()(*inputs)
    outputs = got if isinstance(got, tuple) else (got,)
    if control is None:
        return outputs, 0
    number, end = taken(control, lambda i: bool(outputs[i]))
    return tuple(outputs[i] for i in end.outputs), number


def driven(graph: Graph) -> Node | None:
    """The first node through which current flows into a spiking network in every time step, whether or not a neuron fires:
    a current that is repeated over time, or a bias behind spikes. None where the input flows once (`difference` of a current
    that is computed once), so that a step without spikes is followed by such steps only."""
    nodes = graph.by_name
    for node in graph:
        if node.op in ("integrate", "iadd", "readout") and any(nodes[i].spec.steps == 1 for i in node.inputs):
            return node
        if node.op in WEIGHTED and node.spec.steps > 1 and "bias" in node.weights and graph.value(node, "bias").any():
            return node
    return None


def _in_time(graph: Graph, control: OverTime, *inputs: Tensor) -> tuple[tuple[Tensor, ...], int]:
    readout = next((n for n in graph if n.op == "readout"), None)
    if readout is None:
        raise NetwrightError("The network has no readout over time steps: it is not a spiking network. Convert it first.")
    start, last = int(readout.attrs["start"]), int(readout.attrs["steps"])
    if isinstance(control, Quiet):
        fired = torch.zeros(last, dtype=torch.bool)

        def visit(node: Node, out: Tensor) -> None:
            if node.op == "integrate":
                fired.logical_or_(out.reshape(last, -1).any(1))

        logits = GraphModule(graph).eval()(*inputs, visit=visit)
        return (logits,), min([t for t in range(1, last + 1) if not fired[t - 1]], default=last)
    for t in range(start + 1, last + 1):
        logits = GraphModule(first_steps(graph, t)).eval()(*inputs) * ((last - start) / (t - start))
        if t == last or (control.alpha * (t - start) * logits).softmax(-1).max() >= control.confidence:
            return (logits,), t
    raise NetwrightError(f"The readout starts at step {start} of {last}. Start it earlier.")
