"""What pruning methods share: a network with masks on its weights, and which channels a budget of MACs costs.

    y = f(x; m * w),     m = 0 or 1        (a weight that is masked gets no gradient either)

Methods that remove channels leave a smaller network (`design.channels`); methods that remove single weights leave zeros,
which the sparse kernels of the C back end skip.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from netwright.compress.calibrate import check
from netwright.compress.compressor import Compressor
from netwright.core.errors import NetwrightError, Unsupported
from netwright.core.graph import Graph, Node
from netwright.design.channels import Channels
from netwright.design.execute import RUN, GraphModule
from netwright.design.trace import trace

LAYERS = ("conv2d", "linear", "conv_transpose2d")
Chosen = dict[str, list[int]]  # group of channels -> which of them


class Masked(GraphModule):
    """A float graph with a mask over each of the parameters `keys`; the masks are buffers and start as ones."""

    last = True  # the weights after the last step are the result, whatever the accuracy was on the way

    def __init__(self, graph: Graph, keys: Iterable[str]):
        super().__init__(graph)
        self.masked = tuple(dict.fromkeys(keys))
        for key in self.masked:
            # bool: a moving average of the weights copies them as they are
            self.register_buffer(self._mask(key), torch.ones_like(self.value(key), dtype=torch.bool))

    @staticmethod
    def _mask(key: str) -> str:
        return "mask_" + key.replace(".", "/")

    def value(self, key: str) -> Tensor:
        """The live parameter, without its mask."""
        found: Tensor = getattr(self, self._key(key))
        return found

    def mask(self, key: str) -> Tensor:
        found: Tensor = getattr(self, self._mask(key))
        return found

    def weights(self, node: Node) -> dict[str, Tensor]:
        found = super().weights(node)
        return {r: w * self.mask(node.weights[r]) if node.weights[r] in self.masked else w for r, w in found.items()}

    def to_graph(self) -> Graph:
        """The graph with the present values, zero where they are masked."""
        graph = super().to_graph()
        zeroed = {key: graph.values[key] * self.mask(key).cpu().numpy() for key in self.masked}
        return graph.replace(graph.nodes, values={**graph.values, **zeroed})

    def follow(self, progress: float) -> None:
        """Called before every step with the share of the training that is over, in [0, 1); methods that act read it."""

    @property
    def sparsity(self) -> float:
        """Share of the masked parameters' elements that are zero."""
        kept = sum(int(self.mask(k).sum()) for k in self.masked)
        return 1 - kept / max(1, sum(self.mask(k).numel() for k in self.masked))


@dataclass(frozen=True)
class Pruner(Compressor):
    """A smaller or sparser float network."""

    form: ClassVar[str] = "float"

    def share(self, field: str) -> None:
        """Raises NetwrightError where a field is no share of a whole, in [0, 1)."""
        value: Any = getattr(self, field)
        if not 0 <= value < 1:
            raise NetwrightError(
                f"{self.name} was asked for {field} = {value}; a share of the network is at least 0 and below 1. "
                f"Give what is to be removed, for example {field}=0.5 for half."
            )

    def prepare(self, module: nn.Module, example: Tensor, calibration: Tensor) -> GraphModule:
        """The network as a trainable graph; see the method for what is added to it.

        Raises:
            Unsupported: an operation that a graph cannot carry out.
        """
        check(calibration)
        graph = trace(module, example)
        for node in graph:
            if node.op not in RUN and node.op not in ("input", "batch_norm"):
                raise Unsupported(self.name, node.op, node.origin, "Replace it, or prune the part of the network without it.")
        return self.trainee(graph)

    def trainee(self, graph: Graph) -> GraphModule:
        """What is trained (or, by methods that need no training, looked at)."""
        return GraphModule(graph).eval()

    def finish(self, trainee: nn.Module, calibration: Tensor) -> GraphModule:
        """The float network with the present weights, masked ones zero."""
        check(calibration)
        assert isinstance(trainee, GraphModule)
        return GraphModule(trainee.to_graph()).eval()


def layer_weights(graph: Graph) -> list[str]:
    """Keys of the weights of convolutions and linear layers, in order of execution, shared ones once."""
    return list(dict.fromkeys(n.weights["weight"] for n in graph if n.op in LAYERS))


def choose(channels: Channels, saliency: Mapping[str, NDArray[np.float64]], target: float, multiple: int = 1) -> Chosen:
    """The channels to remove for a budget: the least salient for the MACs they cost, as many as are needed, no more.

    Removed are the first k of all units in the order of ``saliency / cost`` with the smallest k that leaves at most
    ``(1 - target) * MACs``; the cost of a unit is what the network saves without it alone. One unit of each group stays.

    Args:
        saliency: name of a group -> importance of each of its units [size]; groups that are not named stay whole.
        target: share of the MACs to remove.
        multiple: what is left of a group is a multiple of it, where the group has at least twice as many units: kernels work
            on 8 or 16 channels at once, and what does not fill them saves nothing.

    Raises:
        NetwrightError: all that may be removed is less than `target`.
    """
    total = channels.graph.macs
    ranked: list[tuple[float, str, tuple[int, ...]]] = []
    for name, values in saliency.items():
        cost = max(1, total - channels.macs({name: [0]})) if len(values) > 1 else 1
        step = multiple if len(values) >= 2 * multiple else 1
        order = [int(i) for i in np.argsort(values, kind="stable")]
        first_block = len(order) % step or step
        ends = range(first_block, len(order), step)  # the most salient ones stay
        blocks = [tuple(order[max(0, end - step) if end > first_block else 0 : end]) for end in ends]
        ranked += [(float(values[list(b)].mean()) / cost, name, b) for b in blocks]
    ranked.sort()

    def first(k: int) -> Chosen:
        chosen: Chosen = {}
        for _, name, units in ranked[:k]:
            chosen.setdefault(name, []).extend(units)
        return chosen

    budget = (1 - target) * total
    low, high = 0, len(ranked)
    if (least := channels.macs(first(high))) > budget:
        raise NetwrightError(
            f"{target:.0%} of {total} MACs were to be removed, and with one channel of every removable group left the network "
            f"still has {least} ({least / total:.0%}). Give a target of at most {np.floor(100 * (1 - least / total)) / 100}."
        )
    while low < high:  # MACs fall with k
        middle = (low + high) // 2
        low, high = (low, middle) if channels.macs(first(middle)) <= budget else (middle + 1, high)
    return first(low)
