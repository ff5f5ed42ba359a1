"""Channels: what of a float graph must be removed together, and the smaller graph without it.

Every position on every axis of every tensor and parameter belongs to a *unit*. Two positions belong to the same unit if
one cannot be removed without the other; operations unite them:

    convolution, linear     output channel o: row o of the weight and bias[o]; input channel i: column i
    batch norm, affine, ..  the parameters at c with channel c;      depthwise convolution: output c with input c
    add, mul, where, ..     what broadcasts to the same place;       cat, slice, permute, reshape: positions move
    attention               query, key and value of one head; a reshape into heads unites all rows of a head

What cannot lose a position (inputs, outputs, reductions over the axis, softmax, grouped convolutions, reshapes that split
it, operations not known here) is united with unit 0, which stays. So a unit that can be removed ends in columns of
convolutions and linear layers only: where those columns are zero, removing it changes no output. The one exception is
layer norm, whose mean and variance run over the units; such groups are not `exact`.

    new size of an axis = number of its positions whose unit stays
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from netwright.core.errors import NetwrightError
from netwright.core.graph import ACTIVATIONS, Graph, Node, Spec
from netwright.design.aten import macs_of

Labels = NDArray[np.int64]  # the unit of every position on one axis
Does = Literal["writes", "reads", "follows"]

POINTWISE = ACTIVATIONS | frozenset("abs sqrt rsqrt exp log sin cos erf pow".split())
BROADCAST = frozenset("add sub mul div maximum minimum gt ge lt le eq ne where".split())
SPATIAL = frozenset("max_pool2d avg_pool2d adaptive_avg_pool2d interpolate".split())
REDUCE = frozenset("mean sum amax amin".split())


@dataclass(frozen=True)
class Part:
    """Where a group lies on one axis of one parameter.

    Attributes:
        unit: [size of the axis] the member of the group at each position, -1 where there is none.
        does: "writes": these weights make the channel (all zero: the channel is zero before its activation); "reads": a
            next layer's columns (all zero: the channel has no effect); "follows": statistics and divisors, which are
            only cut.
    """

    key: str
    axis: int
    unit: Labels
    does: Does


@dataclass(frozen=True)
class Group:
    """Units that lie on the same parameters, each removable by itself as long as one of them stays.

    Attributes:
        name: key of the first parameter that writes them.
        size: number of units.
        exact: removing a unit whose reading columns are zero changes no output (not so where a layer norm averages).
    """

    name: str
    size: int
    parts: tuple[Part, ...]
    exact: bool


def groups(graph: Graph) -> tuple[Group, ...]:
    """The groups of removable channels of a float graph, in order of execution."""
    return Channels(graph).groups


def remove(graph: Graph, removed: Mapping[str, Iterable[int]]) -> Graph:
    """The graph without some units: smaller weights, and the shapes and MACs that follow.

    Args:
        graph: float, with its values.
        removed: group name -> members of the group.

    Raises:
        NetwrightError: no such group, no such member, or nothing of a group would stay.
    """
    return Channels(graph).remove(removed)


def blocks(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Axes of a reshape that correspond: the shortest runs with equal products, axes of size 1 with the run before."""
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = [], []
        if i < len(before):
            left.append(i)
            i += 1
        if j < len(after):
            right.append(j)
            j += 1
        while (p := math.prod(before[k] for k in left)) != (q := math.prod(after[k] for k in right)):
            if p < q:
                left.append(i)
                i += 1
            else:
                right.append(j)
                j += 1
        found.append((left, right))
    return found


def _wide(shape: tuple[int, ...], axes: list[int]) -> list[int]:
    return [k for k in axes if shape[k] != 1]


