"""Trace: any `nn.Module` to a `Graph`, through `torch.export`.

Functional calls count like modules (``F.relu``, ``+``, ``@``, ``F.interpolate``, pooling). Views that only rename data
(flatten, contiguous, dropout at inference) are folded away. An operation without a name of ours keeps its ATen name, so
the graph can still be drawn; its MACs are counted where a formula exists.

MACs are multiply-accumulates, additions of biases not counted: convolution ``out * I/groups * kh * kw``, linear
``out * I``, matrix product ``out * K``, attention both products.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netwright.core.errors import TraceError
from netwright.core.graph import Graph, Node, Spec
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


def _pair(v: Any) -> list[int]:
    v = list(v) if isinstance(v, (list, tuple)) else [v]
    return [int(i) for i in (v * 2 if len(v) == 1 else v)]


def _spec(value: Any) -> Spec:
    if not isinstance(value, Tensor):
        return Spec(())
    bits = 1 if value.dtype == torch.bool else value.element_size() * 8
    kind = "float" if value.is_floating_point() or value.is_complex() else ("uint" if value.dtype == torch.uint8 else "int")
    return Spec(tuple(int(s) for s in value.shape), bits, kind)


def _einsum_macs(equation: str, operands: list[Spec]) -> int:
    sizes: dict[str, int] = {}
    for labels, spec in zip(equation.replace(" ", "").split("->")[0].split(","), operands, strict=True):
        if "." in labels:
            return 0
        sizes.update(zip(labels, spec.shape, strict=True))
    return math.prod(sizes.values()) if len(operands) > 1 else 0


def _macs(op: str, out: Spec, ins: list[Spec], weight: Spec | None, attrs: Mapping[str, Any]) -> int:
    """Multiply-accumulates of one operation, from shapes."""
    base = op.removeprefix("aten.")
    if base in ("conv2d", "qconv2d", "bconv2d", "conv1d", "conv3d") and weight:
        return out.elements * math.prod(weight.shape[1:])
    if base.startswith("conv_transpose") and weight:
        return ins[0].elements * math.prod(weight.shape[1:])
    if base in ("linear", "qlinear", "blinear") and weight:
        return out.elements * weight.shape[-1]
    if base in ("matmul", "mv", "dot"):
        return out.elements * ins[0].shape[-1] if ins else 0
    if base in ("addmm", "baddbmm", "addmv"):
        return out.elements * ins[1].shape[-1] if len(ins) > 1 else 0
    if base == "sdpa":
        q, k, v = (s.shape for s in ins[:3])
        return math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])
    if base == "einsum":
        return _einsum_macs(attrs["equation"], ins)
    if base in ("lstm.input", "gru.input", "lstm", "gru"):
        return int(attrs.get("recurrent_macs", 0))
    return 0


class _Reader:
    """Walks one exported program and collects nodes."""

    def __init__(self, program: torch.export.ExportedProgram):
        signature = program.graph_signature
        self.names: dict[str, str] = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        self.state: dict[str, Tensor] = {**program.state_dict, **program.constants}
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
        spec = spec or _spec(fx.meta.get("val"))
        for key in weights.values():
            self.params.setdefault(key, _spec(self.state[key]))
        if op in ("qconv2d", "bconv2d", "qlinear", "blinear"):
            self.params[weights["weight"]] = replace(self.params[weights["weight"]], bits=attrs["bits"])
        if macs is None:
            weight = self.params.get(weights.get("weight", ""))
            macs = _macs(op, spec, [self.specs[i] for i in inputs], weight, attrs)
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
                fx, "constant", [], weights={"value": self.names[fx.name]}, spec=_spec(self.state[self.names[fx.name]])
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

    def roles(self, **candidates: Any) -> dict[str, str]:
        return {role: self.names[fx.name] for role, fx in candidates.items() if fx is not None and fx.name in self.names}

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
            self.state[fx.name] = fx.target(*fx.args, **{**fx.kwargs, "device": "cpu"} if "device" in fx.kwargs else fx.kwargs)
            self.names[fx.name] = fx.name
            return None
        if op in _IDENTITY:
            if isinstance(fx.args[0], torch.fx.Node):
                self.alias[fx.name] = self.tensor(fx.args[0])
            return None
        if op in _RESHAPE or op == "expand":
            source = self.tensor(fx.args[0])
            if self.specs[source].elements != _spec(fx.meta["val"]).elements:
                self.emit(fx, f"aten.{name}", [source])
            elif self.specs[source].shape == _spec(fx.meta["val"]).shape:
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
            x = _spec(fx.args[0].meta["val"])
            steps = x.shape[0] * x.shape[1]  # sequence * batch
            matrices = [s for s in (_spec(p.meta["val"]) for p in a["params"]) if len(s.shape) == 2]
            attrs["recurrent_macs"] = steps * sum(m.elements for m in matrices)
        spec = fx.meta.get("val")
        self.emit(fx, f"aten.{name}", inputs, attrs, spec=_spec(spec[0] if isinstance(spec, (list, tuple)) and spec else spec))
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

    # One method an operation; `a` are its arguments by schema name.
    def op_conv2d(self, fx: Any, a: dict[str, Any]) -> None:
        weights = self.roles(weight=a["weight"], bias=a["bias"])
        if "weight" not in weights:  # a computed weight (standardised, generated): kept as a second input
            inputs = [self.tensor(fx.args[0]), self.tensor(a["weight"])]
            spec, weight = _spec(fx.meta["val"]), _spec(a["weight"].meta["val"])
            self.emit(fx, "aten.conv2d", inputs, weights=weights, macs=spec.elements * math.prod(weight.shape[1:]))
            return
        kernel, dilation = self.state[weights["weight"]].shape[2:], _pair(a["dilation"])
        if isinstance(a["padding"], str):
            total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)] if a["padding"] == "same" else [0, 0]
            pads = [total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2]
        else:
            pads = _pair(a["padding"]) * 2
        attrs = {"stride": _pair(a["stride"]), "pads": pads, "dilation": dilation, "groups": a["groups"]}
        self.emit(fx, "conv2d", [self.tensor(a["input"])], attrs, weights)

    def op_linear(self, fx: Any, a: dict[str, Any]) -> None:
        weights = self.roles(weight=a["weight"], bias=a["bias"])
        if "weight" in weights:
            self.emit(fx, "linear", [self.tensor(a["input"])], {}, weights)
        else:
            macs = _spec(fx.meta["val"]).elements * _spec(a["weight"].meta["val"]).shape[-1]
            self.emit(fx, "aten.linear", [self.tensor(a["input"]), self.tensor(a["weight"])], macs=macs)

    def op_batch_norm(self, fx: Any, a: dict[str, Any]) -> None:
        weights = self.roles(weight=a["weight"], bias=a["bias"], mean=a["running_mean"], var=a["running_var"])
        self.emit(fx, "batch_norm", [self.tensor(a["input"])], {"eps": a["eps"]}, weights)

    def op_layer_norm(self, fx: Any, a: dict[str, Any]) -> None:
        attrs = {"shape": list(a["normalized_shape"]), "eps": a["eps"]}
        self.emit(fx, "layer_norm", [self.tensor(a["input"])], attrs, self.roles(weight=a["weight"], bias=a["bias"]))

    def op_group_norm(self, fx: Any, a: dict[str, Any]) -> None:
        attrs = {"groups": a["num_groups"], "eps": a["eps"]}
        self.emit(fx, "group_norm", [self.tensor(a["input"])], attrs, self.roles(weight=a["weight"], bias=a["bias"]))

    def _pointwise(self, op: str, **attrs: Any) -> Any:
        return lambda fx, a: self.emit(fx, op, [self.tensor(fx.args[0])], attrs)

    def op_hardtanh(self, fx: Any, a: dict[str, Any]) -> None:
        low, high = a["min_val"], a["max_val"]
        self.emit(fx, "relu6" if (low, high) == (0, 6) else "hardtanh", [self.tensor(fx.args[0])],
                  {} if (low, high) == (0, 6) else {"min": low, "max": high})  # fmt: skip

    def op_clamp(self, fx: Any, a: dict[str, Any]) -> None:
        low, high = a.get("min"), a.get("max")
        if isinstance(low, (int, float)) and isinstance(high, (int, float)):
            self.op_hardtanh(fx, {"min_val": low, "max_val": high})
        elif low == 0 and high is None:
            self.emit(fx, "relu", [self.tensor(fx.args[0])])
        else:
            self.emit(fx, "aten.clamp", [self.tensor(fx.args[0])])

    def op_leaky_relu(self, fx: Any, a: dict[str, Any]) -> None:
        self.emit(fx, "leaky_relu", [self.tensor(fx.args[0])], {"slope": a["negative_slope"]})

    def op_elu(self, fx: Any, a: dict[str, Any]) -> None:
        self.emit(fx, "elu", [self.tensor(fx.args[0])], {"alpha": a["alpha"]})

    def op_gelu(self, fx: Any, a: dict[str, Any]) -> None:
        self.emit(fx, "gelu", [self.tensor(fx.args[0])], {"approximate": a["approximate"]})

    def _arithmetic(self, op: str, fx: Any, a: dict[str, Any]) -> None:
        left, right = a["self"], a["other"]
        if op in ("add", "sub") and a.get("alpha", 1) != 1:
            self.emit(
                fx, f"aten.{op}", [self.tensor(v) for v in (left, right) if isinstance(v, torch.fx.Node)], {"alpha": a["alpha"]}
            )
        elif not isinstance(right, torch.fx.Node):
            self.emit(fx, op, [self.tensor(left)], {"scalar": float(right)})
        elif right.name in self.names and left.name not in self.names:
            self.emit(fx, op, [self.tensor(left)], {}, {"other": self.names[right.name]})
        elif left.name in self.names and right.name not in self.names:
            self.emit(fx, op, [self.tensor(right)], {"reverse": True}, {"other": self.names[left.name]})
        else:
            self.emit(fx, op, [self.tensor(left), self.tensor(right)])

    def op_add(self, fx: Any, a: dict[str, Any]) -> None:
        self._arithmetic("add", fx, a)

    def op_sub(self, fx: Any, a: dict[str, Any]) -> None:
        self._arithmetic("sub", fx, a)

    def op_mul(self, fx: Any, a: dict[str, Any]) -> None:
        self._arithmetic("mul", fx, a)

    def op_div(self, fx: Any, a: dict[str, Any]) -> None:
        self._arithmetic("div", fx, a)

    def op_rsub(self, fx: Any, a: dict[str, Any]) -> None:
        if isinstance(a["other"], torch.fx.Node):
            self._arithmetic("sub", fx, {"self": a["other"], "other": a["self"], "alpha": a.get("alpha", 1)})
        else:
            self.emit(fx, "sub", [self.tensor(a["self"])], {"scalar": float(a["other"]), "reverse": True})

    def op_matmul(self, fx: Any, a: dict[str, Any]) -> None:
        left, right = a["self"], a["other"] if "other" in a else a["mat2"]
        out, inner = _spec(fx.meta["val"]), _spec(left.meta["val"]).shape[-1]
        if right.name in self.names and left.name not in self.names:
            self.emit(fx, "matmul", [self.tensor(left)], {}, {"other": self.names[right.name]}, macs=out.elements * inner)
        else:
            self.emit(fx, "matmul", [self.tensor(left), self.tensor(right)], macs=out.elements * inner)

    def op_sdpa(self, fx: Any, a: dict[str, Any]) -> None:
        inputs = [self.tensor(a[k]) for k in ("query", "key", "value")]
        plain = a["attn_mask"] is None and not a["is_causal"]
        self.emit(fx, "sdpa" if plain else "aten.scaled_dot_product_attention", inputs, {"scale": a.get("scale")},
                  macs=_macs("sdpa", _spec(fx.meta["val"]), [self.specs[i] for i in inputs], None, {}))  # fmt: skip

    def op_einsum(self, fx: Any, a: dict[str, Any]) -> None:
        self.emit(fx, "aten.einsum", [self.tensor(t) for t in a["tensors"]], {"equation": a["equation"]})

    def _pool(self, op: str, fx: Any, a: dict[str, Any], **attrs: Any) -> None:
        kernel = _pair(a["kernel_size"])
        stride = _pair(a["stride"]) if a["stride"] else kernel
        attrs = {"kernel": kernel, "stride": stride, "padding": _pair(a["padding"]), "ceil": a["ceil_mode"], **attrs}
        self.emit(fx, op, [self.tensor(fx.args[0])], attrs)

    def op_max_pool2d(self, fx: Any, a: dict[str, Any]) -> None:
        if _pair(a["dilation"]) != [1, 1]:
            self.emit(fx, "aten.max_pool2d", [self.tensor(fx.args[0])])
        else:
            self._pool("max_pool2d", fx, a)

    def op_avg_pool2d(self, fx: Any, a: dict[str, Any]) -> None:
        self._pool("avg_pool2d", fx, a, count_include_pad=a["count_include_pad"])

    def op_adaptive_avg_pool2d(self, fx: Any, a: dict[str, Any]) -> None:
        source = self.tensor(fx.args[0])
        size, target = self.specs[source].shape[-2:], tuple(_pair(a["output_size"]))
        if target == (1, 1):
            self.emit(fx, "mean", [source], {"dims": [2, 3], "keepdim": True})
        elif target == size:
            self.alias[fx.name] = source
        elif all(s % t == 0 for s, t in zip(size, target, strict=True)):
            kernel = [s // t for s, t in zip(size, target, strict=True)]
            attrs = {"kernel": kernel, "stride": kernel, "padding": [0, 0], "ceil": False, "count_include_pad": True}
            self.emit(fx, "avg_pool2d", [source], attrs)
        else:
            self.emit(fx, "aten.adaptive_avg_pool2d", [source])

    def op_mean(self, fx: Any, a: dict[str, Any]) -> None:
        source = self.tensor(fx.args[0])
        rank = len(self.specs[source].shape)
        dims = sorted(d % rank for d in (a.get("dim") or range(rank)))
        self.emit(fx, "mean", [source], {"dims": dims, "keepdim": bool(a.get("keepdim", False))})

    def op_permute(self, fx: Any, a: dict[str, Any]) -> None:
        source = self.tensor(fx.args[0])
        rank = len(self.specs[source].shape)
        self.emit(fx, "permute", [source], {"dims": [d % rank for d in a["dims"]]})

    def op_transpose(self, fx: Any, a: dict[str, Any]) -> None:
        source = self.tensor(fx.args[0])
        dims = list(range(len(self.specs[source].shape)))
        i, j = a["dim0"] % len(dims), a["dim1"] % len(dims)
        dims[i], dims[j] = dims[j], dims[i]
        self.emit(fx, "permute", [source], {"dims": dims})

    def op_slice(self, fx: Any, a: dict[str, Any]) -> None:
        source = self.tensor(fx.args[0])
        shape = self.specs[source].shape
        dim = a["dim"] % len(shape)
        start, end, _ = slice(a["start"], a["end"]).indices(shape[dim])
        if (start, end, a["step"]) == (0, shape[dim], 1):
            self.alias[fx.name] = source
        else:
            self.emit(fx, "slice", [source], {"dim": dim, "start": start, "end": end, "step": a["step"]})

    def _parts(self, fx: Any, dim: int) -> None:
        source = self.tensor(fx.args[0])
        dim %= len(self.specs[source].shape)
        ends = np.cumsum([v.shape[dim] for v in fx.meta["val"]]).tolist()
        self.split[fx.name] = list(zip([0, *ends[:-1]], ends, strict=True))
        self.split_dim[fx.name] = dim
        self.alias[fx.name] = source

    def op_split(self, fx: Any, a: dict[str, Any]) -> None:
        self._parts(fx, a["dim"])

    def op_split_with_sizes(self, fx: Any, a: dict[str, Any]) -> None:
        self._parts(fx, a["dim"])

    def op_chunk(self, fx: Any, a: dict[str, Any]) -> None:
        self._parts(fx, a["dim"])

    def op_cat(self, fx: Any, a: dict[str, Any]) -> None:
        inputs = [self.tensor(t) for t in a["tensors"]]
        self.emit(fx, "cat", inputs, {"dim": a["dim"] % len(self.specs[inputs[0]].shape)})

    def op_softmax(self, fx: Any, a: dict[str, Any]) -> None:
        source = self.tensor(fx.args[0])
        self.emit(fx, "softmax", [source], {"dim": a["dim"] % len(self.specs[source].shape)})

    def op_upsample_nearest2d(self, fx: Any, a: dict[str, Any]) -> None:
        self.emit(
            fx, "interpolate", [self.tensor(fx.args[0])], {"size": list(_spec(fx.meta["val"]).shape[2:]), "mode": "nearest"}
        )

    def op_upsample_bilinear2d(self, fx: Any, a: dict[str, Any]) -> None:
        attrs = {"size": list(_spec(fx.meta["val"]).shape[2:]), "mode": "bilinear", "align_corners": a["align_corners"]}
        self.emit(fx, "interpolate", [self.tensor(fx.args[0])], attrs)

    def op_pad(self, fx: Any, a: dict[str, Any]) -> None:
        op = "pad" if a["mode"] == "constant" else "aten.pad"
        self.emit(fx, op, [self.tensor(fx.args[0])], {"pad": list(a["pad"]), "value": float(a["value"] or 0.0)})


for _op in ("relu", "relu6", "silu", "hardswish", "hardsigmoid", "sigmoid", "tanh"):
    setattr(_Reader, f"op_{_op}", lambda self, fx, a, _op=_op: self._pointwise(_op)(fx, a))


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
    reader = _Reader(program)
    graph = reader.read()
    values = {
        k: reader.state[k].detach().cpu().numpy()
        for k in graph.params
        if not reader.state[k].is_meta and reader.state[k].dtype != torch.bfloat16
    }
    return Graph(graph.nodes, graph.outputs, graph.params, values)
