"""ONNX nodes that move elements, with the batch left open.

A graph is traced with one example. The file takes any number, so the writer follows the axis along which examples lie:
permutations move it, reshapes look for it again. Parts of an example may join it, as windows do, if it stays outermost.
Where it cannot be followed, or a constant differs along it, the file is for one example.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from netwright.core.errors import Unsupported
from netwright.core.graph import Graph, Node


class Views(ABC):
    """Reshape, permute, slice, cat, pad and interpolate; what is abstract is the writer's."""

    graph: Graph
    axis: dict[str, int]  # of the examples; constants have none
    batch: str | int  # name of that dimension, or 1

    @abstractmethod
    def const(self, value: Any, dtype: Any = np.float32, name: str = "") -> str: ...

    @abstractmethod
    def emit(self, op: str, inputs: Sequence[str], out: str = "", **attrs: Any) -> str: ...

    @abstractmethod
    def weight(self, node: Node, role: str) -> str: ...

    @abstractmethod
    def value(self, node: Node, role: str) -> np.ndarray[Any, Any]: ...

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]: ...

    @abstractmethod
    def refuse(self, node: Node, why: str) -> Unsupported: ...

    def follow_batch(self, n: Node) -> None:
        """Find the axis of the examples in the result of `n`."""
        known = [i for i in n.inputs if i in self.axis]
        if not known:
            return
        source, rank = max(known, key=lambda i: len(self.shape(i))), len(n.spec.shape)
        axis, shape = self.axis[source], self.shape(source)
        for role in ("other", "mask"):
            if role in n.weights:
                constant = np.shape(self.value(n, role))
                if rank == len(constant) and constant[axis] > 1:
                    self.batch = 1
        if n.op == "reshape":
            before = math.prod(shape[:axis])
            found = [i for i in range(rank) if math.prod(n.spec.shape[:i]) == before]
            if not found:
                self.batch = 1
            axis = found[0] if found else 0
        elif n.op == "permute":
            axis = n.attrs["dims"].index(axis)
        elif n.attrs.get("keepdim") is False:
            axis -= sum(d % len(shape) < axis for d in n.attrs["dims"])
        else:
            axis += max(0, rank - len(shape))
        self.axis[n.name] = axis

    def reshape(self, n: Node, x: str) -> None:
        shape = list(n.spec.shape)
        if shape and n.name in self.axis and self.batch != 1:
            shape[self.axis[n.name]] = -1
        self.emit("Reshape", [x, self.const(shape, np.int64)], n.name)

    def permute(self, n: Node, x: str) -> None:
        self.emit("Transpose", [x], n.name, perm=n.attrs["dims"])

    def slice(self, n: Node, x: str) -> None:
        a = n.attrs
        bounds = [
            self.const([v], np.int64) for v in (a["start"], min(a["end"], self.shape(x)[a["dim"]]), a["dim"], a.get("step", 1))
        ]
        self.emit("Slice", [x, *bounds], n.name)

    def cat(self, n: Node, *xs: str) -> None:
        """Constants, a class token say, are repeated for every example."""
        axis = self.axis.get(n.name, 0)
        example = next((x for x in xs if x in self.axis), None)
        if example is not None and n.attrs["dim"] != axis:
            xs = tuple(x if x in self.axis else self._repeated(x, example, axis) for x in xs)
        self.emit("Concat", xs, n.name, axis=n.attrs["dim"])

    def _repeated(self, x: str, example: str, axis: int) -> str:
        count, shape = self.emit("Shape", [example], start=axis, end=axis + 1), self.shape(x)
        sides = (self.const(part, np.int64) for part in (shape[:axis], shape[axis + 1 :]))
        before, after = sides
        return self.emit("Expand", [x, self.emit("Concat", [before, count, after], axis=0)])

    def interpolate(self, n: Node, x: str) -> None:
        if n.attrs["mode"] not in ("nearest", "bilinear"):
            raise self.refuse(n, "Use nearest or bilinear interpolation.")
        sizes = self.const(n.spec.shape[2:], np.int64)
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        if n.attrs["mode"] == "bilinear":
            corners = "align_corners" if n.attrs["align_corners"] else "half_pixel"
            how = {"mode": "linear", "coordinate_transformation_mode": corners}
        self.emit("Resize", [x, "", "", sizes], n.name, axes=[2, 3], **how)

    def pad(self, n: Node, x: str) -> None:
        """torch lists (before, after) from the last axis backwards; ONNX all befores, then all afters."""
        pairs, rank = np.reshape(n.attrs["pad"], (-1, 2)), len(self.shape(x))
        if (pairs < 0).any():
            raise self.refuse(n, "Padding by a negative amount is cropping; slice instead.")
        table = np.zeros((rank, 2), np.int64)
        table[rank - len(pairs) :] = pairs[::-1]
        self.emit("Pad", [x, self.const(table.T.ravel(), np.int64), self.const(n.attrs.get("value", 0.0))], n.name)


VIEWS = frozenset("reshape permute slice cat interpolate pad".split())