class Channels:
    """The units of a graph; see the module's docstring.

    Attributes:
        tensors: node name -> units on each axis of its output.
        params: parameter key -> units on each axis.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.specs = {n.name: n.spec for n in graph}
        self.parent = [0]  # union-find over units; 0 stays
        self.tensors: dict[str, list[Labels]] = {}
        self.params: dict[str, list[Labels]] = {}
        self.does: dict[tuple[str, int], Does] = {}
        self.averaged: list[Labels] = []  # units that a layer norm runs over
        self.heads = self._heads()
        for node in graph:
            self.tensors[node.name] = self._outputs(node)
        for name in graph.outputs:
            self._freeze(*self.tensors[name])
        roots = np.array([self._find(u) for u in range(len(self.parent))], np.int64)
        self.tensors = {k: [roots[axis] for axis in v] for k, v in self.tensors.items()}
        self.params = {k: [roots[axis] for axis in v] for k, v in self.params.items()}
        self.groups, self.members = self._group({int(roots[u]) for axis in self.averaged for u in axis})
        self.by_name = {g.name: g for g in self.groups}

    # units

    def _find(self, unit: int) -> int:
        while self.parent[unit] != unit:
            self.parent[unit] = unit = self.parent[self.parent[unit]]
        return unit

    def _unite(self, a: Labels, b: Labels) -> Labels:
        for u, v in zip(a.tolist(), b.tolist(), strict=True):
            low, high = sorted((self._find(u), self._find(v)))
            self.parent[high] = low
        return a

    def _fresh(self, size: int) -> Labels:
        first = len(self.parent)
        self.parent += range(first, first + size)
        return np.arange(first, first + size, dtype=np.int64)

    def _freeze(self, *axes: Labels) -> None:
        for axis in axes:
            self._unite(np.zeros_like(axis), axis)

    def _live(self, axis: Labels) -> bool:
        return any(self._find(u) for u in axis.tolist())

    def _use(self, node: Node, role: str, axis: int, units: Labels, does: Does) -> None:
        """Say which units lie on an axis of a parameter of the node; its other axes stay, unless said otherwise."""
        key = node.weights.get(role)
        if key is None:
            return
        known = self.params.setdefault(key, [np.full(n, -1, np.int64) for n in self.graph.params[key].shape])
        if known[axis][0] < 0:
            known[axis] = units
        else:
            self._unite(known[axis], units)  # a parameter that two nodes share
        if self.does.get((key, axis)) != "reads":
            self.does[key, axis] = does

    # operations

    def _outputs(self, node: Node) -> list[Labels]:
        """Units on the axes of a node's output."""
        rule = getattr(self, f"_op_{node.op}", None)
        xs = [self.tensors[i] for i in node.inputs]
        if rule is None and node.op in POINTWISE:
            rule = lambda node, x: list(x)
        elif rule is None and node.op in BROADCAST:
            rule = self._broadcast
        elif rule is None and node.op in SPATIAL:
            rule = self._spatial
        elif rule is None and node.op in REDUCE:
            rule = self._reduce
        out = rule(node, *xs) if rule else None
        if out is None:
            self._freeze(*(axis for x in xs for axis in x))
            out = [np.zeros(n, np.int64) for n in node.spec.shape]
        for key in node.weights.values():  # axes that no rule spoke of
            shape = self.graph.params[key].shape
            axes = self.params.setdefault(key, [np.full(n, -1, np.int64) for n in shape])
            self.params[key] = [np.zeros(len(a), np.int64) if len(a) and a[0] < 0 else a for a in axes]
            if rule is None:
                self._freeze(*self.params[key])
        return out

    def _op_input(self, node: Node) -> None:
        return None

    def _op_constant(self, node: Node) -> list[Labels]:
        units = [self._fresh(n) if n > 1 else np.zeros(n, np.int64) for n in node.spec.shape]
        for axis, u in enumerate(units):
            self._use(node, "value", axis, u, "follows")
        return [a.copy() for a in self.params[node.weights["value"]]] if units else []

    def _op_conv2d(self, node: Node, x: list[Labels]) -> list[Labels] | None:
        shape, groups = self.graph.params[node.weights["weight"]].shape, node.attrs["groups"]
        self._freeze(*x[2:])
        if groups == 1:
            out = self._fresh(shape[0])
            self._use(node, "weight", 1, x[1], "reads")
        elif groups == len(x[1]):
            out = np.repeat(x[1], shape[0] // groups)
        else:
            self._freeze(x[1])
            out = np.zeros(shape[0], np.int64)
        return self._made(node, x, out, 0, 1)

    def _op_conv_transpose2d(self, node: Node, x: list[Labels]) -> list[Labels] | None:
        if node.attrs["groups"] != 1:
            return None
        self._freeze(*x[2:])
        self._use(node, "weight", 0, x[1], "reads")
        return self._made(node, x, self._fresh(self.graph.params[node.weights["weight"]].shape[1]), 1, 1)

    def _op_linear(self, node: Node, x: list[Labels]) -> list[Labels]:
        self._use(node, "weight", 1, x[-1], "reads")
        return self._made(node, x, self._fresh(self.graph.params[node.weights["weight"]].shape[0]), 0, len(x) - 1)

    def _made(self, node: Node, x: list[Labels], out: Labels, weight_axis: int, axis: int) -> list[Labels]:
        """The output of a layer that writes `out` on `axis`."""
        self._use(node, "weight", weight_axis, out, "writes")
        self._use(node, "bias", 0, out, "writes")
        return [*x[:axis], out, *(np.zeros(n, np.int64) for n in node.spec.shape[axis + 1 :])]

    def _op_batch_norm(self, node: Node, x: list[Labels]) -> list[Labels]:
        for role in ("weight", "bias"):
            self._use(node, role, 0, x[1], "writes")
        for role in ("mean", "var"):
            self._use(node, role, 0, x[1], "follows")
        return list(x)

    def _op_affine(self, node: Node, x: list[Labels]) -> list[Labels]:
        for role in ("scale", "bias"):
            self._use(node, role, 0, x[1], "writes")
        return list(x)

    def _op_prelu(self, node: Node, x: list[Labels]) -> list[Labels]:
        if self.graph.params[node.weights["weight"]].elements > 1:
            self._use(node, "weight", 0, x[1], "follows")
        return list(x)

    def _op_layer_norm(self, node: Node, x: list[Labels]) -> list[Labels] | None:
        if len(node.attrs["shape"]) != 1:
            return None
        self.averaged.append(x[-1])
        for role in ("weight", "bias"):
            self._use(node, role, 0, x[-1], "writes")
        return list(x)

    def _broadcast(self, node: Node, *xs: list[Labels]) -> list[Labels]:
        rank = len(node.spec.shape)
        parts = [[np.zeros(1, np.int64)] * (rank - len(x)) + list(x) for x in xs]
        out = []
        for axis, size in enumerate(node.spec.shape):
            full = [p[axis] for p in parts if len(p[axis]) == size]
            units = full[0] if full else self._fresh(size)
            for other in full[1:]:
                self._unite(units, other)
            out.append(units)
        if "other" in node.weights:
            shape = self.graph.params[node.weights["other"]].shape
            # zero in a divisor or a comparison makes no zero
            does: Does = "writes" if node.op in ("add", "sub", "mul") else "follows"
            for axis, size in enumerate(shape):
                units = out[rank - len(shape) + axis]
                if size == len(units):
                    self._use(node, "other", axis, units, does)
        return out

    def _spatial(self, node: Node, x: list[Labels]) -> list[Labels]:
        self._freeze(*x[2:])
        return [*x[:2], *(np.zeros(n, np.int64) for n in node.spec.shape[2:])]

    def _reduce(self, node: Node, x: list[Labels]) -> list[Labels]:
        dims = {d % len(x) for d in node.attrs["dims"]}
        self._freeze(*(x[d] for d in dims))
        if node.attrs["keepdim"]:
            return [np.zeros(1, np.int64) if i in dims else a for i, a in enumerate(x)]
        return [a for i, a in enumerate(x) if i not in dims]

    def _op_softmax(self, node: Node, x: list[Labels]) -> list[Labels]:
        self._freeze(x[node.attrs["dim"]])
        return list(x)

    def _op_permute(self, node: Node, x: list[Labels]) -> list[Labels]:
        return [x[d] for d in node.attrs["dims"]]

    def _op_slice(self, node: Node, x: list[Labels]) -> list[Labels]:
        a, axis = node.attrs, node.attrs["dim"]
        if a.get("step", 1) != 1 or node.spec.shape[axis] == 1:  # of a single position nothing can be spared
            self._freeze(x[axis])
        return [u[a["start"] : a["end"] : a.get("step", 1)] if i == axis else u for i, u in enumerate(x)]

    def _op_take(self, node: Node, x: list[Labels]) -> list[Labels]:
        axis = node.attrs["dim"] % len(x)
        self._freeze(x[axis])
        return [np.zeros(node.spec.shape[i], np.int64) if i == axis else u for i, u in enumerate(x)]

    def _op_pad(self, node: Node, x: list[Labels]) -> list[Labels]:
        out = list(x)
        for i in range(len(node.attrs["pad"]) // 2):
            axis = len(x) - 1 - i
            if node.spec.shape[axis] != len(x[axis]):
                self._freeze(x[axis])
                out[axis] = np.zeros(node.spec.shape[axis], np.int64)
        return out

    def _op_expand(self, node: Node, x: list[Labels]) -> list[Labels]:
        sizes = node.spec.shape
        return [self._fresh(n) if len(u) == 1 and n > 1 else u for u, n in zip(x, sizes, strict=True)]

    def _op_cat(self, node: Node, *xs: list[Labels]) -> list[Labels]:
        dim, out = node.attrs["dim"], []
        for axis in range(len(node.spec.shape)):
            parts = [x[axis] for x in xs]
            if axis != dim:
                for other in parts[1:]:
                    self._unite(parts[0], other)
            out.append(np.concatenate(parts) if axis == dim else parts[0])
        return out

    def _op_matmul(self, node: Node, *xs: list[Labels]) -> list[Labels] | None:
        if "other" in node.weights:
            shape = self.graph.params[node.weights["other"]].shape
            if len(shape) != 2 or node.attrs.get("reverse"):
                return None
            self._use(node, "other", 0, xs[0][-1], "reads")
            out = self._fresh(shape[1])
            self._use(node, "other", 1, out, "writes")
            return [*xs[0][:-1], out]
        a, b = xs
        if len(a) != len(b):
            return None
        self._freeze(a[-1], b[-2])
        return [*self._batch(a, b), a[-2], b[-1]]

    def _batch(self, *xs: list[Labels]) -> list[Labels]:
        """The axes before the last two of tensors that are multiplied matrix by matrix."""
        out = []
        for axes in zip(*(x[:-2] for x in xs), strict=True):
            widest = max(axes, key=len)
            for other in axes:
                if other is not widest and len(other) == len(widest):
                    self._unite(widest, other)
            out.append(widest)
        return out

    def _op_sdpa(self, node: Node, *xs: list[Labels]) -> list[Labels] | None:
        q, k, v = xs[:3]
        if len({len(x) for x in xs[:3]}) != 1:
            return None
        self._freeze(q[-1], k[-1], q[-2], k[-2], v[-2])
        out = [*self._batch(q, k, v), q[-2], v[-1]]
        for mask in xs[3:]:
            self._freeze(*mask)
        if "mask" in node.weights:
            shape = self.graph.params[node.weights["mask"]].shape
            for axis in range(len(shape) - 2):  # a bias of every head goes with its head
                units = out[len(q) - len(shape) + axis]
                if len(units) == shape[axis] > 1:
                    self._use(node, "mask", axis, units, "follows")
        return out

    def _op_reshape(self, node: Node, x: list[Labels]) -> list[Labels]:
        before, after = tuple(len(a) for a in x), node.spec.shape
        out = [np.zeros(n, np.int64) for n in after]
        for left, right in blocks(before, after):
            wide, split = _wide(before, left), _wide(after, right)
            live = [k for k in wide if self._live(x[k])]
            chosen = self.heads.get(node.name)
            if len(live) == 1 and len(split) == 1:  # the same axis, or several become one
                sizes = [before[k] for k in wide]
                place = [-1 if k == live[0] else 1 for k in wide]
                out[split[0]] = np.broadcast_to(x[live[0]].reshape(place), sizes).reshape(-1)
            elif len(live) == 1 and wide == live and chosen in split:
                rows = np.moveaxis(x[live[0]].reshape([after[k] for k in split]), split.index(chosen), 0)
                rows = rows.reshape(after[chosen], -1)
                for column in rows.T:
                    self._unite(rows[:, 0], column)
                out[chosen] = rows[:, 0]
            else:
                self._freeze(*(x[k] for k in live))
        return out

    def _heads(self) -> dict[str, int]:
        """Reshapes that split an axis into the heads of an attention -> which of their axes counts the heads."""
        found, by_name = {}, self.graph.by_name
        for node in self.graph:
            if node.op not in ("sdpa", "matmul") or "other" in node.weights:
                continue
            for name in node.inputs[:3]:
                at, axis = by_name[name], len(by_name[name].spec.shape) - 3
                while axis >= 1 and len(at.inputs) == 1:
                    source = by_name[at.inputs[0]]
                    if at.op == "permute":
                        axis = at.attrs["dims"][axis]
                    elif at.op == "reshape":
                        before, after = source.spec.shape, at.spec.shape
                        left, right = next((b for b in blocks(before, after) if axis in b[1]), ([], []))
                        if len(_wide(after, right)) > 1 and len(_wide(before, left)) == 1:
                            found[at.name] = axis
                        if len(_wide(after, right)) != 1 or len(_wide(before, left)) != 1:
                            break
                        axis = _wide(before, left)[0]
                    elif source.spec.shape != at.spec.shape and at.op != "slice":
                        break
                    at = source
        return found

    # groups

    def _group(self, averaged: set[int]) -> tuple[tuple[Group, ...], dict[str, Labels]]:
        where: dict[int, dict[tuple[str, int], None]] = {}
        for key, axes in self.params.items():
            for axis, units in enumerate(axes):
                for unit in np.unique(units).tolist():
                    where.setdefault(unit, {})[key, axis] = None
        where.pop(0, None)
        alike: dict[tuple[tuple[str, int], ...], list[int]] = {}
        for unit, places in where.items():
            if any(self.does[p] == "reads" for p in places) and any(self.does[p] == "writes" for p in places):
                alike.setdefault(tuple(places), []).append(unit)
        found, members = [], {}
        for spots, found_units in alike.items():
            index = np.full(len(self.parent), -1, np.int64)
            index[found_units] = np.arange(len(found_units))
            parts = tuple(Part(key, axis, index[self.params[key][axis]], self.does[key, axis]) for key, axis in spots)
            first = next(p.key for p in parts if p.does == "writes")
            name = first if first not in members else f"{first}:{found_units[0]}"  # parts of a weight that go different ways
            members[name] = np.array(found_units, np.int64)
            found.append(Group(name, len(found_units), parts, not averaged & set(found_units)))
        return tuple(found), members

    # removal

    def _kept(self, removed: Mapping[str, Iterable[int]]) -> NDArray[np.bool_]:
        """Which units stay."""
        kept = np.ones(len(self.parent), bool)
        for name, chosen in removed.items():
            members, indices = self.members.get(name), sorted({int(i) for i in chosen})
            if members is None:
                raise NetwrightError(
                    f"There is no group of channels named {name!r} in this graph; it has {', '.join(self.members) or 'none'}."
                )
            if indices and not 0 <= indices[0] <= indices[-1] < len(members):
                raise NetwrightError(f"{name} has the channels 0 to {len(members) - 1}; {indices} were to be removed.")
            if len(indices) == len(members):
                raise NetwrightError(f"All {len(members)} channels of {name} were to be removed. Keep at least one.")
            kept[members[indices]] = False
        return kept

    def _nodes(self, kept: NDArray[np.bool_]) -> list[Node]:
        """The nodes with the shapes, attributes and MACs that follow."""
        nodes: list[Node] = []
        specs: dict[str, Spec] = {}
        for node in self.graph:
            axes = self.tensors[node.name]
            spec = replace(node.spec, shape=tuple(int(kept[a].sum()) for a in axes))
            if 0 in spec.shape and 0 not in node.spec.shape:
                raise NetwrightError(f"Nothing would stay of the output of {node.origin}. Keep at least one of its channels.")
            ins, attrs = [specs[i] for i in node.inputs], dict(node.attrs)
            weight = self._spec(node.weights.get("weight"), kept)
            same = spec == node.spec and all(s == self.specs[i] for s, i in zip(ins, node.inputs, strict=True))
            if node.op == "conv2d" and attrs["groups"] > 1:
                attrs["groups"] = ins[0].shape[1] if attrs["groups"] == len(self.tensors[node.inputs[0]][1]) else attrs["groups"]
            elif node.op == "layer_norm":
                attrs["shape"] = list(spec.shape[-len(attrs["shape"]) :])
            elif node.op == "slice" and attrs.get("step", 1) == 1:
                before = np.concatenate([[0], np.cumsum(kept[self.tensors[node.inputs[0]][attrs["dim"]]])])
                attrs["start"], attrs["end"] = (int(before[attrs[k]]) for k in ("start", "end"))
            macs = node.macs if same else macs_of(node.op, spec, ins, weight, attrs)
            nodes.append(replace(node, spec=spec, attrs=attrs, macs=macs))
            specs[node.name] = spec
        return nodes

    def _spec(self, key: str | None, kept: NDArray[np.bool_]) -> Spec | None:
        if key is None:
            return None
        return replace(self.graph.params[key], shape=tuple(int(kept[a].sum()) for a in self.params[key]))

    def macs(self, removed: Mapping[str, Iterable[int]]) -> int:
        """Multiply-accumulates of the graph without some units; weights are not touched, so this is quick."""
        return sum(n.macs for n in self._nodes(self._kept(removed)))

    def remove(self, removed: Mapping[str, Iterable[int]]) -> Graph:
        """As the function `remove`."""
        kept = self._kept(removed)
        values: dict[str, Any] = {}
        for key, value in self.graph.values.items():
            value = np.asarray(value)
            for axis, units in enumerate(self.params[key]):
                value = value if kept[units].all() else np.compress(kept[units], value, axis)
            values[key] = value
        params = {key: spec for key in self.graph.params if (spec := self._spec(key, kept))}
        return self.graph.replace(self._nodes(kept), params=params, values=values)
