"""Fire together wire together: a small predictor says for each input which channels of a convolution are worth computing.

    logit = A mean_hw(x) + b,    gate = [logit >= 0]  (that is, sigmoid >= 1/2),     y = gate * act(norm(conv(x)))
    target_c = 1 for the k channels with the largest a_c = sum_hw |y_c|,  k smallest with sum of theirs >= tau * sum_c a_c
    loss = loss of the task + weight * sum over layers of BCE(logit, target)

The target comes from the layer's own output, so the predictors need no labels; no gradient flows from the gate or the
predictor into the network. A channel whose gate is 0 is zero and need not be computed.

Differs from the paper: the mean over the picture instead of its maximum, and one linear layer as the predictor.
The C back end computes only the channels that are on, where a convolution is large enough to gain from it (see
`deploy.c99.gates`); the others compute all and multiply by the gate. `active_macs` counts the work that is left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.compress.calibrate import check
from netwright.compress.compressor import Stage
from netwright.compress.prune.pruner import Pruner
from netwright.compress.trainee import WithLoss
from netwright.core.errors import NetwrightError
from netwright.core.graph import ACTIVATIONS, Graph, Node, Spec
from netwright.core.paper import Paper
from netwright.design.execute import GraphModule

BEHIND = ACTIVATIONS | {"batch_norm", "affine", "prelu"}
GATE = ".gate"  # end of the names of the nodes that hold a gate


def largest(y: Tensor, tau: float) -> Tensor:
    """Target masks [N, C] of outputs [N, C, H, W]: the fewest channels that carry the share tau of the sum of |y|."""
    mass = y.abs().sum((2, 3))
    ordered, places = mass.sort(1, descending=True)
    before = ordered.cumsum(1) - ordered
    return torch.zeros_like(mass).scatter(1, places, (before < tau * mass.sum(1, keepdim=True)).to(mass.dtype))


@dataclass(frozen=True)
class Gated:
    """A convolution, what it reads, and the node behind it (norm, activation) whose output is gated."""

    conv: str
    source: str
    end: str


def gated(graph: Graph) -> list[Gated]:
    """The convolutions that get a gate: all ungrouped ones that do not read the network's input."""
    by_name, readers, found = graph.by_name, graph.consumers(), []
    for node in graph:
        if node.op != "conv2d" or node.attrs["groups"] != 1 or by_name[node.inputs[0]].op == "input":
            continue
        end = node
        while end.name not in graph.outputs and len(readers[end.name]) == 1 and readers[end.name][0].op in BEHIND:
            end = readers[end.name][0]
        if end.name not in graph.outputs:
            found.append(Gated(node.name, node.inputs[0], end.name))
    return found


class Predicting(GraphModule):
    """The trainee: the network with its gates; in training mode the output carries the predictors' loss."""

    def __init__(self, graph: Graph, method: FTWT):
        super().__init__(graph)
        self.method, self.gates = method, gated(graph)
        self.ends = {g.end: g for g in self.gates}
        self.predictors = nn.ModuleDict()
        by_name = graph.by_name
        for g in self.gates:
            layer = nn.Linear(by_name[g.source].spec.shape[1], by_name[g.conv].spec.shape[1])
            nn.init.zeros_(layer.weight)
            nn.init.ones_(layer.bias)  # all channels on at first
            self.predictors[self._name(g)] = layer

    @staticmethod
    def _name(g: Gated) -> str:
        return g.conv.replace(".", "/")

    def forward(self, *inputs: Tensor, visit: Any = None) -> Any:
        pooled: dict[str, Tensor] = {}
        losses: list[Tensor] = []
        sources = {g.source for g in self.gates}

        def gate(node: Node, out: Tensor) -> Tensor:
            if (g := self.ends.get(node.name)) is not None:
                logits = self.predictors[self._name(g)](pooled[g.source])
                if self.training:
                    losses.append(F.binary_cross_entropy_with_logits(logits, largest(out.detach(), self.method.tau)))
                out = out * (logits >= 0)[:, :, None, None]
            if visit is not None and (changed := visit(node, out)) is not None:
                out = changed
            if node.name in sources:
                pooled[node.name] = out.detach().mean((2, 3))
            return out

        found = super().forward(*inputs, visit=gate)
        if losses and isinstance(found, Tensor) and torch.is_grad_enabled():
            found = WithLoss.apply(found, self.method.weight * torch.stack(losses).sum())
        return found

    @torch.no_grad()
    def settle(self, calibration: Tensor, count: int = 256) -> None:
        """Start from the channels that are usually worth it: b = logit of how often each is in the target."""
        places = torch.linspace(0, len(calibration) - 1, min(count, len(calibration))).round().long()

        def visit(node: Node, out: Tensor) -> None:
            if (g := self.ends.get(node.name)) is not None:
                often = largest(out, self.method.tau).mean(0).clamp(0.1, 0.9)
                self.predictors[self._name(g)].bias.copy_(often.logit())  # type: ignore[operator]

        # a bias is set behind its gate's use, so all gates are still on here
        self.eval()(calibration[places], visit=visit)

    def written(self) -> Graph:
        """The graph with its gates as nodes: mean, linear, ge, reshape, mul."""
        graph = self.to_graph()
        values, params, table, nodes = dict(graph.values), dict(graph.params), dict[str, str](), []
        for old in graph:
            node = graph.rename_inputs(old, table)
            nodes.append(node)
            if (g := self.ends.get(node.name)) is None:
                continue
            layer, keys = self.predictors[self._name(g)], {r: f"{g.conv}.predictor.{r}" for r in ("weight", "bias")}
            for role, key in keys.items():
                values[key] = getattr(layer, role).detach().cpu().numpy()
                params[key] = Spec(values[key].shape)
            wide, high = values[keys["weight"]].shape[::-1]
            mean, score, on, gate, product = (g.conv + s for s in (".mean", ".score", ".on", GATE, ".gated"))
            bit = Spec((1, high), 1, "int")
            nodes += [
                Node(mean, "mean", (table.get(g.source, g.source),), Spec((1, wide)), {"dims": [2, 3], "keepdim": False}),
                Node(score, "linear", (mean,), Spec((1, high)), {}, keys, wide * high),
                Node(on, "ge", (score,), bit, {"scalar": 0.0}),
                Node(gate, "reshape", (on,), replace(bit, shape=(1, high, 1, 1))),
                Node(product, "mul", (node.name, gate), node.spec),
            ]
            table[node.name] = product
        return graph.replace(nodes, [table.get(o, o) for o in graph.outputs], params, values)


