"""Trace: any `nn.Module` to a `Graph`, through `torch.export`.

Functional calls count like modules (``F.relu``, ``+``, ``@``, ``F.interpolate``, pooling). Views that only rename data
(flatten, contiguous, dropout at inference) are folded away. What no input reaches (standardised weights, position
tables, masks) is computed once and becomes a constant. An operation without a name of ours keeps its ATen name, so the
graph can still be drawn; its MACs are counted where a formula exists.

MACs are multiply-accumulates, additions of biases not counted: convolution ``out * I/groups * kh * kw``, linear
``out * I``, matrix product ``out * K``, attention both products.

Every learned value that an output needs counts once as a parameter, by the name of its first use. What is computed from
learned values alone (a standardised weight, a table's rows, a fused bias) stands in the graph with its own shape; where that
has not as many elements, the node that reads it says in ``attrs["learned"]`` how many learned values are behind it.

A graph that shall only be counted needs no weights: with ``counting=True`` a module built by `hollow` stays on the meta
device, and a module that `torch.export` refuses is watched while it runs once (`design.record`).
"""

from __future__ import annotations

import io
import logging
import operator
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from netwright.core.errors import NetwrightError, TraceError
from netwright.core.graph import CONSTANT, LEARNED, Graph, Node, Spec
from netwright.design.aten import Computed, macs_of, spec_of
from netwright.design.choosing import Choosing
from netwright.design.execute import GraphModule
from netwright.design.record import Failed, record

_IDENTITY = frozenset(
    "dropout dropout_ feature_dropout type_as clone contiguous alias detach detach_ lift_fresh_copy lift_fresh to _to_copy "
    "_assert_tensor_metadata".split()
)
_LIKE: dict[str, Any] = {  # tensors of the shape of another: constants
    **dict.fromkeys(("zeros_like", "new_zeros", "empty_like", "new_empty"), 0.0), **dict.fromkeys(("ones_like", "new_ones"), 1.0),
    **dict.fromkeys(("full_like", "new_full"), "fill_value"),
}  # fmt: skip
_RESHAPE = frozenset("flatten view reshape unflatten squeeze _unsafe_view view_as reshape_as".split())
_RENAME = {
    "relu_": "relu", "hardswish_": "hardswish", "silu_": "silu", "hardtanh_": "hardtanh", "add_": "add", "mul_": "mul",
    "sub_": "sub", "div_": "div", "sigmoid_": "sigmoid", "tanh_": "tanh", "leaky_relu_": "leaky_relu", "elu_": "elu",
    "hardsigmoid_": "hardsigmoid", "relu6_": "relu6", "bmm": "matmul", "mm": "matmul", "__add__": "add",
    "mish_": "mish", "clamp_": "clamp", "clamp_min_": "clamp_min", "masked_fill_": "masked_fill", "pow_": "pow", "neg_": "neg",
    "true_divide": "div", "multiply": "mul", "subtract": "sub", "divide": "div", "negative": "neg", "moveaxis": "movedim",
    "swapaxes": "transpose", "softmax": "softmax", "_softmax": "softmax", "special_erf": "erf",
    "concat": "cat", "concatenate": "cat", "scaled_dot_product_attention": "sdpa", "conv2d": "conv2d",
}  # fmt: skip


