"""Unroll: what a spiking GraphModule does over time, from one simulation.

All steps of a layer are computed at once (time is part of the batch), only the neurons walk through time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from netwright.core.errors import NetwrightError
from netwright.core.graph import Node
from netwright.design.execute import GraphModule

WINDOW = 4  # steps that the output sums at least (all of them where there are fewer)
ELEMENTS = 2**23  # of the largest tensor of one simulated batch


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


def _batches(data: Iterable[tuple[Tensor, Tensor]] | tuple[Tensor, Tensor], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    pairs = [data] if isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], Tensor) else data
    for x, y in pairs:
        yield from zip(x.split(size), y.split(size), strict=True)


def logits_over_time(module: GraphModule, x: Tensor) -> Tensor:
    """Logits after 1..T steps, [T, N, K], in the unit of one step, for x [N, C, H, W]; delayed evaluation at every t."""
    node = _readout(module)
    steps, delay = node.attrs["steps"], node.attrs.get("delay", node.attrs["start"])
    kept: list[Tensor] = []

    def visit(seen: Node, out: Tensor) -> None:
        if seen.name == node.inputs[0]:
            kept.append(out)

    with torch.no_grad():
        module.eval()(x, visit=visit)
    total = kept[0].reshape(steps, x.shape[0], *kept[0].shape[1:]).to(torch.int64).cumsum(0)
    total = torch.cat([torch.zeros_like(total[:1]), total])
    begins = [first_step(t, delay) for t in range(1, steps + 1)]
    counted = torch.tensor([t - b for t, b in zip(range(1, steps + 1), begins, strict=True)])
    sums = (total[1:] - total[torch.tensor(begins)]).to(torch.float64)
    scale = next(module.weights(n)["scale"] for n in module.graph if node.name in n.inputs)
    unit = scale.to(torch.float64) * (steps - node.attrs["start"])
    rank = sums.dim()
    return (sums / counted.reshape(-1, *[1] * (rank - 1)) * unit.reshape(-1, *[1] * (rank - 3))).to(torch.float32)


def accuracy_over_time(module: GraphModule, data: Iterable[tuple[Tensor, Tensor]] | tuple[Tensor, Tensor]) -> list[float]:
    """Share of right answers at t = 1..T; `data` is (inputs [N, C, H, W], labels [N]) or an iterable of such batches.

    Raises:
        NetwrightError: the module is not spiking, or there are no data.
    """
    right, seen = None, 0
    for x, y in _batches(data, batch_size(module)):
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