@torch.no_grad()
def active(network: GraphModule, x: Tensor) -> dict[str, float]:
    """Share of the channels that are on for inputs [N, C, H, W], by the name of the convolution."""
    found: dict[str, float] = {}

    def visit(node: Node, out: Tensor) -> None:
        if node.name.endswith(GATE):
            found[node.name.removesuffix(GATE)] = float(out.float().mean())

    network(x, visit=visit)
    return found


@torch.no_grad()
def active_macs(network: GraphModule, x: Tensor, block: int = 1) -> float:
    """Mean multiply-accumulates of one pass for inputs [N, C, H, W]: of a gated convolution those of the channels that are on,
    filled up to whole blocks of `block` (16 in compiled C), of everything else, the predictors too, all. Inputs of a convolution
    that are zero are counted: nothing skips them."""
    graph, saved = network.graph, 0.0
    by_name = graph.by_name

    def visit(node: Node, out: Tensor) -> None:
        nonlocal saved
        if node.name.endswith(GATE):
            channels = out.shape[1]
            used = ((out.flatten(1).sum(1) / block).ceil() * block).clamp(max=channels)
            saved += by_name[node.name.removesuffix(GATE)].macs * (1 - float(used.mean()) / channels)

    network(x, visit=visit)
    return graph.macs - saved


@dataclass(frozen=True)
class FTWT(Pruner):
    """Dynamic pruning: which channels are computed depends on the input.

    Attributes:
        tau: share of the activation mass that the kept channels carry, in (0, 1]; 1 keeps all channels that are not zero.
        weight: of the predictors' loss.
    """

    tau: float = 0.9
    weight: float = 1.0

    name: ClassVar[str] = "ftwt"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("ftwt", 1.0, 2e-3),)
    paper: ClassVar[Paper] = Paper(
        "elkerdawy2022fire",
        "Fire Together Wire Together: A Dynamic Pruning Approach with Self-Supervised Mask Prediction",
        "Elkerdawy, Sara and Elhoushi, Mostafa and Zhang, Hong and Ray, Nilanjan",
        "CVPR", 2022, "https://arxiv.org/abs/2110.08232", "S190",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not 0 < self.tau <= 1:
            raise NetwrightError(
                f"ftwt was asked to keep tau = {self.tau} of the activations' mass. Give more than 0, at most 1."
            )

    def trainee(self, graph: Graph) -> Predicting:
        """With a predictor for every gated convolution.

        Raises:
            NetwrightError: the network has no convolution behind the first that could be gated.
        """
        if not gated(graph):
            raise NetwrightError("ftwt gates ungrouped convolutions behind the first one, and this network has none.")
        return Predicting(graph, self)

    def prepare(self, module: nn.Module, example: Tensor, calibration: Tensor) -> GraphModule:
        """As `trainee`, with first biases from the calibration data."""
        found = super().prepare(module, example, calibration)
        assert isinstance(found, Predicting)
        found.settle(calibration)
        return found

    def finish(self, trainee: nn.Module, calibration: Tensor) -> GraphModule:
        """The network with its gates."""
        check(calibration)
        assert isinstance(trainee, Predicting)
        return GraphModule(trainee.written()).eval()
