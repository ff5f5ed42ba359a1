"""Unroll: what a spiking GraphModule does over time, from one simulation: its answers, its rates, its health.

All steps of a layer are computed at once (time is part of the batch), only the neurons walk through time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from netwright.core.errors import NetwrightError
from netwright.core.graph import Node
from netwright.design.execute import GraphModule

WINDOW = 4  # steps that the output sums at least (all of them where there are fewer)
ELEMENTS = 2**23  # of the largest tensor of one simulated batch
HIGH = 10.0  # thresholds at which a potential counts as exploding


def first_step(steps: int, delay: int) -> int:
    """Delayed evaluation: the output counts steps `delay`..`steps`-1, or the last four where those would be fewer."""
    return max(0, min(delay, steps - WINDOW))


def batch_size(module: GraphModule) -> int:
    """Images that fit the memory of one simulation."""
    return max(1, ELEMENTS // max(n.spec.elements * n.spec.steps for n in module.graph))


def _readout(module: GraphModule) -> Node:
    for node in module.graph:
        if node.op == "readout":
            return node
    raise NetwrightError("The module has no readout over time steps: it is not a spiking network. Convert it first.")


Data = Iterable[tuple[Tensor, Tensor]] | tuple[Tensor, Tensor]


def batches(data: Data, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(inputs, labels), or an iterable of such pairs, in parts of at most `size`."""
    pairs = [data] if isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], Tensor) else data
    for x, y in pairs:
        yield from zip(x.split(size), y.split(size), strict=True)


