"""Mixed precision: each layer gets the bit width that costs the network least, under a budget.

    L[l, b] = mean KL( softmax(float) || softmax(network with layer l alone at b bits) )        sensitivities
    minimise sum over l of L[l, b_l]   such that   sum over l of cost[l, b_l] <= budget         choose

The losses of layers are taken to add up. Costs are bytes of weights, or bit operations ``MACs * b * 8`` (8-bit activations). The
second line is a multiple-choice knapsack, solved exactly: layer by layer, all (cost, loss) sums that no other sum beats in both
are kept, and the last one that fits is read back.

`space` gives the widths that are worth a look as domains, so that any search of the project can go on from the table: over
policies alone, or over policies and architectures at once as in the paper.

Differs from the paper: a measured table and an exact solver in place of an evolutionary search with trained predictors; that
search is the project's own, over `space`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from netwright.compress.calibrate import Rule, check
from netwright.compress.coded import CodedLayer
from netwright.compress.codes import Codes
from netwright.compress.quantise.posttraining import PostTraining, check_bits
from netwright.compress.quantise.uniform import uniform_codes
from netwright.core.errors import NetwrightError, UnknownName
from netwright.core.graph import Graph
from netwright.core.paper import Paper
from netwright.core.space import Domain, Space, choice
from netwright.design.execute import GraphModule

Cost = Literal["bytes", "bops"]


@dataclass(frozen=True)
class Choice:
    """One layer at one width: its loss (KL, nats an example), bytes of weights, bit operations of one pass."""

    loss: float
    bytes: float
    bops: float


Table = Mapping[str, Mapping[int, Choice]]


@dataclass(frozen=True)
class LayerBits:
    """A layer and its width, or in a space the domain of its widths."""

    layer: str
    bits: int | Domain


@dataclass(frozen=True)
class Policy:
    """The widths of all layers."""

    layers: tuple[LayerBits, ...]

    @property
    def bits(self) -> dict[str, int]:
        """Width by layer; only for a policy whose widths are chosen."""
        return {layer.layer: layer.bits for layer in self.layers if isinstance(layer.bits, int)}


def divergence(reference: Tensor, out: Tensor) -> float:
    """Mean KL(softmax(reference) || softmax(out)) over all but axis 1, the classes."""
    p, q = (F.log_softmax(v.double(), 1) for v in (reference, out))
    return max(0.0, float((p.exp() * (p - q)).sum(1).mean()))


def _outputs(network: GraphModule, x: Tensor, batch: int = 256) -> tuple[Tensor, ...]:
    """The outputs of a network over all of x, in a tuple also where there is one."""
    with torch.no_grad():
        parts = [network(part) for part in x.split(batch)]
    return tuple(torch.cat(p) for p in zip(*(p if isinstance(p, tuple) else (p,) for p in parts), strict=True))


def sensitivities(
    graph: Graph,
    calibration: Tensor,
    widths: Iterable[int] = (8, 4, 3, 2),
    layers: Iterable[str] | None = None,
    rule: Rule = "mse",
) -> dict[str, dict[int, Choice]]:
    """Loss and cost of each layer alone at each width, all else in float; layers x widths passes over the data.

    Args:
        graph: a float graph with values, outputs of class logits [N, C, ...]; of several the losses are added, and
            conditions [N, 1] are passed over.
        calibration: inputs [N, C, H, W].
        widths: bits to try, each 2..8.
        layers: names of weighted nodes; None: all of them.
        rule: how a channel's step is chosen, see `uniform_codes`.

    Raises:
        NetwrightError: no widths, a width out of range, or no output with two classes or more.
        UnknownName: a layer that is not a convolution or linear layer of the graph.
        DataError: the calibration set is empty or not finite.
    """
    widths = sorted({check_bits("sensitivities", b) for b in widths}, reverse=True)
    if not widths:
        raise NetwrightError("sensitivities was given no bit widths; give some of 2..8, such as (8, 4, 3, 2)")
    known = [n.name for n in graph if n.op in ("conv2d", "linear")]
    reference = _outputs(GraphModule(graph).eval(), check(calibration))
    logits = [i for i, out in enumerate(reference) if out.dim() > 1 and out.shape[1] > 1]
    if not logits:
        shapes = [list(out.shape) for out in reference]
        raise NetwrightError(
            f"sensitivities compares class logits [N, C, ...] with C >= 2, and the outputs have the shapes {shapes}; "
            "give widths by hand (policy=) or a network with logits"
        )
    table: dict[str, dict[int, Choice]] = {}
    for name in known if layers is None else layers:
        if name not in known:
            raise UnknownName("weighted layer", name, known)
        node = graph[name]
        weight, bias = graph.value(node, "weight"), graph.value(node, "bias") if "bias" in node.weights else None
        table[name] = {}
        for bits in widths:
            layer = CodedLayer(node, uniform_codes(weight, bits, rule), bias)
            outs = _outputs(GraphModule(graph, {name: layer}).eval(), calibration)
            loss = sum(divergence(reference[i], outs[i]) for i in logits)
            table[name][bits] = Choice(loss, weight.size * bits / 8, float(node.macs * bits * 8))
    return table


def cost_of(table: Table, bits: Mapping[str, int], cost: Cost = "bytes") -> float:
    """Bytes or bit operations of a choice of widths."""
    return sum(getattr(table[name][b], cost) for name, b in bits.items())


def choose(table: Table, budget: float, cost: Cost = "bytes") -> dict[str, int]:
    """The widths with the least sum of losses whose cost is within `budget`; exact. Of equal losses the cheaper one.

    Time and memory grow with the number of distinct costs, at most ``budget`` over the largest common step of the costs.

    Raises:
        NetwrightError: even the cheapest widths cost more than `budget`.
    """
    options = {name: list(row.items()) for name, row in table.items()}
    costs = {name: np.array([getattr(c, cost) for _, c in row], np.float64) for name, row in options.items()}
    rest = sum(float(c.min()) for c in costs.values())
    if rest > budget:
        raise NetwrightError(f"a budget of {budget:g} {cost} was asked for and the narrowest widths need {rest:g}; "
                             "give a larger budget or smaller widths")  # fmt: skip
    spent, lost = np.zeros(1), np.zeros(1)
    steps: list[tuple[np.ndarray, np.ndarray]] = []  # of every kept sum: which sum it extends, by which option
    for name, row in options.items():
        rest -= float(costs[name].min())
        all_spent = (spent[:, None] + costs[name]).ravel()
        all_lost = (lost[:, None] + np.array([c.loss for _, c in row])).ravel()
        order = np.lexsort((all_lost, all_spent))
        order = order[all_spent[order] + rest <= budget]
        before = np.minimum.accumulate(np.concatenate([[np.inf], all_lost[order][:-1]]))
        order = order[all_lost[order] < before]
        spent, lost = all_spent[order], all_lost[order]
        steps.append((order // len(row), order % len(row)))
    at, found = len(spent) - 1, {}
    for name, (source, option) in zip(reversed(options), reversed(steps), strict=True):
        found[name] = options[name][int(option[at])][0]
        at = int(source[at])
    return {name: found[name] for name in options}


def space(table: Table, tolerance: float, name: str = "bits") -> Space:
    """The policies worth a look: for each layer the widths whose loss alone is at most `tolerance`, and always its best one.

    Decisions are named ``layers.<i>.bits``; a layer with one width left is none. ``space.fill(arch)`` is a `Policy`, which
    `MixedPrecision` takes.
    """
    layers = []
    for layer, row in table.items():
        best = min(row, key=lambda b: row[b].loss)
        widths = sorted({b for b, c in row.items() if c.loss <= tolerance} | {best})
        layers.append(LayerBits(layer, choice(*widths) if len(widths) > 1 else widths[0]))
    return Space(name, Policy(tuple(layers)))


@dataclass(frozen=True)
class MixedPrecision(PostTraining):
    """Uniform weights whose widths differ from layer to layer.

    Attributes:
        budget: share of what the layers that may be narrow cost with 8 bits, at least the narrowest width over 8, at most 1.
        cost: bytes of weights, or bops.
        widths: bits to choose from, each 2..8.
        weights: how a channel's step is chosen: mse, minmax or percentile.
        policy: widths by hand or from a search; layers that it does not name have 8 bits. None: chosen under the budget.

    Raises:
        NetwrightError: no widths, or a budget or a width out of range.
    """

    budget: float = 0.5
    cost: Cost = "bytes"
    widths: tuple[int, ...] = (8, 4, 3, 2)
    weights: Rule = "mse"
    policy: Policy | None = None

    name: ClassVar[str] = "mixed"
    paper: ClassVar[Paper] = Paper(
        "sridhar2023simq", "SimQ-NAS: Simultaneous Quantization Policy and Neural Architecture Search",
        "Sharath Nittur Sridhar and Maciej Szankin and Fang Chen and Sairam Sundaresan and Anthony Sarah",
        "arXiv", 2023, "https://arxiv.org/abs/2312.13301", "S058",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for bits in (*self.widths, *(self.policy.bits.values() if self.policy else ())):
            check_bits(self.name, bits)
        least = min(self.widths, default=8) / 8
        if not self.widths or not least <= self.budget <= 1:
            raise NetwrightError(
                f"{self.name} was asked for a budget of {self.budget:g} with the widths {self.widths}; give a share of the cost "
                f"with 8 bits, from {least:g} (the narrowest width over 8) to 1, and at least one width"
            )

    def table(self, graph: Graph, calibration: Tensor) -> dict[str, dict[int, Choice]]:
        """Sensitivities of the layers that may be narrow; the others have 8 bits and are not in it."""
        return sensitivities(graph, calibration, self.widths, self.narrow(graph), self.weights)

    def choose(self, graph: Graph, calibration: Tensor) -> dict[str, int]:
        """Widths by node name of the layers that may be narrow, under the budget."""
        table = self.table(graph, calibration)
        widest = max(self.widths)
        return choose(table, self.budget * cost_of(table, dict.fromkeys(table, widest), self.cost) * 8 / widest, self.cost)

    def codes(self, graph: Graph, calibration: Tensor) -> dict[str, Codes]:
        bits = self.policy.bits if self.policy is not None else self.choose(graph, calibration)
        known = {n.name for n in graph if n.op in ("conv2d", "linear")}
        for name in bits:
            if name not in known:
                raise UnknownName("weighted layer", name, known)
        return {name: uniform_codes(graph.value(graph[name], "weight"), b, self.weights) for name, b in bits.items()}
