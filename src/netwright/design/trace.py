"""Trace: any `nn.Module` to a `Graph`, through `torch.export`.

Functional calls count like modules (``F.relu``, ``+``, ``@``, ``F.interpolate``, pooling). Views that only rename data
(flatten, contiguous, dropout at inference) are folded away. An operation without a name of ours keeps its ATen name, so
the graph can still be drawn; its MACs are counted where a formula exists.

MACs are multiply-accumulates, additions of biases not counted: convolution ``out * I/groups * kh * kw``, linear
``out * I``, matrix product ``out * K``, attention both products.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from netwright.core.errors import TraceError
from netwright.core.graph import CONSTANT, Graph, Node, Spec
from netwright.design.aten import Aten, macs_of, spec_of
from netwright.design.execute import GraphModule

_IDENTITY = frozenset(
    "dropout dropout_ feature_dropout clone contiguous alias detach detach_ lift_fresh_copy lift_fresh to _to_copy "
    "_assert_tensor_metadata".split()
)
_MADE = frozenset("eye arange zeros ones full linspace scalar_tensor".split())  # tensors from numbers alone: constants
_RESHAPE = frozenset("flatten view reshape unflatten squeeze unsqueeze _unsafe_view view_as expand_as".split())
_RENAME = {
    "relu_": "relu", "hardswish_": "hardswish", "silu_": "silu", "hardtanh_": "hardtanh", "add_": "add", "mul_": "mul",
    "sub_": "sub", "div_": "div", "sigmoid_": "sigmoid", "tanh_": "tanh", "leaky_relu_": "leaky_relu", "elu_": "elu",
    "hardsigmoid_": "hardsigmoid", "relu6_": "relu6", "bmm": "matmul", "mm": "matmul", "__add__": "add",
    "concat": "cat", "concatenate": "cat", "scaled_dot_product_attention": "sdpa", "conv2d": "conv2d",
}  # fmt: skip


class Reader(Aten):
    """Walks one exported program and collects nodes."""

    def __init__(self, program: torch.export.ExportedProgram):
        signature = program.graph_signature
        self.names: dict[str, str] = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **{fx: CONSTANT + name for fx, name in signature.inputs_to_lifted_tensor_constants.items()},
        }
        constants = {CONSTANT + name: value for name, value in program.constants.items()}
        self.state: dict[str, Tensor] = {**program.state_dict, **program.constants, **constants}
        self.user_inputs = set(signature.user_inputs)
        self.program = program
        self.nodes: list[Node] = []
        self.params: dict[str, Spec] = {}
        self.alias: dict[str, str] = {}  # fx node -> our node
        self.split: dict[str, list[tuple[int, int]]] = {}  # fx node -> (start, end) of its parts
        self.split_dim: dict[str, int] = {}
        self.specs: dict[str, Spec] = {}

    def read(self) -> Graph:
        outputs: list[str] = []
        for fx in self.program.graph.nodes:
            if fx.op == "placeholder":
                if fx.name in self.user_inputs:
                    self.emit(fx, "input", [])
            elif fx.op == "call_function":
                self.call(fx)
            elif fx.op == "get_attr":
                continue
            elif fx.op == "output":
                outputs = [self.alias[a.name] for a in fx.all_input_nodes if a.name in self.alias]
        wanted = {s.arg.name for s in self.program.graph_signature.output_specs if s.kind.name == "USER_OUTPUT"}
        outputs = [
            self.alias[n] for n in (x.name for x in self.program.graph.nodes) if n in wanted and n in self.alias
        ] or outputs
        return self.prune(Graph(tuple(self.nodes), tuple(outputs), self.params))

    @staticmethod
    def prune(graph: Graph) -> Graph:
        """Drop what no output needs (shape arithmetic, unused constants)."""
        needed, by_name = set(graph.outputs), graph.by_name
        for node in reversed(graph.nodes):
            if node.name in needed or node.op == "input":
                needed.update(node.inputs)
        return graph.replace([n for n in by_name.values() if n.name in needed or n.op == "input"])

    def emit(self, fx: Any, op: str, inputs: list[str], attrs: dict[str, Any] | None = None,
             weights: dict[str, str] | None = None, spec: Spec | None = None, macs: int | None = None) -> str:  # fmt: skip
        attrs, weights = attrs or {}, weights or {}
        spec = spec or spec_of(fx.meta.get("val"))
        for key in weights.values():
            self.params.setdefault(key, spec_of(self.state[key]))
        if op in ("qconv2d", "bconv2d", "qlinear", "blinear"):
            self.params[weights["weight"]] = replace(self.params[weights["weight"]], bits=attrs["bits"])
        if macs is None:
            weight = self.params.get(weights.get("weight", ""))
            macs = macs_of(op, spec, [self.specs[i] for i in inputs], weight, attrs)
        stack = fx.meta.get("nn_module_stack") or {}
        path = next(reversed(stack.values()))[0] if stack else ""
        path = path.removeprefix("L['self'].").removeprefix("L['self']")
        name = fx.name if fx.name not in self.specs else f"{fx.name}_{len(self.specs)}"
        self.nodes.append(Node(name, op, tuple(inputs), spec, attrs, weights, macs, path))
        self.specs[name] = spec
        self.alias[fx.name] = name
        return name

    def tensor(self, fx: Any) -> str:
        """Our node for an fx argument; a parameter or constant becomes a `constant` node."""
        if fx.name in self.alias:
            return self.alias[fx.name]
        if fx.name in self.names:
            return self.emit(
                fx, "constant", [], weights={"value": self.names[fx.name]}, spec=spec_of(self.state[self.names[fx.name]])
            )
        raise TraceError(f"the exported program uses {fx.name}, which is neither an input, a parameter nor an operation")

    def arguments(self, fx: Any) -> dict[str, Any]:
        """Arguments by the operator's schema names, defaults filled in."""
        found = {}
        for i, a in enumerate(fx.target._schema.arguments):
            if i < len(fx.args):
                found[a.name] = fx.args[i]
            elif a.name in fx.kwargs:
                found[a.name] = fx.kwargs[a.name]
            elif a.has_default_value():
                found[a.name] = a.default_value
        return found

    def call(self, fx: Any) -> None:
        if not hasattr(fx.target, "_schema"):
            name = getattr(fx.target, "__name__", str(fx.target))
            if name == "getitem":
                return self.getitem(fx)
            if any(isinstance(getattr(a, "meta", {}).get("val"), Tensor) for a in fx.all_input_nodes):
                self.emit(fx, f"python.{name}", [self.tensor(a) for a in fx.all_input_nodes if a.op != "get_attr"])
            return
        namespace, _, name = fx.target._schema.name.partition("::")
        a = self.arguments(fx)
        if namespace == "netwright":
            return self.ours(fx, name, a)
        op = _RENAME.get(name, name)
        if op in _MADE and not any(isinstance(n.meta.get("val"), Tensor) for n in fx.all_input_nodes):
            key = self.names[fx.name] = CONSTANT + fx.name
            self.state[key] = fx.target(*fx.args, **{**fx.kwargs, "device": "cpu"} if "device" in fx.kwargs else fx.kwargs)
            return None
        if op in _IDENTITY:
            if isinstance(fx.args[0], torch.fx.Node):
                self.alias[fx.name] = self.tensor(fx.args[0])
            return None
        if op in _RESHAPE or op == "expand":
            source = self.tensor(fx.args[0])
            if self.specs[source].elements != spec_of(fx.meta["val"]).elements:
                self.emit(fx, f"aten.{name}", [source])
            elif self.specs[source].shape == spec_of(fx.meta["val"]).shape:
                self.alias[fx.name] = source
            else:
                self.emit(fx, "reshape", [source])
            return None
        if hasattr(self, f"op_{op}"):
            getattr(self, f"op_{op}")(fx, a)
            return None
        inputs = [self.tensor(n) for n in fx.all_input_nodes if isinstance(n.meta.get("val"), (Tensor, list, tuple))]
        attrs = {k: v for k, v in a.items() if isinstance(v, (int, float, str, bool))}
        if name in ("lstm", "gru"):
            x = spec_of(fx.args[0].meta["val"])
            steps = x.shape[0] * x.shape[1]  # sequence * batch
            matrices = [s for s in (spec_of(p.meta["val"]) for p in a["params"]) if len(s.shape) == 2]
            attrs["recurrent_macs"] = steps * sum(m.elements for m in matrices)
        spec = fx.meta.get("val")
        self.emit(fx, f"aten.{name}", inputs, attrs, spec=spec_of(spec[0] if isinstance(spec, (list, tuple)) and spec else spec))
        return None

    def ours(self, fx: Any, name: str, a: dict[str, Any]) -> None:
        tensors = {k: v for k, v in a.items() if isinstance(v, torch.fx.Node)}
        inputs = [self.tensor(v) for k, v in tensors.items() if v.name not in self.names]
        attrs = {k: list(v) if isinstance(v, (list, tuple)) else v for k, v in a.items() if k not in tensors and v is not None}
        self.emit(fx, name, inputs, attrs, self.roles(**tensors))

    def getitem(self, fx: Any) -> None:
        source, index = fx.args
        if source.name in self.split:
            start, end = self.split[source.name][index]
            dim = self.split_dim[source.name]
            self.emit(fx, "slice", [self.tensor(source)], {"dim": dim, "start": start, "end": end, "step": 1})
        elif index == 0:
            self.alias[fx.name] = self.tensor(source)
        else:
            self.emit(fx, "getitem", [self.tensor(source)], {"index": index})