def output_over_time(module: GraphModule, x: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the output currents of steps 0..t-1 for t = 0..T, int64 [T+1, N, K], and what a unit of them is worth in
    logits of one step, float64 [K] or []. What the output starts from, where it does not start from 0, flows in step 0."""
    node = _readout(module)
    kept: list[Tensor] = []

    def visit(seen: Node, out: Tensor) -> None:
        if seen.name == node.inputs[0]:
            kept.append(out)

    with torch.no_grad():
        module.eval()(x, visit=visit)
    steps = node.attrs["steps"]
    total = kept[0].reshape(steps, x.shape[0], *kept[0].shape[1:]).to(torch.int64).cumsum(0)
    total = total + module.weights(node).get("v0", torch.zeros((), dtype=torch.int64))
    scale = next(module.weights(n)["scale"] for n in module.graph if node.name in n.inputs)
    return torch.cat([torch.zeros_like(total[:1]), total]), scale.to(torch.float64) * (steps - node.attrs["start"])


def logits_over_time(module: GraphModule, x: Tensor) -> Tensor:
    """Logits after 1..T steps, [T, N, K], in the unit of one step, for x [N, C, H, W]; delayed evaluation at every t."""
    node = _readout(module)
    return delayed(*output_over_time(module, x), node.attrs.get("delay", node.attrs["start"]))


def delayed(total: Tensor, unit: Tensor, delay: int) -> Tensor:
    """Logits after 1..T steps from what `output_over_time` gives, with delayed evaluation at every t."""
    steps = len(total) - 1
    begins = [first_step(t, delay) for t in range(1, steps + 1)]
    counted = torch.tensor([t - b for t, b in zip(range(1, steps + 1), begins, strict=True)])
    sums = (total[1:] - total[torch.tensor(begins)]).to(torch.float64)
    rank = sums.dim()
    return (sums / counted.reshape(-1, *[1] * (rank - 1)) * unit.reshape(-1, *[1] * (rank - 3))).to(torch.float32)


def counted_from(module: GraphModule, start: int) -> GraphModule:
    """The same network whose output counts the steps `start`..T-1.

    Raises:
        NetwrightError: there is no such step.
    """
    node, graph = _readout(module), module.to_graph()
    steps, old = node.attrs["steps"], node.attrs["start"]
    if not 0 <= start < steps:
        raise NetwrightError(f"The output was asked to count from step {start}; the network has steps 0 to {steps - 1}.")
    reader = next(n for n in graph if node.name in n.inputs)
    key = reader.weights["scale"]
    values = {**graph.values, key: graph.values[key] * ((steps - old) / (steps - start))}
    values[key] = values[key].astype(graph.values[key].dtype)
    nodes = [replace(n, attrs={**n.attrs, "start": start}) if n.name == node.name else n for n in graph]
    return GraphModule(graph.replace(nodes, values=values)).eval()


def accuracy_over_time(module: GraphModule, data: Data) -> list[float]:
    """Share of right answers at t = 1..T; `data` is (inputs [N, C, H, W], labels [N]) or an iterable of such batches.

    Raises:
        NetwrightError: the module is not spiking, or there are no data.
    """
    right, seen = None, 0
    for x, y in batches(data, batch_size(module)):
        hits = (logits_over_time(module, x).argmax(2) == y).sum(1)
        right, seen = hits if right is None else right + hits, seen + len(y)
    if right is None:
        raise NetwrightError("Accuracy over time was asked for no data. Give at least one batch.")
    return [float(r) / seen for r in right]


def spike_rates(module: GraphModule, x: Tensor) -> dict[str, float]:
    """Mean share of neurons that fire in a step, for each layer of neurons, on x [N, C, H, W]."""
    fired: dict[str, float] = {}

    def visit(node: Node, out: Tensor) -> None:
        if node.op == "integrate":
            fired[node.name] = fired.get(node.name, 0.0) + float((out != 0).sum()) / out[0].numel() / node.attrs["steps"]

    with torch.no_grad():
        for part in x.split(batch_size(module)):
            module.eval()(part, visit=visit)
    return {name: total / len(x) for name, total in fired.items()}


def steps_to_rest(module: GraphModule, x: Tensor) -> Tensor:
    """The last step in which any neuron fires, int64 [N], for each input of x [N, C, H, W]; 0 where none ever does.

    For a network whose input flows once (currents of later steps come from spikes alone), the step after it is silent, so
    nothing changes any more; T means that the network was not seen at rest. For one that is driven in every step a pause
    proves nothing.
    """
    found: list[Tensor] = []
    for part in x.split(batch_size(module)):
        last = torch.zeros(len(part), dtype=torch.int64)

        def visit(node: Node, out: Tensor, last: Tensor = last) -> None:
            if node.op == "integrate":
                fired = out.reshape(node.attrs["steps"], len(last), -1).any(2)
                at = torch.arange(1, len(fired) + 1)[:, None]
                last.copy_(torch.maximum(last, (fired * at).amax(0)))

        with torch.no_grad():
            module.eval()(part, visit=visit)
        found.append(last)
    return torch.cat(found)


@dataclass(frozen=True)
class Health:
    """A layer of neurons on some inputs: shares of its neurons that `never` fire and that fire in `every` step of every
    input, the mean share that fires in a step (`rate`), and after the last step the largest |v| / theta (`potential`) and
    the largest v / theta (`above`).

    Soft reset keeps v below theta unless a neuron is asked for more spikes than it may send: what stands above is input that
    was lost. Far below zero is where inhibited neurons end, more so with every step, which is no fault.
    """

    never: float
    every: float
    rate: float
    potential: float
    above: float

    @property
    def ailments(self) -> tuple[str, ...]:
        """What is wrong with the layer, in words; none where it is well."""
        found = []
        if self.never == 1.0:
            found.append("no neuron ever fires")
        elif self.never >= 0.5:
            found.append(f"{100 * self.never:.0f} % of the neurons never fire")
        if self.every >= 0.1:
            found.append(f"{100 * self.every:.0f} % of the neurons fire in every step: their threshold is too low")
        if self.above >= HIGH:
            found.append(f"a potential ends {self.above:.3g} thresholds high: input was lost")
        return tuple(found)


def health(module: GraphModule, x: Tensor) -> Mapping[str, Health]:
    """Dead, saturated and exploding neurons, for each layer of neurons, on x [N, C, H, W]."""
    totals: dict[str, list[float]] = {}
    fired: dict[str, tuple[Tensor, Tensor]] = {}
    sources = {n.inputs[0] for n in module.graph if n.op == "integrate"}
    for part in x.split(batch_size(module)):
        currents: dict[str, Tensor] = {}

        def visit(node: Node, out: Tensor, currents: dict[str, Tensor] = currents, n: int = len(part)) -> None:
            if node.name in sources:
                currents[node.name] = out
            if node.op != "integrate":
                return
            steps, w = node.attrs["steps"], module.weights(node)
            spikes = out.reshape(steps, n, *out.shape[1:])
            current = currents[node.inputs[0]].reshape(node.attrs["current_steps"], n, *out.shape[1:]).sum(0, dtype=torch.int64)
            current *= steps // node.attrs["current_steps"]
            shape = (-1, *[1] * (out.dim() - 2))
            theta, v0 = (w[k].to(torch.int64).reshape(shape) for k in ("theta", "v0"))
            v = v0 + current - theta * spikes.sum(0, dtype=torch.int64)
            never, every = ~(spikes != 0).any(0).any(0), (spikes != 0).all(0).all(0)
            if node.name in fired:
                never, every = never & fired[node.name][0], every & fired[node.name][1]
            fired[node.name] = never, every
            rate, potential, above = totals.get(node.name, [0.0, 0.0, -float("inf")])
            share = float((spikes != 0).to(torch.float64).mean()) * n / len(x)
            ends = v / theta
            totals[node.name] = [rate + share, max(potential, float(ends.abs().max())), max(above, float(ends.max()))]

        with torch.no_grad():
            module.eval()(part, visit=visit)
    return {
        name: Health(float(fired[name][0].double().mean()), float(fired[name][1].double().mean()), *ends)
        for name, ends in totals.items()
    }
