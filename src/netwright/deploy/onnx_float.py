"""ONNX nodes for attention, recurrent layers, reductions, choices and the less common functions of floats."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from netwright.core.graph import Node
from netwright.deploy.onnx_views import VIEWS, Views

COMPARISONS = {"gt": "Greater", "ge": "GreaterOrEqual", "lt": "Less", "le": "LessOrEqual", "eq": "Equal", "ne": "Equal"}
GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}  # ONNX wants i, o, f, c and z, r, h


def _windows(size: int, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """[count, size]: row i averages the elements i*size/count .. ceil((i+1)*size/count)."""
    matrix = np.zeros((count, size), np.float32)
    for i in range(count):
        start, end = i * size // count, -(-(i + 1) * size // count)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


class FloatOperators(Views):
    """One method an operation of ours; what is abstract is the writer's."""

    @abstractmethod
    def is_truth(self, name: str) -> bool:
        """The tensor holds truth values."""

    @abstractmethod
    def operands(self, n: Node, xs: Sequence[str]) -> list[str]:
        """Both operands of an operation that may have a constant one."""

    def group_norm(self, n: Node, x: str) -> None:
        """Groups as the channels of an instance norm, then the affine map by channel."""
        groups, shape = n.attrs["groups"], self.shape(x)
        flat = self.emit("Reshape", [x, self.const([0, groups, -1], np.int64)])
        ones, zeros = self.const(np.ones(groups)), self.const(np.zeros(groups))
        normed = self.emit("InstanceNormalization", [flat, ones, zeros], epsilon=n.attrs["eps"])
        y = self.emit("Reshape", [normed, self.const([0, *shape[1:]], np.int64)])
        y = self.emit("Mul", [y, self.channelwise(self.value(n, "weight"), len(shape))]) if "weight" in n.weights else y
        if "bias" in n.weights:
            y = self.emit("Add", [y, self.channelwise(self.value(n, "bias"), len(shape))])
        self.emit("Identity", [y], n.name)

    def channelwise(self, value: np.ndarray[Any, Any], rank: int) -> str:
        return self.const(np.reshape(value, (-1, *[1] * (rank - 2))))

    def _reduce(self, n: Node, x: str) -> None:
        op = {"sum": "ReduceSum", "amax": "ReduceMax", "amin": "ReduceMin"}[n.op]
        self.emit(op, [x, self.const(n.attrs["dims"], np.int64)], n.name, keepdims=int(n.attrs["keepdim"]))

    sum = amax = amin = _reduce

    def _compare(self, n: Node, *xs: str) -> None:
        found = self.emit(COMPARISONS[n.op], self.operands(n, xs), "" if n.op == "ne" else n.name)
        if n.op == "ne":
            self.emit("Not", [found], n.name)

    gt = ge = lt = le = eq = ne = _compare

    def where(self, n: Node, condition: str, x: str, y: str) -> None:
        self.emit("Where", [condition, x, y], n.name)

    def take(self, n: Node, x: str) -> None:
        self.emit("Gather", [x, self.weight(n, "index")], n.name, axis=n.attrs["dim"])

    def topk(self, n: Node, x: str) -> None:
        k, a = self.const([n.attrs["k"]], np.int64), n.attrs
        found = self.emit("TopK", [x, k], outputs=("", "_at"), axis=a["dim"], largest=int(a["largest"]), sorted=1)
        self.emit("Cast", [f"{found}_at"], n.name, to=1)

    def gather(self, n: Node, x: str, index: str) -> None:
        self.emit("GatherElements", [x, self.emit("Cast", [index], to=7)], n.name, axis=n.attrs["dim"])

    def expand(self, n: Node, x: str) -> None:
        wide = [size if old == 1 else 1 for old, size in zip(self.shape(x), n.spec.shape, strict=True)]  # 1 keeps what is there
        self.emit("Expand", [x, self.const(wide, np.int64)], n.name)

    def rsqrt(self, n: Node, x: str) -> None:
        self.emit("Reciprocal", [self.emit("Sqrt", [x])], n.name)

    def pow(self, n: Node, x: str) -> None:
        self.emit("Pow", [x, self.const(n.attrs["scalar"])], n.name)

    def softplus(self, n: Node, x: str) -> None:
        beta, threshold = self.const(n.attrs.get("beta", 1.0)), self.const(n.attrs.get("threshold", 20.0))
        scaled = self.emit("Mul", [x, beta])
        curve = self.emit("Div", [self.emit("Softplus", [scaled]), beta])
        self.emit("Where", [self.emit("Greater", [scaled, threshold]), x, curve], n.name)

    def prelu(self, n: Node, x: str) -> None:
        slope = np.reshape(self.value(n, "weight"), (-1, *[1] * max(0, len(self.shape(x)) - 2)))
        self.emit("PRelu", [x, self.const(slope)], n.name)

    def conv_transpose2d(self, n: Node, x: str) -> None:
        a, kernel = n.attrs, list(self.value(n, "weight").shape[2:])
        inputs = [x, *(self.weight(n, r) for r in ("weight", "bias") if r in n.weights)]
        attrs = {"strides": a["stride"], "pads": [*a["padding"]] * 2, "dilations": a["dilation"], "group": a["groups"]}
        self.emit("ConvTranspose", inputs, n.name, kernel_shape=kernel, output_padding=a["output_padding"], **attrs)

    def adaptive_avg_pool2d(self, n: Node, x: str) -> None:
        """A x B' with the averages of rows A and of columns B."""
        (h, w), (oh, ow) = self.shape(x)[2:], n.spec.shape[2:]
        y = self.emit("MatMul", [self.const(_windows(h, oh)), x])
        self.emit("MatMul", [y, self.const(_windows(w, ow).T)], n.name)

    def sdpa(self, n: Node, q: str, k: str, v: str, mask: str = "") -> None:
        rank, width = len(self.shape(q)), self.shape(q)[-1]
        scale = n.attrs.get("scale")
        scaled = self.emit("Mul", [q, self.const(1 / math.sqrt(width) if scale is None else scale)])
        turned = self.emit("Transpose", [k], perm=[*range(rank - 2), rank - 1, rank - 2])
        scores = self.emit("MatMul", [scaled, turned])
        if "mask" in n.weights:
            value = self.value(n, "mask")
            scores = self.emit("Add", [scores, self.const(np.where(value, 0.0, -np.inf) if value.dtype == bool else value)])
        elif mask and self.is_truth(mask):
            scores = self.emit("Where", [mask, scores, self.const(-np.inf)])
        elif mask:
            scores = self.emit("Add", [scores, mask])
        if n.attrs.get("causal"):
            size = (self.shape(q)[-2], self.shape(k)[-2])
            scores = self.emit("Add", [scores, self.const(np.triu(np.full(size, -np.inf), 1))])
        self.emit("MatMul", [self.emit("Softmax", [scores], axis=-1), v], n.name)

    def _recurrent(self, n: Node, x: str, *states: str) -> None:
        """Steps come first in ONNX, and a dimension of directions stands in front of weights and states."""
        order = GATES[n.op]

        def gates(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            parts = np.split(value, len(order))
            return np.concatenate([parts[g] for g in order])

        weights = [gates(self.value(n, r)) for r in ("weight", "recurrent")]
        hidden = weights[1].shape[1]
        biases = [gates(self.value(n, r)) if r in n.weights else np.zeros(len(weights[0])) for r in ("bias", "recurrent_bias")]
        zero = self.const([0], np.int64)
        inputs = [self.emit("Transpose", [x], perm=[1, 0, 2]), *(self.const(w[None]) for w in weights)]
        inputs += [self.const(np.concatenate(biases)[None]), "", *(self.emit("Unsqueeze", [s, zero]) for s in states)]
        attrs: dict[str, Any] = {"hidden_size": hidden, "direction": "reverse" if n.attrs["reverse"] else "forward"}
        if n.op == "gru":
            attrs["linear_before_reset"] = 1
        elif n.op == "rnn":
            attrs["activations"] = ["Relu" if n.attrs["activation"] == "relu" else "Tanh"]
        y = self.emit(n.op.upper(), inputs, "", outputs=["", "_h", "_c"] if n.attrs.get("cell") else [""], **attrs)
        rows = self.emit("Transpose", [self.emit("Squeeze", [y, self.const([1], np.int64)])], "", perm=[1, 0, 2])
        if n.attrs.get("cell"):
            last = self.emit("Transpose", [f"{y}_c"], perm=[1, 0, 2])
            rows = self.emit("Concat", [rows, last], axis=1)
        self.emit("Identity", [rows], n.name)

    lstm = gru = rnn = _recurrent


FLOAT_OPERATORS = VIEWS | frozenset(
    "group_norm sum amax amin gt ge lt le eq ne where take topk gather expand rsqrt pow softplus prelu adaptive_avg_pool2d sdpa "
    "lstm gru rnn conv_transpose2d".split()
)
