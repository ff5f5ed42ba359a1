"""OPTIN: one shot of pruning for any network, without training, by what a channel means to all later layers.

Channel (neuron, head) j of a group is masked and the rest of the network is run again on calibration data. With F_i the
output of later layer i, and p the softmax of the network's output,

    I(j) = lambda mean_i ||F_i - F_i^j||^2 / ||F_i||^2 + (1 - lambda) KL(p || p^j)        i: the layers of the trajectory

The channels with the least I for the MACs they cost are removed until the budget is met. Only what lies behind a channel
is computed again; all of the trajectory is held in memory for `samples` inputs.

Differs from the paper: features are compared by a relative squared error, there by relations between patches (manifold
distillation); the mean over the later layers is taken, because a sum says that late channels matter little; the budget is
met by one greedy pass over importance per MAC for heads, neurons and channels alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.compress.calibrate import check
from netwright.compress.prune.pruner import LAYERS, Pruner, choose
from netwright.core.errors import NetwrightError
from netwright.core.graph import Graph, Node
from netwright.core.paper import Paper
from netwright.design.channels import Channels, Group
from netwright.design.execute import GraphModule

TRAJECTORY = (*LAYERS, "add")  # layers and the sums of residual networks


class Trajectory:
    """All outputs of a network on some inputs, and how far they move when a channel is masked."""

    def __init__(self, graph: Graph, x: Tensor, features: float):
        self.graph, self.features = graph, features
        self.network = GraphModule(graph).eval()
        self.values: dict[str, Tensor] = {}
        self.network(x, visit=lambda node, out: self.values.update({node.name: out}))

    def importance(self, group: Group) -> NDArray[np.float64]:
        """[size of the group]; a unit is masked by zeros in the columns of the layers that read it."""
        reads = [p for p in group.parts if p.does == "reads"]
        behind = self._behind({p.key for p in reads})
        found = np.zeros(group.size)
        for unit in range(group.size):
            kept = []
            for part in reads:
                weight = getattr(self.network, self.network._key(part.key))
                kept.append((weight, weight.clone()))
                weight.index_fill_(part.axis, torch.from_numpy(np.flatnonzero(part.unit == unit)), 0.0)
            found[unit] = self._moved(behind)
            for weight, whole in kept:
                weight.copy_(whole)
        return found

    def _behind(self, keys: set[str]) -> list[Node]:
        names: set[str] = set()
        for node in self.graph:
            if keys & set(node.weights.values()) or names & set(node.inputs):
                names.add(node.name)
        return [n for n in self.graph if n.name in names]

    def _moved(self, behind: list[Node]) -> float:
        new: dict[str, Tensor] = {}
        moved, told = [], 0.0
        for node in behind:
            out = new[node.name] = self.network.run(node, *(new[i] if i in new else self.values[i] for i in node.inputs))
            was = self.values[node.name]
            if node.op in TRAJECTORY:
                moved.append(float((out - was).square().sum() / was.square().sum().clamp(min=1e-12)))
            if node.name in self.graph.outputs and out.dim() == 2:
                p, q = F.log_softmax(was, 1), F.log_softmax(out, 1)
                told += float(F.kl_div(q, p, reduction="batchmean", log_target=True))
        return self.features * float(np.mean(moved)) + (1 - self.features) * told


@dataclass(frozen=True)
class OPTIN(Pruner):
    """Removes channels, hidden neurons and attention heads by their effect on later features; calibration data only.

    Attributes:
        target: share of the multiply-accumulates to remove.
        samples: calibration inputs that are used, evenly spaced over those given.
        features: lambda, the weight of the features against that of the output.
    """

    target: float = 0.3
    samples: int = 16
    features: float = 0.5

    name: ClassVar[str] = "optin"
    paper: ClassVar[Paper] = Paper(
        "khaki2024optin", "The Need for Speed: Pruning Transformers with One Recipe",
        "Khaki, Samir and Plataniotis, Konstantinos N.", "ICLR", 2024, "https://arxiv.org/abs/2403.17921", "S202",
    )  # fmt: skip

    def __post_init__(self) -> None:
        self.share("target")
        if self.samples < 1 or not 0 <= self.features <= 1:
            raise NetwrightError(
                f"optin was given samples = {self.samples} and features = {self.features}. "
                "Give at least one sample and a weight between 0 and 1."
            )

    @torch.no_grad()
    def finish(self, trainee: nn.Module, calibration: Tensor) -> GraphModule:
        """The smaller network.

        Raises:
            NetwrightError: the network has too few channels that could be removed for the target.
        """
        check(calibration)
        assert isinstance(trainee, GraphModule)
        graph = trainee.to_graph()
        channels = Channels(graph)
        places = torch.linspace(0, len(calibration) - 1, min(self.samples, len(calibration))).round().long()
        trajectory = Trajectory(graph, calibration[places], self.features)
        importance = {g.name: trajectory.importance(g) for g in channels.groups if g.exact and g.size > 1}
        return GraphModule(channels.remove(choose(channels, importance, self.target))).eval()
