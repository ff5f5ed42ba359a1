"""NIR interpreter: runs a graph of the Neuromorphic Intermediate Representation step by step, in double precision.

Pedersen et al., Neuromorphic Intermediate Representation: A Unified Instruction Set for Interoperable Brain-Inspired
Computing, Nature Communications 15, 2024. NIR states differential equations; a step of length dt is forward Euler:

    I        v += dt r x                                         output v
    IF       v += dt r x                                         output s
    LI, LIF  v += dt/tau ((v_leak - v) + r x)                    output v, s
    CubaLI,  i += dt/tau_syn (w_in x - i)
    CubaLIF  v += dt/tau_mem ((v_leak - v) + r i)                output v, s
    Threshold            s = [x > threshold]
    Delay                x of round(delay / dt) steps ago, 0 before the first
    Affine, Linear, Scale, Conv1d, Conv2d, SumPool2d, AvgPool2d, Flatten: as their names say, in every step

where s = [v > v_threshold], and then v = v_reset: a spike resets *hard*. Converted networks need the other reset, which
takes the threshold off and keeps the rest, and NIR has no word for it. It therefore stands in the metadata of the node
(`reset`: "subtract"), with `rule`, `limit` and `v0` as in `netwright::integrate`; there s is 1 where v >= v_threshold.
A node without these metadata is NIR's own.

Several edges into a node add. An edge that closes a loop, found depth first from the inputs, carries the value of the step
before, 0 in the first. Graphs inside graphs are taken apart. v, i start at 0 (or at `v0`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from netwright.core.errors import NetwrightError, Unsupported

Step = Callable[[Tensor], Tensor]
Edge = tuple[str, str]
RULES = ("if", "bipolar", "memory", "burst")


def _numbers(node: Any, *names: str) -> list[Tensor]:
    return [torch.from_numpy(np.array(getattr(node, name), np.float64)) for name in names]


def _sides(value: Any) -> tuple[int, ...]:
    """A side, or one for each dimension, of a convolution or a pool."""
    return tuple(int(v) for v in np.atleast_1d(value))


def text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


# --- neurons --------------------------------------------------------------------------------------------------------------
def _fire(node: Any) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """v -> spikes and v after them: NIR's hard reset, or what the node's metadata say."""
    threshold, reset = _numbers(node, "v_threshold", "v_reset")
    kind = text(node.metadata.get("reset", "zero"))
    if kind == "zero":
        return lambda v: ((v > threshold).double(), torch.where(v > threshold, reset, v))
    rule, limit = text(node.metadata.get("rule", "if")), int(node.metadata.get("limit", 0))
    if kind != "subtract" or rule not in RULES:
        raise NetwrightError(
            f"The {type(node).__name__} node has reset {kind!r} and rule {rule!r} in its metadata; known are reset 'zero' and "
            f"'subtract', and the rules {', '.join(RULES)}."
        )
    sent: Tensor | float = 0.0

    def fire(v: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal sent
        if rule == "burst":
            s = torch.floor(v / threshold).clamp(0, limit)
        elif rule == "memory":
            more = torch.as_tensor(limit == 0 or sent < limit)
            s = ((v >= threshold) & more).double() - ((v < 0) & torch.as_tensor(sent > 0)).double()
            sent = sent + s
        else:
            s = (v >= threshold).double()
            if rule == "bipolar":
                s = s - (v <= -threshold).double()
        return s, v - threshold * s

    return fire


def _start(node: Any, x: Tensor) -> Tensor:
    """v before the first step, for a batch like x; `v0` is one number a channel, or one a neuron."""
    v0 = torch.from_numpy(np.array(node.metadata.get("v0", 0.0), np.float64))
    if v0.dim() == 1 and x.dim() > 2:
        v0 = v0.reshape(-1, *[1] * (x.dim() - 2))
    return torch.zeros_like(x) + v0


def _neuron(node: Any, dt: float) -> Step:
    """I, IF, LI, LIF, CubaLI and CubaLIF: each is leaky or not, has a synapse or not, and fires or not."""
    (r,) = _numbers(node, "r")
    synapse, fires = hasattr(node, "tau_syn"), hasattr(node, "v_threshold")
    leaky = synapse or hasattr(node, "tau")
    if leaky:
        tau, leak = _numbers(node, "tau_mem" if synapse else "tau", "v_leak")
    if synapse:
        tau_syn, w_in = _numbers(node, "tau_syn", "w_in")
    fire = _fire(node) if fires else None
    v: Tensor | None = None
    current: Tensor | float = 0.0

    def step(x: Tensor) -> Tensor:
        nonlocal v, current
        v = _start(node, x) if v is None else v
        if synapse:
            x = current = current + dt / tau_syn * (w_in * x - current)
        v = v + (dt / tau * ((leak - v) + r * x) if leaky else dt * r * x)
        if fire is None:
            return v
        s, v = fire(v)
        return s

    return step


# --- everything else ------------------------------------------------------------------------------------------------------
def _affine(node: Any, dt: float) -> Step:
    (weight,) = _numbers(node, "weight")
    bias = _numbers(node, "bias")[0] if hasattr(node, "bias") else 0.0
    return lambda x: torch.einsum("...oi,n...i->n...o", weight, x) + bias


def _conv(node: Any, dt: float) -> Step:
    weight, bias = _numbers(node, "weight", "bias")
    conv: Callable[..., Tensor] = F.conv2d if isinstance(node, nir.Conv2d) else F.conv1d
    padding = node.padding if isinstance(node.padding, str) else _sides(node.padding)
    return lambda x: conv(x, weight, bias, _sides(node.stride), padding, _sides(node.dilation), int(node.groups))


def _pool(node: Any, dt: float) -> Step:
    kernel, stride, padding = (_sides(side) for side in (node.kernel_size, node.stride, node.padding))
    divisor = 1 if isinstance(node, nir.SumPool2d) else None
    return lambda x: F.avg_pool2d(x, kernel, stride, padding, divisor_override=divisor)


def _flatten(node: Any, dt: float) -> Step:
    first, last = (int(d) + (int(d) >= 0) for d in (node.start_dim, node.end_dim))  # NIR's shapes have no batch
    return lambda x: x.flatten(first, last)


def _scale(node: Any, dt: float) -> Step:
    (scale,) = _numbers(node, "scale")
    return lambda x: x * scale


def _threshold(node: Any, dt: float) -> Step:
    (threshold,) = _numbers(node, "threshold")
    return lambda x: (x > threshold).double()


def _delay(node: Any, dt: float) -> Step:
    steps = torch.from_numpy(np.rint(np.asarray(node.delay, np.float64) / dt).astype(np.int64))
    if int(steps.min()) < 0:
        raise NetwrightError(f"A Delay node of the NIR graph has a negative delay ({float(np.min(node.delay)):g}).")
    past: list[Tensor] = []

    def step(x: Tensor) -> Tensor:
        past.insert(0, x)
        del past[int(steps.max()) + 1 :]
        known = torch.stack([*past, torch.zeros_like(x)])
        index = steps.clamp(max=len(past)).expand_as(x)[None]
        return known.gather(0, index)[0]

    return step


RUN: dict[type, Callable[[Any, float], Step]] = {
    **dict.fromkeys((nir.I, nir.IF, nir.LI, nir.LIF, nir.CubaLI, nir.CubaLIF), _neuron),
    **dict.fromkeys((nir.Affine, nir.Linear), _affine),
    **dict.fromkeys((nir.Conv1d, nir.Conv2d), _conv),
    **dict.fromkeys((nir.SumPool2d, nir.AvgPool2d), _pool),
    **dict.fromkeys((nir.Input, nir.Output), lambda node, dt: lambda x: x),
    nir.Flatten: _flatten,
    nir.Scale: _scale,
    nir.Threshold: _threshold,
    nir.Delay: _delay,
}


# --- order ----------------------------------------------------------------------------------------------------------------
def flat(graph: nir.NIRGraph, prefix: str = "") -> tuple[dict[str, Any], list[Edge]]:
    """Nodes and edges with the graphs inside taken apart: an edge to a graph leads to its Input, one from it leaves its Output.

    Raises:
        NetwrightError: an edge to or from nowhere, or a graph inside with several inputs or outputs.
    """
    nodes: dict[str, Any] = {}
    edges: list[Edge] = []
    for name, node in graph.nodes.items():
        if isinstance(node, nir.NIRGraph):
            inner, between = flat(node, f"{prefix}{name}.")
            nodes |= inner
            edges += between
        else:
            nodes[prefix + name] = node

    def end(name: str, kind: type) -> str:
        node = graph.nodes.get(name)
        if node is None:
            raise NetwrightError(f"The NIR graph has an edge at {prefix + name!r}, and no such node.")
        if not isinstance(node, nir.NIRGraph):
            return prefix + name
        found = [n for n, v in node.nodes.items() if isinstance(v, kind)]
        if len(found) != 1:
            raise NetwrightError(
                f"The NIR graph inside, {prefix + name!r}, has {len(found)} {kind.__name__} nodes; it needs one."
            )
        return f"{prefix}{name}.{found[0]}"

    edges += [(end(a, nir.Output), end(b, nir.Input)) for a, b in graph.edges]
    return nodes, edges


def order(nodes: Mapping[str, Any], edges: Iterable[Edge]) -> tuple[list[str], set[Edge]]:
    """Names so that sources stand before readers, and the edges that close loops, which do not count."""
    readers: dict[str, list[str]] = {name: [] for name in nodes}
    for a, b in edges:
        readers[a].append(b)
    found: list[str] = []
    closing: set[Edge] = set()
    state: dict[str, bool] = {}  # True while the walk is below the node
    for root in sorted(nodes, key=lambda name: not isinstance(nodes[name], nir.Input)):
        if root in state:
            continue
        state[root], stack = True, [(root, iter(readers[root]))]
        while stack:
            name, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                state[name] = False
                found.append(name)
                stack.pop()
            elif state.get(following):
                closing.add((name, following))
            elif following not in state:
                state[following] = True
                stack.append((following, iter(readers[following])))
    return found[::-1], closing


@dataclass(frozen=True, eq=False)
class Interpreter:
    """A NIR graph that runs.

    Args:
        graph: of nodes in `RUN`, graphs inside included.
        dt: length of a step in the units of the graph's time constants (NIR says seconds; 1: constants are in steps).
    """

    graph: nir.NIRGraph
    dt: float = 1.0

    @property
    def ours(self) -> bool:
        """Whether `to_nir` made the graph, so that it says how to code the input and read the output."""
        return text(self.graph.metadata.get("producer", "")) == "netwright"

    def run(self, inputs: Mapping[str, Tensor], visit: Callable[[str, Tensor], None] | None = None) -> dict[str, Tensor]:
        """Currents or spikes [T, N, ...] of each Input node -> [T, N, ...] of each Output node, float64.

        `visit(name, value [N, ...])` sees what every node gives in every step.

        Raises:
            Unsupported: a node of a kind that has no step here.
            NetwrightError: inputs that do not fit the graph, or nodes that do not fit each other.
        """
        nodes, edges = flat(self.graph)
        names, closing = order(nodes, edges)
        given = {name for name, node in self.graph.nodes.items() if isinstance(node, nir.Input)}
        if given != set(inputs):
            raise NetwrightError(f"The NIR graph has the inputs {sorted(given)}; values came for {sorted(inputs)}.")
        if len({x.shape[:2] for x in inputs.values()}) != 1:
            raise NetwrightError(f"Inputs are [T, N, ...] with one T and N; got {[tuple(x.shape) for x in inputs.values()]}.")
        cells: dict[str, Step] = {}
        for name in names:
            if type(nodes[name]) not in RUN:
                raise Unsupported("The NIR interpreter", type(nodes[name]).__name__, name, "Run the file where it was made.")
            cells[name] = RUN[type(nodes[name])](nodes[name], self.dt)
        sources: dict[str, list[str]] = {name: [] for name in nodes}
        for a, b in edges:
            sources[b].append(a)
        steps, batch = next(iter(inputs.values())).shape[:2]
        values: dict[str, Tensor] = {}
        traces: dict[str, list[Tensor]] = {n: [] for n, node in self.graph.nodes.items() if isinstance(node, nir.Output)}
        for t in range(steps):
            before, values = values, {}
            for name in names:
                if name in inputs:
                    arrived = [inputs[name][t].double()]
                else:
                    known = [(before if (a, name) in closing else values).get(a) for a in sources[name]]
                    arrived = [x for x in known if x is not None]
                x = sum(arrived[1:], arrived[0]) if arrived else self._nothing(name, nodes[name], batch)
                values[name] = self._step(name, nodes[name], cells[name], x)
                if visit is not None:
                    visit(name, values[name])
            for name, trace in traces.items():
                trace.append(values[name])
        return {name: torch.stack(trace) for name, trace in traces.items()}

    @staticmethod
    def _nothing(name: str, node: Any, batch: int) -> Tensor:
        """Zeros for a node whose edges all close loops, in the first step."""
        shape = (node.input_type or {}).get("input")
        if shape is None:
            raise NetwrightError(
                f"Nothing reaches the node {name!r} of the NIR graph in the first step, and its shape is unknown."
            )
        return torch.zeros(batch, *(int(n) for n in shape), dtype=torch.float64)

    @staticmethod
    def _step(name: str, node: Any, cell: Step, x: Tensor) -> Tensor:
        try:
            return cell(x)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise NetwrightError(
                f"The node {name!r} ({type(node).__name__}) of the NIR graph cannot take values of {tuple(x.shape[1:])}: {reason}"
            ) from error

    def infer(self, x: Tensor, steps: int | None = None, visit: Callable[[str, Tensor], None] | None = None) -> Tensor:
        """Values [N, ...] of the only Input, the same in every step -> [N, ...]: the sum over time of the only Output.

        A graph of ours says more: x is brought to codes first, `steps` is that of the conversion, and the sum runs over the
        steps that count and is scaled to logits.

        Raises:
            Unsupported, NetwrightError: as `run`; several inputs or outputs; no steps given where the graph does not say.
        """
        ins = {n: node for n, node in self.graph.nodes.items() if isinstance(node, nir.Input)}
        outs = {n: node for n, node in self.graph.nodes.items() if isinstance(node, nir.Output)}
        if len(ins) != 1 or len(outs) != 1:
            raise NetwrightError(f"infer takes graphs of one Input and one Output; this has {len(ins)} and {len(outs)}. Use run.")
        (name, source), (out, sink) = *ins.items(), *outs.items()
        code, window = (source.metadata, sink.metadata) if self.ours else ({}, {})
        steps = int(self.graph.metadata["steps"]) if steps is None and self.ours else steps
        if steps is None:
            raise NetwrightError("This NIR graph does not say for how many steps it runs: give steps.")
        if "scale" in code:
            x = torch.ops.netwright.quantize(x, float(code["scale"]), int(code["lo"]), int(code["hi"]))
        trace = self.run({name: x[None].expand(steps, *x.shape)}, visit)[out]
        total = trace[int(window.get("start", 0)) :].sum(0)
        if "scale" in window:
            total = total + torch.from_numpy(np.array(window.get("v0", 0), np.float64))
            sums, scale = total.round().to(torch.int32), torch.from_numpy(np.array(window["scale"], np.float32))
            return torch.ops.netwright.dequantize(sums, scale)
        return total
