"""Fold: constant factors and offsets of float graphs go into the layer before them, exactly as far as floats allow.

A convolution or linear layer followed by ``y = x * scale[c] + offset[c]`` is one layer with weights ``w * scale`` and
bias ``b * scale + offset``. Batch norm at inference (scale = gamma / sqrt(var + eps)), affine, and multiplication,
division, addition and subtraction of constants are all of that form; a permutation in between does not matter.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from netwright.core.graph import Graph, Node, Spec
from netwright.design.execute import RUN

Vector = NDArray[np.float64]
LAYERS = ("conv2d", "linear")
BINARY = ("add", "sub", "mul", "div", "matmul", "maximum", "minimum", "gt", "ge", "lt", "le", "eq", "ne")


def fold(graph: Graph) -> Graph:
    """A graph without batch norms and with as few constant factors as possible; it computes the same function.

    Batch norms that no layer precedes become `affine` nodes; factors of one, offsets of zero and permutations that
    permute nothing disappear. Needs the graph's values; integer nodes are left as they are.
    """
    return _Folder(_constants(graph)).run()


def _constants(graph: Graph) -> Graph:
    """What is computed from constants alone becomes a constant, and arithmetic with a constant gets it as its weight `other`."""
    values, params, known = dict(graph.values), dict(graph.params), {n.name: n for n in graph if n.op == "constant"}
    nodes = []
    for node in graph:
        sources = [known.get(i) for i in node.inputs]
        if sources and all(s is not None for s in sources) and node.op in RUN:
            given = [torch.from_numpy(np.array(values[s.weights["value"]])) for s in sources if s is not None]
            own = {role: torch.from_numpy(np.array(values[k])) for role, k in node.weights.items()}
            key = f"{node.name}.value"
            values[key] = RUN[node.op](node, own, *given).numpy()
            params[key] = replace(node.spec, shape=values[key].shape)
            node = replace(node, op="constant", inputs=(), attrs={}, weights={"value": key})
            known[node.name] = node
        elif node.op in BINARY and len(node.inputs) == 2 and sources.count(None) == 1:
            first = sources[0] is not None
            constant = sources[0] or sources[1]
            assert constant is not None
            key = constant.weights["value"]
            node = replace(
                node, inputs=(node.inputs[int(first)],), weights={"other": key}, attrs={"reverse": True} if first else {}
            )
        nodes.append(node)
    used = {i for n in nodes for i in n.inputs} | set(graph.outputs)
    return graph.replace([n for n in nodes if n.op != "constant" or n.name in used], params=params, values=values)


class _Folder:
    """Walks a graph once; `name` tells where the value of a removed node is found now."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.readers = {name: len(nodes) for name, nodes in graph.consumers().items()}
        for name in graph.outputs:
            self.readers[name] += 1
        self.values: dict[str, Any] = dict(graph.values)
        self.params = dict(graph.params)
        self.nodes: dict[str, Node] = {}
        self.name: dict[str, str] = {}

    def run(self) -> Graph:
        for node in self.graph:
            node = self.graph.rename_inputs(node, self.name)
            if node.op == "permute" and list(node.attrs["dims"]) == sorted(node.attrs["dims"]):
                self.drop(node)
                continue
            found = self.factors(node)
            if found is None:
                self.nodes[node.name] = node
                continue
            scale, offset = found
            if not (np.any(scale != 1) or np.any(offset)):
                self.drop(node)
            elif not self.into_layer(node, scale, offset):
                self.nodes[node.name] = self.as_affine(node, scale, offset) if node.op == "batch_norm" else node
        outputs = [self.name.get(o, o) for o in self.graph.outputs]
        return self.graph.replace(self.nodes.values(), outputs, self.params, self.values)

    def drop(self, node: Node) -> None:
        source = node.inputs[0]
        self.name[node.name] = source
        self.readers[source] += self.readers[node.name] - 1

    def value(self, node: Node, role: str, default: float) -> Vector:
        key = node.weights.get(role)
        return np.full(1, default) if key is None else np.asarray(self.values[key], np.float64)

    def factors(self, node: Node) -> tuple[Vector, Vector] | None:
        """scale and offset of ``y = x * scale + offset``, shaped to broadcast against the node's output."""
        rank = len(node.spec.shape)
        if node.op == "batch_norm":
            scale = self.value(node, "weight", 1) / np.sqrt(self.value(node, "var", 1) + node.attrs["eps"])
            offset = self.value(node, "bias", 0) - self.value(node, "mean", 0) * scale
        elif node.op == "affine":
            scale, offset = self.value(node, "scale", 1), self.value(node, "bias", 0)
        elif node.op in ("add", "sub", "mul", "div") and len(node.inputs) == 1:
            other = self.value(node, "other", 0) if "other" in node.weights else np.asarray(node.attrs["scalar"], np.float64)
            if self.graph[node.name].spec.shape != self.shape(node.inputs[0]):
                return None
            one, zero = np.ones_like(other), np.zeros_like(other)
            if node.attrs.get("reverse"):
                table = {"add": (one, other), "mul": (other, zero), "sub": (-one, other)}
            else:
                with np.errstate(divide="ignore"):
                    table = {"add": (one, other), "mul": (other, zero), "sub": (one, -other), "div": (1 / other, zero)}
            if node.op not in table or not np.isfinite(table[node.op][0]).all():
                return None
            return table[node.op]
        else:
            return None
        shape = (-1, *[1] * (rank - 2))
        return scale.reshape(shape), offset.reshape(shape)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.nodes[name].spec.shape

    def into_layer(self, node: Node, scale: Vector, offset: Vector) -> bool:
        """Multiply into the layer before `node`, if nothing else reads what lies between and only channels differ."""
        source = self.nodes[node.inputs[0]]
        path = [source]
        while source.op == "permute":
            source = self.nodes[source.inputs[0]]
            path.append(source)
        if source.op not in LAYERS or any(self.readers[n.name] != 1 for n in path):
            return False
        rank = len(source.spec.shape)
        axis = 1 if source.op == "conv2d" else rank - 1
        for step in reversed(path[:-1]):
            axis = list(step.attrs["dims"]).index(axis)
        channels = source.spec.shape[1 if source.op == "conv2d" else -1]
        vectors = []
        for v in (scale, offset):
            v = v.reshape((1,) * (rank - v.ndim) + v.shape)
            if any(n != 1 for d, n in enumerate(v.shape) if d != axis):
                return False
            vectors.append(np.broadcast_to(v.reshape(-1), (channels,)))
        self.nodes[source.name] = self.scaled(source, *vectors)
        self.drop(node)
        return True

    def scaled(self, layer: Node, scale: Vector, offset: Vector) -> Node:
        weight = self.value(layer, "weight", 1)
        bias = self.value(layer, "bias", 0) * scale + offset
        weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        keys = {"weight": f"{layer.name}.folded.weight", "bias": f"{layer.name}.folded.bias"}
        for role, v in (("weight", weight), ("bias", bias)):
            self.values[keys[role]] = v.astype(np.float32)
            self.params[keys[role]] = Spec(v.shape)
        return replace(layer, weights=keys)

    def as_affine(self, node: Node, scale: Vector, offset: Vector) -> Node:
        keys = {"scale": f"{node.name}.folded.scale", "bias": f"{node.name}.folded.bias"}
        channels = (node.spec.shape[1],)
        for role, v in (("scale", scale), ("bias", offset)):
            self.values[keys[role]] = np.broadcast_to(v.reshape(-1), channels).astype(np.float32)
            self.params[keys[role]] = Spec(channels)
        return replace(node, op="affine", attrs={}, weights=keys)
