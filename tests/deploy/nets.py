"""Small graphs for the back end's tests, built by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from netwright.core.graph import Graph, Node, Spec
from netwright.design.execute import GraphModule


class Builder:
    """Appends nodes; shapes are found by running the reference operators."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0):
        self.rng = np.random.default_rng(seed)
        self.values: dict[str, np.ndarray] = {}
        self.params: dict[str, Spec] = {}
        self.nodes = [Node("x", "input", (), Spec(shape))]
        self.input = np.random.default_rng(seed + 1).normal(0, 1.5, shape).astype(np.float32)
        self.outputs = {"x": torch.from_numpy(self.input)}

    def add(self, op: str, *inputs: str, shape: tuple[int, ...] | None = None, attrs: dict[str, Any] | None = None,
            **weights: np.ndarray | None) -> str:  # fmt: skip
        name = f"n{len(self.nodes)}"
        keys = {}
        for role, value in weights.items():
            if value is not None:
                keys[role] = f"{name}.{role}"
                self.values[keys[role]] = value
                bits = int((attrs or {}).get("bits", 8)) if role == "weight" and op[0] in "qb" else value.itemsize * 8
                self.params[keys[role]] = Spec(value.shape, bits, "float" if value.dtype.kind == "f" else "int")
        node = Node(name, op, inputs, Spec(shape or ()), attrs or {}, keys, 0, f"net.{name}")
        with torch.no_grad():
            graph = Graph((node,), (name,), self.params, self.values)
            waiting = GraphModule(graph)
            out = waiting.run(node, *(self.outputs[i] for i in inputs))
        self.outputs[name] = out
        self.nodes.append(Node(name, op, inputs, Spec((1, *out.shape[1:])), attrs or {}, keys, 0, f"net.{name}"))
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.outputs[name].shape)

    def graph(self, output: str) -> Graph:
        return Graph(tuple(self.nodes), (output,), self.params, self.values)

    # Layers with random weights.
    def quantize(self, x: str, lo: int = -127, hi: int = 127) -> str:
        return self.add("quantize", x, attrs={"scale": 0.03, "lo": lo, "hi": hi})

    def vectors(self, o: int, rescale: bool) -> dict[str, np.ndarray | None]:
        return {
            "bias": self.rng.integers(-500, 500, o).astype(np.int32),
            "mult": self.rng.integers(2**10, 2**15, o).astype(np.int32) * self.rng.choice([-1, 1], o).astype(np.int32)
            if rescale
            else None,
            "shift": self.rng.integers(18, 25, o).astype(np.int32) if rescale else None,
        }

    def codes(self, shape: tuple[int, ...], bits: int) -> np.ndarray:
        if bits == 8:
            return self.rng.integers(-127, 128, shape).astype(np.int8)
        return self.rng.choice([-1, 1] if bits == 1 else [-1, 0, 1], shape).astype(np.int8)

    def conv(self, op: str, x: str, o: int, k: int, *, stride: int = 1, pads: list[int] | None = None, dilation: int = 1,
             groups: int = 1, bits: int = 8, rescale: bool = True, lo: int = -127,
             hi: int = 127, bias: bool = True) -> str:  # fmt: skip
        attrs: dict[str, Any] = {
            "stride": [stride] * 2,
            "pads": [k // 2] * 4 if pads is None else pads,
            "dilation": [dilation] * 2,
            "groups": groups,
        }
        shape = (o, self.shape(x)[1] // groups, k, k)
        if op == "conv2d":
            weight = (self.rng.normal(0, 1, shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
            return self.add(op, x, attrs=attrs, weight=weight, bias=self.rng.normal(0, 1, o).astype(np.float32) if bias else None)
        vectors = self.vectors(o, rescale)
        return self.add(op, x, attrs={**attrs, "lo": lo, "hi": hi, "bits": bits}, weight=self.codes(shape, bits),
                        **{**vectors, "bias": vectors["bias"] if bias else None})  # fmt: skip

    def linear(self, op: str, x: str, o: int, *, bits: int = 8, rescale: bool = False) -> str:
        i = self.shape(x)[-1]
        if op == "linear":
            weight = (self.rng.normal(0, 1, (o, i)) / np.sqrt(i)).astype(np.float32)
            return self.add(op, x, weight=weight, bias=self.rng.normal(0, 1, o).astype(np.float32))
        attrs = {"lo": -127, "hi": 127, "bits": bits}
        return self.add(op, x, attrs=attrs, weight=self.codes((o, i), bits), **self.vectors(o, rescale))

    def flatten(self, x: str) -> str:
        return self.add("reshape", x, shape=(1, int(np.prod(self.shape(x)[1:]))))

    def flatten_steps(self, x: str) -> str:
        """Flatten every time step."""
        return self.add("reshape", x, shape=(self.shape(x)[0], int(np.prod(self.shape(x)[1:]))))

    def dequantize(self, x: str) -> str:
        return self.add("dequantize", x, scale=np.ones(1, np.float32))

    def gather(self, names: list[str]) -> Graph:
        """A graph whose output is all of `names`, flattened, one after another: many cases, one compilation."""
        parts = []
        for name in names:
            if not self.outputs[name].is_floating_point():
                name = self.dequantize(name)
            parts.append(self.flatten(name))
        return self.graph(self.add("cat", *parts, attrs={"dim": 1}))
