"""Graph: one description for float, integer, binary and spiking networks.

A graph is a list of nodes in execution order. Every node has one output. Operations have the names listed in
`OPERATIONS`; what the tracer does not know keeps its own name (``aten.fft_rfft2``), so that a graph can always be drawn
and counted, while a back end refuses it by name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

VIEWS = frozenset({"reshape", "input", "constant", "getitem"})
ACTIVATIONS = frozenset(
    {"relu", "relu6", "hardtanh", "gelu", "silu", "hardswish", "hardsigmoid", "sigmoid", "tanh", "leaky_relu", "elu"}
    | {"softplus", "mish"}
)
WEIGHTED = frozenset({"conv2d", "linear", "qconv2d", "bconv2d", "qlinear", "blinear"})
CONSTANT = "constant."  # prefix of the names of tensors that are written in the program, not learned
LEARNED = frozenset({"weight", "bias", "other", "scale", "recurrent", "recurrent_bias", "value"})  # roles of learned values
OPERATIONS = (
    frozenset(
        # float
        "conv2d linear matmul batch_norm layer_norm group_norm affine add sub mul div max_pool2d avg_pool2d mean permute "
        "slice cat softmax interpolate pad sdpa sum amax amin maximum minimum take expand where prelu conv_transpose2d "
        "adaptive_avg_pool2d topk gather lstm gru rnn abs sqrt rsqrt exp log sin cos erf pow gt ge lt le eq ne".split()
        # integer: codes in, codes (or 32-bit sums) out
        + "quantize qconv2d bconv2d qlinear blinear qmatmul bmatmul qadd qmul requantize qprelu lut qmean dequantize".split()
        # spiking: spikes in, 32-bit currents out, and the neuron between them
        + "iadd isum integrate accumulate difference readout".split()
    )
    | ACTIVATIONS
    | VIEWS
)


@dataclass(frozen=True)
class Spec:
    """A tensor on an edge: `shape` with batch 1 in front, storage `bits` an element, `kind` float|int|uint.

    `rate` is the mean share of non-zero elements (spikes), `steps` the number of time steps it stands for.
    """

    shape: tuple[int, ...]
    bits: int = 32
    kind: str = "float"
    rate: float = 1.0
    steps: int = 1

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return -(-self.elements * self.bits // 8) * self.steps


@dataclass(frozen=True)
class Node:
    """One operation. `weights` maps a role (weight, bias, mult, ...) to a key of `Graph.params`.

    `macs` are multiply-accumulates of one pass at batch 1; `path` is the module the node comes from, `line` the line of
    the program that wrote it (file:number), where the tracer knows it.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    spec: Spec
    attrs: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    macs: int = 0
    path: str = ""
    line: str = ""

    @property
    def origin(self) -> str:
        """Where the node comes from, for messages: module path (or the node's name) and source line."""
        return f"{self.path or self.name}, {self.line}" if self.line else self.path or self.name


@dataclass(frozen=True)
class Graph:
    """Nodes in execution order, the parameters they use (by name) and, where they are known, the parameters' values."""

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    params: Mapping[str, Spec] = field(default_factory=dict)
    values: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __getitem__(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(n.name for n in self.nodes if n.op == "input")

    @property
    def by_name(self) -> dict[str, Node]:
        return {n.name: n for n in self.nodes}

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one pass at batch 1, all time steps counted once."""
        return sum(n.macs for n in self.nodes)

    @property
    def parameters(self) -> int:
        """Number of learned values behind the outputs, shared ones once: those of weighted layers and norms, those that the
        program reads by themselves (class tokens, tables of positions), and those from which a constant was computed
        (``attrs["learned"]``). Running statistics, buffers and rescaling factors are none."""
        return sum(self.parameters_at.values())

    @property
    def parameters_at(self) -> dict[str, int]:
        """Node name -> the learned values that no node before it has used; they add up to `parameters`."""
        seen: set[str] = set()
        found: dict[str, int] = {}
        for node in self.nodes:
            keys = {key for role, key in node.weights.items() if role in LEARNED and not key.startswith(CONSTANT)}
            fresh = keys - seen if node.op != "dequantize" else set[str]()
            seen |= fresh
            found[node.name] = sum(self.params[key].elements for key in fresh) + int(node.attrs.get("learned", 0))
        return found

    @property
    def weight_bytes(self) -> int:
        """Bytes of all parameters at their own bit width."""
        return sum(s.bytes for s in self.params.values())

    def consumers(self) -> dict[str, list[Node]]:
        """Node name -> the nodes that read it."""
        found: dict[str, list[Node]] = {n.name: [] for n in self.nodes}
        for node in self.nodes:
            for source in node.inputs:
                found[source].append(node)
        return found

    def value(self, node: Node, role: str) -> np.ndarray:
        return self.values[node.weights[role]]

    @property
    def activation_bytes(self) -> int:
        """Bytes of all tensors that operations write (views share their source)."""
        return sum(n.spec.bytes for n in self.nodes if n.op not in VIEWS)

    @property
    def peak_bytes(self) -> int:
        """Largest sum of live tensors over the execution order; views keep their source alive and cost nothing."""
        owner: dict[str, str] = {}
        last: dict[str, int] = {}
        for i, node in enumerate(self.nodes):
            is_view = node.op in VIEWS and node.inputs
            owner[node.name] = owner[node.inputs[0]] if is_view else node.name
            for source in node.inputs:
                last[owner[source]] = i
            last.setdefault(owner[node.name], i)
        for name in self.outputs:
            last[owner[name]] = len(self.nodes)
        size = {n.name: (0 if n.op == "constant" else n.spec.bytes) for n in self.nodes}
        live: set[str] = set()
        peak = 0
        for i, node in enumerate(self.nodes):
            live.add(owner[node.name])
            peak = max(peak, sum(size[name] for name in live))
            live = {name for name in live if last[name] > i}
        return peak

    def replace(self, nodes: Any, outputs: Any = None, params: Any = None, values: Any = None) -> Graph:
        """A graph with other nodes; parameters that no node uses any more are dropped."""
        nodes = tuple(nodes)
        used = {key for n in nodes for key in n.weights.values()}
        params = dict(self.params if params is None else params)
        values = dict(self.values if values is None else values)
        return Graph(
            nodes,
            self.outputs if outputs is None else tuple(outputs),
            {k: v for k, v in params.items() if k in used},
            {k: v for k, v in values.items() if k in used},
        )

    def rename_inputs(self, node: Node, table: Mapping[str, str]) -> Node:
        return replace(node, inputs=tuple(table.get(i, i) for i in node.inputs))

    def to_json(self) -> dict[str, Any]:
        return {
            "nodes": [asdict(n) for n in self.nodes],
            "outputs": list(self.outputs),
            "params": {k: asdict(v) for k, v in self.params.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | str, values: Mapping[str, np.ndarray] | None = None) -> Graph:
        """Read what `to_json` wrote; `values` are the parameters, kept in a file of their own."""
        if isinstance(data, str):
            return cls.from_json(json.loads(data), values)

        def spec(d: Mapping[str, Any]) -> Spec:
            return Spec(**{**d, "shape": tuple(d["shape"])})

        nodes = tuple(Node(**{**n, "inputs": tuple(n["inputs"]), "spec": spec(n["spec"])}) for n in data["nodes"])
        params = {k: spec(v) for k, v in data["params"].items()}
        return cls(nodes, tuple(data["outputs"]), params, dict(values or {}))
