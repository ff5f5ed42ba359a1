"""Record: the operations of one run of a module as a `Graph`, for counting where `torch.export` fails.

Every ATen operation that the run makes becomes a node; views cost nothing, parameters keep their names and count once.
Convolutions, matrix products with a weight and attention carry the names of `core.graph`; what has no name of ours keeps
its own (``aten.sort``). MACs come from the formulas of ``torch.utils.flop_counter`` (half of its flops), which lack products
of a matrix with a vector, fused attention on CPUs and fused recurrent layers: those are ours.

The run is made on the meta device, without values, or with the example's values where the module's program depends on
them; then the graph is that of the branch taken. It cannot be run: it holds no values, and functions have no attributes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from netwright.core.graph import CONSTANT, Graph, Node, Spec
from netwright.design.aten import spec_of

_NAMES = {
    "native_batch_norm": "batch_norm", "_native_batch_norm_legit_no_training": "batch_norm", "cudnn_batch_norm": "batch_norm",
    "native_layer_norm": "layer_norm", "native_group_norm": "group_norm", "bmm": "matmul", "_softmax": "softmax",
    "max_pool2d_with_indices": "max_pool2d", "upsample_nearest2d": "interpolate", "upsample_bilinear2d": "interpolate",
    "_adaptive_avg_pool2d": "adaptive_avg_pool2d", "constant_pad_nd": "pad",
    **{n: n for n in "relu gelu silu hardswish hardsigmoid sigmoid tanh leaky_relu elu softplus mish add sub mul div maximum "
       "minimum avg_pool2d mean sum amax amin cat where topk gather abs sqrt rsqrt exp log sin cos erf pow gt ge lt le eq "
       "ne".split()},
}  # fmt: skip
_ROLES = {"weight": "weight", "mat2": "weight", "bias": "bias", "running_mean": "mean", "running_var": "var"}
_SILENT = frozenset({"detach", "alias", "lift_fresh", "_assert_async", "_assert_tensor_metadata"})


class Failed(Exception):
    """A run that could not be made; names the operation and the module."""


def _macs(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    name = func._schema.name.removeprefix("aten::")
    if name in ("mv", "dot"):
        return int(args[0].numel())
    if name == "addmv":
        return int(args[1].numel())
    if "scaled_dot_product" in name:
        q, k, v = (t.shape for t in args[:3])
        return math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])
    if name == "mkldnn_rnn_layer":
        return int(args[0].shape[0] * args[0].shape[1] * (args[1].numel() + args[2].numel()))
    formula = flop_registry.get(func._overloadpacket)
    return int(formula(*args, **kwargs, out_val=out)) // 2 if formula else 0


class _Recorder(TorchDispatchMode):
    """Collects nodes while the module runs."""

    def __init__(self, module: nn.Module, learned: Mapping[str, Tensor], fixed: Mapping[str, Tensor]):
        super().__init__()
        self.nodes: list[Node] = []
        self.params: dict[str, Spec] = {}
        self.names = WeakIdKeyDictionary()  # tensor -> our node
        self.keys = WeakIdKeyDictionary()  # parameter, buffer, or a view of one -> its key
        for key, tensor in {**{CONSTANT + k: v for k, v in fixed.items()}, **learned}.items():
            self.keys[tensor] = key
        self.specs = {key: spec_of(t) for t, key in self.keys.items()}
        self.path_of = {id(part): path for path, part in module.named_modules()}
        self.path: list[str] = [""]
        self.at = ""

    def add(self, op: str, inputs: list[str], spec: Spec, macs: int = 0, weights: dict[str, str] | None = None,
            attrs: dict[str, Any] | None = None) -> str:  # fmt: skip
        name = f"{op.removeprefix('aten.')}_{len(self.nodes)}"
        for key in (weights or {}).values():
            self.params[key] = self.specs[key]
        self.nodes.append(Node(name, op, tuple(inputs), spec, attrs or {}, weights or {}, macs, self.path[-1]))
        return name

    def entered(self, module: nn.Module, args: Any) -> None:
        self.path.append(self.path_of.get(id(module), self.path[-1]))

    def left(self, module: nn.Module, args: Any, out: Any) -> None:
        self.path.pop()

    def read(self, tensor: Tensor) -> str:
        """Our node for a tensor that no operation here has made: a parameter, a buffer, or a number of the program's own."""
        if tensor not in self.names:
            key = self.keys.get(tensor)
            if key is None:
                key = f"{CONSTANT}{len(self.nodes)}"
                self.keys[tensor], self.specs[key] = key, spec_of(tensor)
            self.names[tensor] = self.add("constant", [], spec_of(tensor), weights={"value": key})
        return str(self.names[tensor])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.at = f"{func} in {self.path[-1] or 'the module itself'}"
        out = func(*args, **kwargs)
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        given = {a.name: v for a, v in zip(func._schema.arguments, args, strict=False)} | kwargs
        tensors = [t for t in tree_leaves(list(given.values())) if isinstance(t, Tensor)]
        name = func._schema.name.removeprefix("aten::")
        if not made or not tensors:  # numbers, and tensors from none: constants where somebody reads them
            return out
        view = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
        if all(t in self.keys and t not in self.names for t in tensors) and (view or name in _SILENT):
            for t in made:
                self.keys[t] = self.keys[tensors[0]]
        elif name in _SILENT:
            self.names[made[0]] = self.read(tensors[0])
        else:
            self.operation(func, name, given, made, view, _macs(func, args, kwargs, out))
        return out

    def operation(self, func: Any, name: str, given: dict[str, Any], made: list[Tensor], view: bool, macs: int) -> None:
        weights: dict[str, str] = {}
        inputs: list[str] = []
        product = name in ("mm", "addmm")
        for argument, value in given.items():
            for t in (t for t in tree_leaves(value) if isinstance(t, Tensor)):
                role = "bias" if name == "addmm" and argument == "self" else _ROLES.get(argument, "other")
                if t in self.keys and t not in self.names and role not in weights and not (product and role == "other"):
                    weights[role] = self.keys[t]
                else:
                    inputs.append(self.read(t))
        op = f"aten.{name.removesuffix('_') if name.endswith('_') and not name.endswith('__') else name}"
        op = _NAMES.get(op.removeprefix("aten."), op)
        attrs: dict[str, Any] = {}
        if view:
            op = "reshape"
        elif product:
            op = "linear" if "weight" in weights else "matmul"
        elif name == "convolution":
            dims = len(given["weight"].shape) - 2
            op = f"conv_transpose{dims}d" if given["transposed"] else f"conv{dims}d"
            op = op if op in ("conv2d", "conv_transpose2d") and "weight" in weights else f"aten.{op}"
            attrs = {"stride": list(given["stride"]), "pads": list(given["padding"]) * 2, "dilation": list(given["dilation"]),
                     "groups": given["groups"]}  # fmt: skip
        elif "scaled_dot_product" in name:
            op = "sdpa"
        node = self.add(op, inputs, spec_of(made[0]), macs, weights, attrs)
        self.names[made[0]] = node
        for i, t in enumerate(made[1:], 1):
            self.names[t] = self.add("getitem", [node], spec_of(t), attrs={"index": i})


