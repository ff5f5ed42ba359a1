"""Approximate: what has no spiking form becomes a sum of clipped rectifiers, in the float graph, before it is read.

A function of one value becomes piecewise linear (see `pieces`), each piece a clipped rectifier

    f(z) ~ sum_k g_k clip(a_k z + b_k, 0, 1).

A clipped rectifier is one layer of integrate-and-fire neurons with theta = 1 (a neuron fires at most once a step), and only the
piece that z lies in is counted in spikes: the others are silent or fire in every step. K pieces of T steps so tell K T values
apart. The pieces are channels side by side; their sum folds into the layer behind them. Leaky and parametric relu, abs, clips at
any bounds and hardsigmoid are exact.

A product of two values goes through squares,

    x g = a b / 4 ((x/a + g/b)^2 - (x/a - g/b)^2),        a, b: largest magnitudes on the calibration data,

each square a function of one value as above, so that gates (squeeze-and-excitation, GLU) are spikes as well. The larger and the
smaller of two values are exact: max(x, y) = y + relu(x - y).

An expression of one tensor (x * sigmoid(x), x * relu6(x + 3) / 6) is approximated as one function. What is left as it is:
matrix products of two computed tensors, softmax, and normalisation by statistics of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netwright.core.errors import NetwrightError
from netwright.core.graph import ACTIVATIONS, Graph, Node, Spec
from netwright.design.execute import RUN, GraphModule
from netwright.spike.convert.pieces import GRID, TINY, Function, Pieces, Vector, pieces

SAMPLES, BATCH, IMAGES = 2048, 32, 256
NATIVE = frozenset({"relu", "relu6"})
ARITHMETIC = frozenset({"add", "sub", "mul", "div", "maximum", "minimum", "pow", "gt", "ge", "lt", "le", "eq", "ne", "where"})
WIDE: dict[str, Callable[..., Tensor]] = {  # what `RUN` computes in 32 bits, or on truth values
    "maximum": torch.maximum, "minimum": torch.minimum, "where": lambda c, x, y: torch.where(c != 0, x, y),
}  # fmt: skip
UNARY = (ACTIVATIONS | {"abs", "sqrt", "rsqrt", "exp", "log", "sin", "cos", "erf", "pow"}) & set(RUN)


@dataclass(frozen=True)
class Replacement:
    """One expression of the float graph and what stands in its place.

    Attributes:
        path, line: the module and the line of the program that it comes from.
        what: its operations, in order.
        exact: equal for every input; else `worst` is the largest error on the calibration range [low, high] (for products:
            on the calibration data) and `rms` the root of the mean squared error on the calibration data.
        rectifiers: neurons for each value.
    """

    path: str
    line: str
    what: str
    exact: bool
    low: float
    high: float
    rectifiers: int
    worst: float
    rms: float


@dataclass(frozen=True)
class Approximation:
    """What was replaced, and what it does to the network on the calibration data.

    Attributes:
        rms: root of the mean squared change of the outputs, over the standard deviation of the outputs.
        agreement: share of calibration inputs with the same largest output.
    """

    replaced: tuple[Replacement, ...]
    rms: float = 0.0
    agreement: float = 1.0


class _Expression:
    """Elementwise nodes between one tensor, the root, and a node: a function of one value."""

    def __init__(self, graph: Graph):
        self.graph, self.nodes = graph, graph.by_name
        self.constants = {n.name: self._number(n) for n in graph if n.op == "constant"}
        self.root: dict[str, str] = {}
        self.seen: set[str] = set()  # nodes that something outside of their expression reads
        for node in graph:
            self.root[node.name] = self._root(node)
        readers = graph.consumers()
        self.seen = {n.name for n in graph if n.name in graph.outputs or any(not self.inside(n, r) for r in readers[n.name])}
        for node in graph:  # what is read as it is and has a spiking form is a tensor of its own to what follows
            self.root[node.name] = self._root(node)

    def inside(self, node: Node, reader: Node) -> bool:
        return self.root[reader.name] == self.root[node.name] and self.root[reader.name] != reader.name

    def _number(self, node: Node) -> float | None:
        value = self.graph.values.get(node.weights["value"])
        return float(value.reshape(-1)[0]) if value is not None and value.size and (value == value.flat[0]).all() else None

    def _root(self, node: Node) -> str:
        varying = [i for i in node.inputs if self.constants.get(i) is None]
        plain = node.op in UNARY or node.op in ARITHMETIC
        others = [self.graph.values[k] for k in node.weights.values() if k in self.graph.values]
        same = all(self.nodes[i].spec.shape == node.spec.shape for i in varying)
        if not plain or not varying or not same or any(not o.size or (o != o.flat[0]).any() for o in others):
            return node.name
        roots = {i if i in self.seen and not self.foreign(i) else self.root[i] for i in varying}
        return roots.pop() if len(roots) == 1 else node.name

    def members(self, name: str) -> list[Node]:
        """The nodes of the expression that ends at `name`, in order."""
        root, found = self.root[name], {name}
        for node in reversed(self.graph.nodes):
            if node.name in found and node.name != root:
                found.update(i for i in node.inputs if i != root and self.constants.get(i) is None)
        return [n for n in self.graph if n.name in found and n.name != root]

    def foreign(self, name: str) -> bool:
        """The expression holds something that has no spiking form as it is."""
        return self.root[name] != name and any(not self.native(n) for n in self.members(name))

    def native(self, node: Node) -> bool:
        varying = sum(self.constants.get(i) is None for i in node.inputs)
        if node.op == "hardtanh":
            return bool(node.attrs["max"] > 0 and node.attrs["min"] in (0, -node.attrs["max"]))
        if node.op in ("mul", "div"):
            return varying == 1 and not (node.op == "div" and node.attrs.get("reverse"))
        return node.op in NATIVE or node.op in ("add", "sub")

    def function(self, name: str) -> Function:
        members, root = self.members(name), self.root[name]

        def f(z: Tensor) -> Tensor:
            values = {root: z}
            for node in members:
                w = {r: torch.full_like(z, float(self.graph.values[k].flat[0])) for r, k in node.weights.items()}
                inputs = [values[i] if i in values else torch.full_like(z, self.constants[i] or 0.0) for i in node.inputs]
                if node.op in WIDE:
                    fixed = [w["other"] if "other" in w else torch.full_like(z, node.attrs.get("scalar", 0.0))]
                    y = WIDE[node.op](*inputs, *(fixed if len(inputs) == 1 else ()))
                else:
                    y = RUN[node.op](node, w, *inputs)
                values[node.name] = y.to(torch.float64)
            return values[name]

        return f


class _Rewriter:
    """Walks the graph and puts rectifiers in the place of what has no spiking form."""

    def __init__(self, graph: Graph, calibration: Tensor, knots: int, hold: bool):
        self.graph, self.knots, self.hold = graph, knots, hold
        self.expression = _Expression(graph)
        self.nodes: list[Node] = []
        self.shapes = {n.name: n.spec.shape for n in graph}
        self.params, self.values = dict(graph.params), dict(graph.values)
        self.names, self.readers = {n.name for n in graph}, graph.consumers()
        self.replaced: list[Replacement] = []
        self.targets = [n for n in graph if self.wanted(n)]
        self.samples = self._samples(calibration) if self.targets else {}

    def wanted(self, node: Node) -> bool:
        e = self.expression
        if e.root[node.name] != node.name:
            return node.name in e.seen and e.foreign(node.name)
        return node.op == "prelu" or self.pair(node)

    def pair(self, node: Node) -> bool:
        known = [i for i in node.inputs if i in self.expression.constants]
        return (
            self.expression.root[node.name] == node.name
            and node.op in ("mul", "div", "maximum", "minimum")
            and len(node.inputs) == 2
            and not known
        )

    def _samples(self, calibration: Tensor) -> dict[str, Tensor]:
        """For each target the values of what it reads, [n, 1] for a function and [n, 2] for a pair; extremes are among them."""
        found: dict[str, list[Tensor]] = {n.name: [] for n in self.targets}
        sources = {n.name: self.sources(n) for n in self.targets}
        wanted = {s for names in sources.values() for s in names}
        module = GraphModule(self.graph).eval()
        with torch.no_grad():
            for part in calibration.split(BATCH):
                kept: dict[str, Tensor] = {}

                def visit(node: Node, out: Tensor, kept: dict[str, Tensor] = kept) -> None:
                    if node.name in wanted:
                        kept[node.name] = out

                module(part.to(torch.float32), visit=visit)
                for name, given in sources.items():
                    flat = torch.stack([t.reshape(-1) for t in torch.broadcast_tensors(*(kept[s] for s in given))], 1)
                    ends = torch.cat([flat.argmin(0), flat.argmax(0)])
                    found[name].append(torch.cat([flat[:: len(flat) // SAMPLES + 1], flat[ends]]).double())
        return {name: torch.cat(parts) for name, parts in found.items()}

    def sources(self, node: Node) -> tuple[str, ...]:
        return node.inputs if self.pair(node) or node.op == "prelu" else (self.expression.root[node.name],)

    def run(self) -> Graph:
        targets = {n.name for n in self.targets}
        for node in self.graph:
            if node.name not in targets:
                self.nodes.append(node)
            else:
                replace_it = self.prelu if node.op == "prelu" else self.both if self.pair(node) else self.function
                try:
                    replace_it(node)
                except NetwrightError:  # not finite where it is asked for: it stays, and `unsupported` says so
                    self.nodes.append(node)
        graph = self.graph.replace(self.nodes, params=self.params, values=self.values)
        needed = set(graph.outputs)
        for node in reversed(graph.nodes):
            if node.name in needed or node.op == "input":
                needed.update(node.inputs)
        return graph.replace([n for n in graph if n.name in needed or n.op == "input"])

    # -- nodes -----------------------------------------------------------------------------------------------------
    def emit(self, like: Node, op: str, inputs: Sequence[str], shape: Sequence[int], attrs: dict[str, Any] | None = None,
             last: bool = False, **weights: NDArray[Any]) -> str:  # fmt: skip
        base, i = f"{like.name}_{op}", 1
        name = like.name if last else base
        while not last and name in self.names:
            name, i = f"{base}_{i}", i + 1
        self.names.add(name)
        keys = {role: f"{name}.{role}" for role in weights}
        for role, value in weights.items():
            self.values[keys[role]] = value
            self.params[keys[role]] = Spec(value.shape, value.itemsize * 8, "float" if value.dtype.kind == "f" else "int")
        node = Node(name, op, tuple(inputs), Spec(tuple(shape)), attrs or {}, keys, path=like.path, line=like.line)
        self.nodes.append(node)
        self.shapes[name] = node.spec.shape
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def affine(self, like: Node, x: str, scale: Vector, bias: Vector) -> str:
        offset = np.broadcast_to(bias, scale.shape).astype(np.float32)
        return self.emit(like, "affine", [x], self.shape(x), scale=scale.astype(np.float32), bias=offset)

    def channels_last(self, name: str) -> bool:
        """A matrix product on the last dimension made this tensor, so its channels stand there."""
        node = self.expression.nodes.get(name)
        while node is not None and len(node.spec.shape) > 2:
            if node.op in ("linear", "matmul"):
                return True
            if not (node.op in UNARY or node.op in ARITHMETIC or node.op in ("affine", "prelu")) or not node.inputs:
                return False
            node = self.expression.nodes.get(node.inputs[0])
        return False

    def repeated(self, like: Node, x: str, times: int) -> str:
        if times == 1:
            return x
        shape = self.shape(x)
        index = np.arange(shape[1]).repeat(times)
        return self.emit(like, "take", [x], (1, len(index), *shape[2:]), {"dim": 1}, index=index)

    def rectified(self, like: Node, x: str, made: Pieces, gains: Vector, last: bool = True) -> str:
        """sum_k gains[c, k] r(scale[k] x[c] + shift[k]) + offset, for channels c of dimension 1; `gains` [C, K]."""
        if made.offset and any(r.op == "conv2d" and any(r.attrs["pads"]) for r in self.readers[like.name]):
            made, gains = made.carried(), np.pad(gains, ((0, 0), (0, 1)), constant_values=made.offset)
        shape, (channels, k) = self.shape(x), gains.shape
        wide = self.repeated(like, x, k)
        y = self.affine(like, wide, np.tile(made.scale, channels), np.tile(made.shift, channels))
        bounds = {} if made.open else {"min": 0.0, "max": 1.0}
        y = self.emit(like, "relu" if made.open else "hardtanh", [y], self.shape(y), bounds)
        y = self.affine(like, y, gains.reshape(-1), np.zeros(1))
        y = self.emit(like, "reshape", [y], (1, channels, k, *shape[2:]))
        hold, offset = self.hold and not made.open, made.offset
        y = self.emit(like, "sum", [y], shape, {"dims": [2], "keepdim": False}, last=last and not offset and not hold)
        y = self.emit(like, "add", [y], shape, {"scalar": offset}, last=last and not hold) if offset else y
        return self.held(like, y, gains, offset, last) if hold else y

    def held(self, like: Node, y: str, gains: Vector, offset: float, last: bool) -> str:
        """A clip at the largest values that a sum of pieces can have: the sum goes on as the spikes of one layer of neurons."""
        low, high = np.minimum(gains, 0).sum(1).min() + offset, np.maximum(gains, 0).sum(1).max() + offset
        bound = float(max(high, -low))
        return self.emit(like, "hardtanh", [y], self.shape(y), {"min": -bound if low < -TINY else 0.0, "max": bound}, last=last)

    def framed(self, like: Node, x: str, make: Callable[[str, bool], str]) -> None:
        """`make` on channels that stand second, wherever they do."""
        if not self.channels_last(x):
            make(x, True)
            return
        shape = self.shape(x)
        rank = len(shape)
        dims, back = [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]
        turned = self.emit(like, "permute", [x], [shape[d] for d in dims], {"dims": dims})
        self.emit(like, "permute", [make(turned, False)], shape, {"dims": back}, last=True)

    # -- what is replaced ------------------------------------------------------------------------------------------
    def note(self, node: Node, what: str, exact: bool, z: Tensor, rectifiers: int, worst: float = 0.0, rms: float = 0.0) -> None:
        low, high = float(z.min()), float(z.max())
        self.replaced.append(Replacement(node.path, node.line, what, exact, low, high, rectifiers, worst, rms))

    def function(self, node: Node) -> None:
        z = self.samples[node.name].reshape(-1)
        f, root = self.expression.function(node.name), self.expression.root[node.name]
        low, high = float(z.min()), float(z.max())
        made = pieces(f, z.numpy(), low, high, self.knots)
        grid = torch.linspace(low, high, GRID, dtype=torch.float64)
        worst = float(np.abs(made(grid.numpy()) - f(grid).numpy()).max())
        rms = float(np.sqrt(np.square(made(z.numpy()) - f(z).numpy()).mean()))
        what = " ".join(n.op for n in self.expression.members(node.name))
        self.note(node, what, made.exact, z, len(made.gain), 0.0 if made.exact else worst, 0.0 if made.exact else rms)
        self.framed(node, root, lambda x, last: self.rectified(node, x, made, np.tile(made.gain, (self.shape(x)[1], 1)), last))

    def prelu(self, node: Node) -> None:
        slope = np.asarray(self.values[node.weights["weight"]], np.float64).reshape(-1)
        self.note(node, "prelu", True, self.samples[node.name], 2)

        def make(x: str, last: bool) -> str:
            channels = self.shape(x)[1]
            gains = np.stack([np.ones(channels), -np.broadcast_to(slope, channels)], 1)
            made = Pieces(np.array([1.0, -1.0]), np.zeros(2), np.ones(2), open=True, exact=True)
            return self.rectified(node, x, made, gains, last)

        self.framed(node, node.inputs[0], make)

    def both(self, node: Node) -> None:
        """A function of two tensors: max and min exactly, products and quotients through squares."""
        x, g = node.inputs
        shape = node.spec.shape
        both = self.samples[node.name]
        if node.op in ("maximum", "minimum"):
            first, second = (x, g) if node.op == "maximum" else (g, x)
            y = self.emit(node, "relu", [self.emit(node, "sub", [first, second], shape)], shape)
            self.emit(node, "add" if node.op == "maximum" else "sub", [g, y], shape, last=True)
            self.note(node, node.op, True, both, 1)
            return
        if node.op == "div":
            inverse = pieces(torch.reciprocal, both[:, 1].numpy(), float(both[:, 1].min()), float(both[:, 1].max()), self.knots)
            gains = np.tile(inverse.gain, (self.shape(g)[1], 1))
            g = self.rectified(node, g, inverse, gains, last=False)
            values = torch.from_numpy(inverse(both[:, 1].numpy()))
        else:
            values = both[:, 1]
        a, b = float(both[:, 0].abs().max().clamp(min=1e-6)), float(values.abs().max().clamp(min=1e-6))
        u, v = both[:, 0] / a, values / b
        z = torch.cat([u + v, u - v])
        square = pieces(torch.square, z.numpy(), float(z.min()), float(z.max()), self.knots)
        got = a * b / 4 * (square((u + v).numpy()) - square((u - v).numpy()))
        wanted = (both[:, 0] * both[:, 1] if node.op == "mul" else both[:, 0] / both[:, 1]).numpy()
        worst, rms = float(np.abs(got - wanted).max()), float(np.sqrt(np.square(got - wanted).mean()))
        self.note(node, node.op, False, torch.from_numpy(wanted), 2 * len(square.gain), worst, rms)
        parts, rank = [], len(shape)
        order = [0, rank - 1, *range(1, rank - 1)] if self.channels_last(x) or self.channels_last(g) else list(range(rank))
        turned = order != sorted(order)
        for name, signs in ((x, np.array([1 / a, 1 / a])), (g, np.array([1 / b, -1 / b]))):
            if self.shape(name) != shape:
                name = self.emit(node, "expand", [name], shape)
            if turned:
                name = self.emit(node, "permute", [name], [shape[d] for d in order], {"dims": order})
            parts.append(self.affine(node, self.repeated(node, name, 2), np.tile(signs, self.shape(name)[1]), np.zeros(1)))
        both_signs = self.emit(node, "add", parts, self.shape(parts[0]))
        channels = self.shape(both_signs)[1] // 2
        flat = np.concatenate([square.gain, -square.gain]) * a * b / 4
        y = self._summed(node, both_signs, square, np.tile(flat, (channels, 1)), not turned)
        if turned:
            self.emit(node, "permute", [y], shape, {"dims": [0, *range(2, rank), 1]}, last=True)

    def _summed(self, node: Node, x: str, made: Pieces, gains: Vector, last: bool) -> str:
        """`rectified` of pairs of channels, summed to one; the offsets of the two squares cancel."""
        shape, (channels, k) = self.shape(x), gains.shape
        wide = self.repeated(node, x, k // 2)
        y = self.affine(node, wide, np.tile(made.scale, 2 * channels), np.tile(made.shift, 2 * channels))
        y = self.emit(node, "hardtanh", [y], self.shape(y), {"min": 0.0, "max": 1.0})
        y = self.affine(node, y, gains.reshape(-1), np.zeros(1))
        y = self.emit(node, "reshape", [y], (1, channels, k, *shape[2:]))
        y = self.emit(node, "sum", [y], (1, channels, *shape[2:]), {"dims": [2], "keepdim": False}, last=last and not self.hold)
        return self.held(node, y, gains, 0.0, last) if self.hold else y


def approximate(
    graph: Graph, calibration: Tensor | Iterable[Tensor], knots: int = 8, hold: bool = False
) -> tuple[Graph, Approximation]:
    """The float graph with rectifiers in the place of what has no spiking form, and how good they are.

    Args:
        graph: a float graph with its values.
        calibration: inputs [N, ...] of the graph; some tens are enough. Their ranges are those of the approximation.
        knots: pieces of every function that is not piecewise linear itself (one more where it must not end in a constant). A
            layer before and a layer behind a function grow by this factor; the error falls with its square.
        hold: put a layer of (bipolar) neurons behind every function, so that only the layer before it grows. Much less memory,
            and many more time steps for the same accuracy.

    Returns:
        The graph itself where nothing is to be replaced.

    Raises:
        NetwrightError: no calibration inputs, too few knots, or a function that is not finite on its range.
    """
    data = (calibration if isinstance(calibration, Tensor) else torch.cat(list(calibration)))[:IMAGES]
    if not len(data) or knots < 2:
        raise NetwrightError(f"an approximation needs calibration inputs and 2 or more knots, got {len(data)} and {knots}")
    rewriter = _Rewriter(graph, data, knots, hold)
    if not rewriter.targets:
        return graph, Approximation(())
    made = rewriter.run()
    with torch.no_grad():
        batches = data.to(torch.float32).split(BATCH)
        pairs = [(GraphModule(graph).eval()(x), GraphModule(made).eval()(x)) for x in batches]
    wanted, got = (torch.cat([(p[i][0] if isinstance(p[i], tuple) else p[i]).flatten(1) for p in pairs]) for i in (0, 1))
    spread = wanted.std().clamp(min=1e-12) if wanted.numel() > 1 else torch.ones(())
    rms = float((got - wanted).square().mean().sqrt() / spread)
    agreement = float((got.argmax(1) == wanted.argmax(1)).float().mean())
    return made, Approximation(tuple(rewriter.replaced), rms, agreement)