class Reader(Choosing):
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
        self.results: dict[str, list[str]] = {}
        # What no input reaches: fx node -> its value, and the learned parameter that it comes from.
        self.fixed: dict[str, Any] = {fx: self.state[name] for fx, name in self.names.items() if name in self.state}
        self.learned: dict[str, tuple[str, ...]] = {fx: (name,) for fx, name in signature.inputs_to_parameters.items()}
        self.origins: dict[str, tuple[str, ...]] = {name: (name,) for name in signature.inputs_to_parameters.values()}
        self.buffers = set(signature.inputs_to_buffers.values())

    def read(self) -> Graph:
        outputs: list[str] = []
        for fx in self.program.graph.nodes:
            if fx.op == "placeholder":
                if fx.name in self.user_inputs:
                    self.emit(fx, "input", [])
            elif fx.op == "call_function":
                try:
                    self.call(fx)
                except NetwrightError:
                    raise
                except Exception as error:
                    why = (str(error).splitlines() or [type(error).__name__])[0]
                    raise TraceError(f"The operation {fx.target} (at {_line(fx) or fx.name}) could not be read: {why}") from error
            elif fx.op == "get_attr":
                continue
            elif fx.op == "output":
                outputs = [self.alias[a.name] for a in fx.all_input_nodes if a.name in self.alias]
        by_name = {fx.name: fx for fx in self.program.graph.nodes}
        wanted = [s.arg.name for s in self.program.graph_signature.output_specs if s.kind.name == "USER_OUTPUT"]
        outputs = [self.tensor(by_name[n]) for n in wanted if n in self.alias or n in self.names] or outputs
        return self.settled(self.prune(Graph(tuple(self.nodes), tuple(outputs), self.params)))

    def settled(self, graph: Graph) -> Graph:
        """Every learned value counts once, buffers do not: keys that would count twice become constants, and what no key
        stands for goes to ``attrs["learned"]``."""
        used = [(role, key) for node in graph for role, key in node.weights.items()]
        paid = {key for role, key in used if role in LEARNED and self.origins.get(key) == (key,)}
        kept, nodes = set[str](), []
        for node in graph:
            weights, behind = dict(node.weights), 0
            for role, key in node.weights.items():
                fresh = [o for o in self.origins.get(key, ()) if o not in paid]
                paid.update(fresh)
                if role in LEARNED and not key.startswith(CONSTANT) and (fresh or self.origins.get(key) in (None, (key,))):
                    kept.add(key)
                elif fresh:
                    behind += sum(self.state[o].numel() for o in fresh)
                again = bool(self.origins.get(key)) and not key.startswith(CONSTANT) and key not in kept and role in LEARNED
                fixed = key in self.buffers and role in LEARNED and self.state[key].is_floating_point()  # codes are learned
                if again or fixed:
                    weights[role] = CONSTANT + key
                    self.state[CONSTANT + key], self.params[CONSTANT + key] = self.state[key], self.params[key]
            attrs = {**node.attrs, "learned": behind} if behind else node.attrs
            nodes.append(replace(node, weights=weights, attrs=attrs))
        return graph.replace(nodes, params=self.params)

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
        self.nodes.append(Node(name, op, tuple(inputs), spec, attrs, weights, macs, path, _line(fx) if inputs else ""))
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

    def constant(self, fx: Any, value: Tensor, role: str = "") -> str:
        """Key of a new parameter. What a learned one was turned into is called after it and counts in its place; what
        repeats or picks its elements, as a table of positions does, is a constant."""
        origins = self.learned.get(fx.name, ())
        counts = len(origins) == 1 and self.state[origins[0]].numel() == value.numel()
        key = f"{origins[0]}.{fx.name}" if counts else CONSTANT + fx.name
        key = f"{key}.{role}" if role else key
        while key in self.state:
            key += "_"
        self.state[key] = value
        if origins:
            self.origins[key] = origins
        return key

    def same_origin(self, key: str, source: str) -> None:
        if source in self.origins:
            self.origins[key] = self.origins[source]
        if source in self.buffers:
            self.buffers.add(key)

    def known(self, fx: Any) -> Tensor | None:
        value = self.fixed.get(fx.name)
        return value if isinstance(value, Tensor) and not value.is_meta else None

    def evaluate(self, fx: Any) -> bool:
        """Compute a node that no input reaches; False where that cannot be done."""
        sources = fx.all_input_nodes
        schema = getattr(fx.target, "_schema", None)
        if any(n.name not in self.fixed for n in sources):
            return False
        if schema and schema.name.removeprefix("aten::") in _IDENTITY and sources and sources[0].name in self.names:
            val = fx.meta.get("val")
            if isinstance(val, Tensor) and val.dtype == self.fixed[sources[0].name].dtype:
                self.names[fx.name], self.fixed[fx.name] = self.names[sources[0].name], self.fixed[sources[0].name].contiguous()
                self.learned[fx.name] = self.learned.get(sources[0].name, ())
                return True
        if schema and (schema.is_mutable or not schema.name.startswith("aten::")):
            return False
        if schema and torch.Tag.nondeterministic_seeded in fx.target.tags:
            return False
        if schema is None and fx.target is not operator.getitem:
            return False
        hollow = any(isinstance(self.fixed[n.name], Tensor) and self.fixed[n.name].is_meta for n in sources)
        kwargs = {**fx.kwargs, "device": "meta" if hollow else "cpu"} if "device" in fx.kwargs else fx.kwargs
        args, kwargs = torch.fx.map_arg((fx.args, kwargs), lambda n: self.fixed[n.name])
        if hollow:
            args, kwargs = tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
        try:
            with torch.no_grad():
                value = self.fixed[fx.name] = fx.target(*args, **kwargs)
        except (NotImplementedError, RuntimeError):
            if hollow:  # the shape of the result depends on values
                return False
            raise
        origins = dict.fromkeys(o for n in sources for o in self.learned.get(n.name, ()))
        if origins:
            self.learned[fx.name] = tuple(origins)
        if not isinstance(value, Tensor):
            return True
        same = next((n.name for n in sources if self.fixed[n.name] is value), None)
        self.names[fx.name] = self.names[same] if same in self.names else self.constant(fx, value.contiguous())
        return True

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
        if self.evaluate(fx):
            return None
        if not hasattr(fx.target, "_schema"):
            name = getattr(fx.target, "__name__", str(fx.target))
            if name == "getitem":
                return self.getitem(fx)
            if name.startswith("wrap_with_"):
                return self.region(fx)
            if any(isinstance(getattr(a, "meta", {}).get("val"), Tensor) for a in fx.all_input_nodes):
                self.emit(fx, f"python.{name}", [self.tensor(a) for a in fx.all_input_nodes if a.op != "get_attr"])
            return
        namespace, _, name = fx.target._schema.name.partition("::")
        a = self.arguments(fx)
        if namespace == "netwright":
            return self.ours(fx, name, a)
        op = _RENAME.get(name, name)
        if op in _LIKE:
            fill, val = _LIKE[op], fx.meta["val"]
            value = torch.full(val.shape, a[fill] if isinstance(fill, str) else fill, dtype=val.dtype)
            self.names[fx.name], self.fixed[fx.name] = self.constant(fx, value), value
            return None
        if op in _IDENTITY:
            if _counts_truth(fx):  # true is 1 from here on; a product with 1 says so in every back end
                self.emit(fx, "mul", [self.tensor(fx.args[0])], {"scalar": 1.0})
            elif isinstance(fx.args[0], torch.fx.Node):
                self.alias[fx.name] = self.tensor(fx.args[0])
            return None
        if op in _RESHAPE:
            source = self.tensor(fx.args[0])
            if self.specs[source].shape == spec_of(fx.meta["val"]).shape:
                self.alias[fx.name] = source
            else:
                self.emit(fx, "reshape", [source])
            return None
        if hasattr(self, f"op_{op}"):
            try:
                getattr(self, f"op_{op}")(fx, a)
                return None
            except Computed:  # kept as it is, with all that it reads
                pass
        inputs = [self.tensor(n) for n in fx.all_input_nodes if isinstance(n.meta.get("val"), (Tensor, list, tuple))]
        attrs = {k: v for k, v in a.items() if isinstance(v, (int, float, str, bool))}
        spec = fx.meta.get("val")
        self.emit(fx, f"aten.{name}", inputs, attrs, spec=spec_of(spec[0] if isinstance(spec, (list, tuple)) and spec else spec))
        return None

    def region(self, fx: Any) -> None:
        """A part of the program under autocast or without gradients, a graph of its own: read as if it stood here."""
        place = next(i for i, n in enumerate(fx.args) if isinstance(n, torch.fx.Node) and n.op == "get_attr")
        inner, given = getattr(self.program.graph_module, fx.args[place].target).graph, iter(fx.args[place + 1 :])
        for node in inner.nodes:
            node.name = f"{fx.name}_{node.name}"
            if node.op == "placeholder":
                source = next(given)
                tables: tuple[dict[str, Any], ...] = (self.alias, self.names, self.fixed, self.learned)
                for table in tables:
                    if source.name in table:
                        table[node.name] = table[source.name]
            elif node.op == "call_function":
                self.call(node)
            elif node.op == "output":
                self.results[fx.name] = [self.tensor(n) for n in node.all_input_nodes]

    def ours(self, fx: Any, name: str, a: dict[str, Any]) -> None:
        tensors = {k: v for k, v in a.items() if isinstance(v, torch.fx.Node)}
        inputs = [self.tensor(v) for k, v in tensors.items() if v.name not in self.names]
        attrs = {k: list(v) if isinstance(v, (list, tuple)) else v for k, v in a.items() if k not in tensors and v is not None}
        self.emit(fx, name, inputs, attrs, self.roles(**{k: v for k, v in tensors.items() if v.name in self.names}))

    def getitem(self, fx: Any) -> None:
        source, index = fx.args
        if source.name in self.results:
            self.alias[fx.name] = self.results[source.name][index]
        elif source.name in self.split:
            start, end = self.split[source.name][index]
            part = self.cut(fx, self.tensor(source), self.split_dim[source.name], start, end)
            self.alias[fx.name] = self.viewed(fx, part, spec_of(fx.meta["val"]).shape)
        elif index == 0:
            self.alias[fx.name] = self.tensor(source)
        else:
            self.emit(fx, "getitem", [self.tensor(source)], {"index": index})