def _run(module: nn.Module, inputs: tuple[Tensor, ...], device: str | None) -> Graph:
    def moved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {k: t.detach().to(device) if device else t for k, t in tensors.items()}

    learned, fixed = moved(dict(module.named_parameters())), moved(dict(module.named_buffers()))
    inputs = tuple(i.to(device) if device else i for i in inputs)
    recorder = _Recorder(module, learned, fixed)
    for tensor in inputs:
        recorder.names[tensor] = recorder.add("input", [], spec_of(tensor))
    with ExitStack() as stack:
        stack.callback(register_module_forward_pre_hook(recorder.entered).remove)
        stack.callback(register_module_forward_hook(recorder.left).remove)
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)  # one fused node whose products nobody counts
        stack.enter_context(torch.no_grad())
        stack.enter_context(recorder)
        try:
            out = torch.func.functional_call(module, {**learned, **fixed}, inputs)
        except Exception as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise Failed(f"{recorder.at or 'no operation'} failed in a recorded run: {reason}") from error
    outputs = [recorder.names[t] for t in tree_leaves(_plain(out)) if isinstance(t, Tensor) and t in recorder.names]
    needed = set(outputs)
    for node in reversed(recorder.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    kept = [n for n in recorder.nodes if n.name in needed or n.op == "input"]
    return Graph((), tuple(outputs), recorder.params).replace(kept)


def _plain(out: Any) -> Any:
    """Results of a class of the caller's that behaves like a dictionary, as one."""
    return dict(out.items()) if isinstance(out, Mapping) else out


def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> Graph:
    """Run a module (as it stands, training or not) once and return what it did, for counting.

    Args:
        inputs: its inputs; their values matter only where the module's program depends on them.

    Raises:
        Failed: the module does not run; names the last operation, its module and the reason.
    """
    try:
        return _run(module, inputs, "meta")
    except Failed:
        if any(t.is_meta for t in (*module.parameters(), *module.buffers(), *inputs)):
            raise
    return _run(module, inputs, None)