def trace(module: nn.Module | torch.export.ExportedProgram, example: Tensor | tuple[Tensor, ...] | None = None) -> Graph:
    """Turn a module (at inference) into a `Graph` with its parameters' values.

    Args:
        module: any `nn.Module`, or a program that `torch.export` saved.
        example: an input [N, ...], or a tuple of inputs; only shapes and types matter. Use N = 1 to count at batch 1.

    Raises:
        TraceError: the module cannot be exported (control flow that depends on data, Python objects as inputs, wrong
            input shape); the message carries the first line of the reason.
    """
    if isinstance(module, GraphModule) and not len(module.layers):
        return module.to_graph()
    if isinstance(module, nn.Module):
        if example is None:
            raise TraceError("tracing a module needs an example input; give its shape, for example --input 1x3x224x224")
        inputs = example if isinstance(example, tuple) else (example,)
        training = module.training
        module.eval()
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                program = torch.export.export(module, inputs, strict=False)
        except Exception as error:
            shapes = ", ".join("x".join(map(str, i.shape)) for i in inputs)
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise TraceError(
                f"{type(module).__name__} could not be traced with input {shapes}: {reason.strip()} "
                "Check the input shape; control flow that depends on the data cannot be one graph."
            ) from error
        finally:
            module.train(training)
    else:
        program = module
    reader = Reader(program)
    graph = reader.read()
    values = {
        k: reader.state[k].detach().cpu().numpy()
        for k in graph.params
        if not reader.state[k].is_meta and reader.state[k].dtype != torch.bfloat16
    }
    return Graph(graph.nodes, graph.outputs, graph.params, values)