def _functional(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without writes into tensors that are read elsewhere (``x[:, 0] = y``); others are values like any."""
    for fx in program.graph.nodes:
        schema = getattr(fx.target, "_schema", None)
        if schema is None or not schema.is_mutable or not isinstance(fx.args[0], torch.fx.Node):
            continue
        written = fx.args[0]
        source = getattr(written.target, "_schema", None)
        if len(written.users) > 1 or (source and any(r.alias_info for r in source.returns) and not source.is_mutable):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return program.run_decompositions({})
    return program


def _counts_truth(fx: Any) -> bool:
    """A tensor of booleans becomes one of numbers."""
    source, val = getattr(fx.args[0], "meta", {}).get("val"), fx.meta.get("val")
    return isinstance(source, Tensor) and isinstance(val, Tensor) and source.dtype == torch.bool != val.dtype


def _line(fx: Any) -> str:
    """File and line of the caller's program, the last frame that is not one of torch's own."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', fx.meta.get("stack_trace") or "")
    own = [f for f in frames if "/torch/" not in f[0].replace("\\", "/")]
    return f"{Path(own[-1][0]).name}:{own[-1][1]}" if own else ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of an export, and without the half-made graph that it prints where it fails."""
    names = ("torch.fx.experimental.symbolic_shapes", "torch._subclasses.fake_tensor")
    logs, said = [(log, log.level) for log in map(logging.getLogger, names)], io.StringIO()
    for log, _ in logs:
        log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield
        sys.stderr.write(said.getvalue())  # what the user's own module has to say
    finally:
        for log, level in logs:
            log.setLevel(level)


def _reason(error: BaseException) -> str:
    """The first line of an error, and the operation that it came from where the way down shows one."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    op, at = "", error.__traceback__
    while at is not None:
        found = at.tb_frame.f_locals.get("func")
        op, at = str(found) if isinstance(found, torch._ops.OpOverload) else op, at.tb_next
    if "data-dependent" in reason:
        op = "aten.item"
    if place := re.search(r'raised this error:\s+File "([^"]+)", line (\d+)', str(error)):
        reason = f"{reason} At {Path(place[1]).name}:{place[2]}."
    named = re.search(r"(?:aten|prims|torchvision|netwright)[.:]+\w+", str(error))
    op = named[0] if named else op
    return f"{reason} (operation {op})" if op and op not in reason else reason


def hollow(build: Callable[[], nn.Module]) -> nn.Module:
    """The module that `build` makes, at inference and without weights: its tensors have shapes and no values. A module that
    reads its own values while it is built is built with them."""
    try:
        with torch.device("meta"):
            module = build().eval()
        lost = {p.is_meta for p in module.parameters()}
        return module.to("meta") if len(lost) == 2 else module  # some were made from values
    except (NotImplementedError, RuntimeError, ValueError, TypeError):
        return build().eval()


def _program(module: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    with _quiet(), torch.no_grad():
        return _functional(torch.export.export(module, inputs, strict=False))


def exported(module: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """The program of a module at inference that `trace` reads: its operations carry the names of the Graph's nodes.

    Raises:
        TraceError: as `trace`.
    """
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        return _program(module, inputs)
    except Exception as error:
        shapes = ", ".join("x".join(map(str, i.shape)) for i in inputs)
        raise TraceError(f"{type(module).__name__} could not be exported with input {shapes}: {_reason(error)}") from error
    finally:
        for part, mode in modes:
            part.training = mode


def trace(
    module: nn.Module | torch.export.ExportedProgram,
    example: Tensor | tuple[Tensor, ...] | None = None,
    *,
    counting: bool = False,
) -> Graph:
    """Turn a module (at inference) into a `Graph` with its parameters' values.

    Args:
        module: any `nn.Module`, or a program that `torch.export` saved.
        example: an input [N, ...], or a tuple of inputs; only shapes and types matter. Use N = 1 to count at batch 1.
        counting: the graph shall be counted and drawn, not run: it holds no values, the module may lie on the meta device
            (see `hollow`), and where `torch.export` fails, one run with the example is recorded (the branch that it takes).

    Raises:
        TraceError: the module cannot be exported (control flow that depends on data, Python objects as inputs, wrong
            input shape); the message carries the first line of the reason and the operation where one is to blame.
    """
    if isinstance(module, GraphModule) and not len(module.layers):
        return module.to_graph()
    if isinstance(module, nn.Module):
        if example is None:
            raise TraceError("tracing a module needs an example input; give its shape, for example --input 1x3x224x224")
        inputs = example if isinstance(example, tuple) else (example,)
        if any(p.is_meta for p in module.parameters()):
            inputs = tuple(i.to("meta") for i in inputs)
        modes = [(m, m.training) for m in module.modules()]
        module.eval()
        try:
            return _read(_program(module, inputs), counting)
        except Exception as error:
            if isinstance(error, NetwrightError) and not counting:
                raise
            shapes = ", ".join("x".join(map(str, i.shape)) for i in inputs)
            reason = _reason(error)
            if counting:
                try:
                    return record(module, inputs)
                except Failed as failed:
                    reason = f"{failed}; torch.export says: {reason}"
            raise TraceError(
                f"{type(module).__name__} could not be traced with input {shapes}: {reason} "
                "Check the input shape; control flow that depends on the data needs `netwright.design.paths.trace_paths`."
            ) from error
        finally:
            for part, mode in modes:
                part.training = mode
    return _read(_functional(module), counting)


def _read(program: torch.export.ExportedProgram, counting: bool) -> Graph:
    reader = Reader(program)
    graph = reader.read()
    values = {
        k: reader.state[k].detach().cpu().numpy()
        for k in graph.params
        if not counting and not reader.state[k].is_meta and reader.state[k].dtype != torch.bfloat16
    }
    return Graph(graph.nodes, graph.outputs, graph.params, values)
