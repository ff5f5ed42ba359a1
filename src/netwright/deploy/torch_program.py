"""PyTorch programs that run compiled networks: one operator, `netwright::compiled`, around the C file.

    netwright::compiled(Tensor[] xs, Tensor weights, str graph) -> Tensor[]

`graph` describes a network from floats to floats, `weights` are its arrays as bytes, those of one and two bits packed. The
operator has a shape function, a count of operations and a C implementation that is compiled where it first runs; so it goes
through `torch.export` and into a .pt2 file, which needs this module and a C compiler, and nothing that is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from netwright.core.errors import NetwrightError, Unsupported
from netwright.core.graph import Graph, Node, Spec
from netwright.deploy.c99 import chosen_isa, chosen_threads, compile_c, emit
from netwright.deploy.loader import CompiledModel
from netwright.deploy.packed import pack, unpack

_LIBRARY = torch.library.Library("netwright", "FRAGMENT")
_LIBRARY.define("compiled(Tensor[] xs, Tensor weights, str graph) -> Tensor[]")


def cache_folder() -> Path:
    """Where compiled networks are kept: $NETWRIGHT_CACHE, else netwright in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("NETWRIGHT_CACHE") or Path(base) / "netwright")


class _Running:
    """A compiled network and the lock that its arena needs."""

    def __init__(self, weights: Tensor, graph: str):
        data = weights.numpy().tobytes()
        self.model = CompiledModel(*_library(data, graph))
        self.lock = threading.Lock()

    def __call__(self, xs: Sequence[Tensor]) -> list[Tensor]:
        with self.lock:
            ys = self.model.run(*(x.numpy() for x in xs))
        return [torch.from_numpy(y) for y in (ys if isinstance(ys, tuple) else (ys,))]


def _library(data: bytes, graph: str) -> tuple[Path, list[tuple[int, ...]], list[tuple[int, ...]]]:
    """The compiled network of a description, from the cache or made now, and the shapes of its inputs and outputs."""
    from netwright.deploy.bundle import processor

    emitted = emit(Graph.from_json(graph, unpack(data)))
    content = f"{emitted.c} {emitted.h} {chosen_isa()} {chosen_threads()} {processor()}"
    library = cache_folder() / f"program-{hashlib.sha256(content.encode()).hexdigest()[:24]}.so"
    if not library.is_file():
        compile_c(emitted, library)
    return library, list(emitted.input_shapes), list(emitted.output_shapes)


@lru_cache(maxsize=64)
def _shapes(graph: str) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]], int]:
    """Shapes of inputs and outputs of one example, and its multiply-accumulates."""
    read = Graph.from_json(graph)
    return [read[i].spec.shape for i in read.inputs], [read[o].spec.shape for o in read.outputs], read.macs


_RUNNING: dict[tuple[int, str], tuple[Tensor, _Running]] = {}


def _compiled(xs: Sequence[Tensor], weights: Tensor, graph: str) -> list[Tensor]:
    key = (weights.data_ptr(), graph)
    if key not in _RUNNING or (_RUNNING[key][0] is not weights and _RUNNING[key][0].data_ptr() != weights.data_ptr()):
        if len(_RUNNING) >= 256:
            _RUNNING.pop(next(iter(_RUNNING)))
        _RUNNING[key] = (weights, _Running(weights, graph))  # keeps the tensor, so that its address stays its own
    return _RUNNING[key][1]([x.detach().to(torch.float32).contiguous() for x in xs])


def _meta(xs: Sequence[Tensor], weights: Tensor, graph: str) -> list[Tensor]:
    inputs, outputs, _ = _shapes(graph)
    if len(xs) != len(inputs) or any(tuple(x.shape[1:]) != s[1:] for x, s in zip(xs, inputs, strict=True)):
        found = ", ".join("x".join(map(str, x.shape)) for x in xs)
        wanted = ", ".join("x".join(["N", *map(str, s[1:])]) for s in inputs)
        raise NetwrightError(f"The compiled network takes {wanted} and was given {found}.")
    return [xs[0].new_empty((xs[0].shape[0], *s[1:]), dtype=torch.float32) for s in outputs]


_LIBRARY.impl("compiled", _compiled, "CPU")
_LIBRARY.impl("compiled", _meta, "Meta")


@register_flop_formula(torch.ops.netwright.compiled, get_raw=True)
def _flops(xs: Any, weights: Any, graph: str, out_val: Any = None, **_: Any) -> int:
    return 2 * _shapes(graph)[2] * int(xs[0].shape[0])


class Compiled(nn.Module):
    """A network that runs as compiled C: x [N, ...] -> output, a tuple where it has several; inference on the CPU.

    Args:
        graph: with values; float inputs and outputs, a batch of one (any number runs, one after another).

    Raises:
        Unsupported: an operation without a C kernel, at once.
    """

    weights: Tensor

    def __init__(self, graph: Graph):
        super().__init__()
        emit(graph)
        self.graph = json.dumps(graph.to_json(), separators=(",", ":"), default=_plain)
        self.register_buffer("weights", torch.from_numpy(np.frombuffer(pack(graph), np.uint8).copy()))

    def forward(self, *xs: Tensor) -> Any:
        ys = torch.ops.netwright.compiled(list(xs), self.weights, self.graph)
        return ys[0] if len(ys) == 1 else tuple(ys)


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"an attribute of type {type(value).__name__} cannot be written as JSON")


def to_program(graph: Graph) -> torch.export.ExportedProgram:
    """An exported program for any number of examples, which `torch.export.save` writes as a .pt2 file.

    Reading it needs ``import netwright.deploy.torch_program`` first, which defines the operator.
    """
    module = Compiled(graph).eval()
    several = len(graph.inputs) > 1
    examples = tuple(torch.zeros(1 if several else 2, *graph[i].spec.shape[1:]) for i in graph.inputs)
    batch = None if several else ({0: torch.export.Dim("batch", min=1)},)
    return torch.export.export(module, examples, dynamic_shapes=None if batch is None else {"xs": batch}, strict=False)


def accelerate(module: nn.Module, example: Tensor, tolerance: float = 1e-5) -> nn.Module:
    """Replace the binary layers of a PyTorch model by compiled ones, in place.

    A layer qualifies if it is an `nn.Linear` of two dimensions or an `nn.Conv2d` with zero padding, its weights are -a and a
    for one a an output channel, and all that it reads in a run of `example` is -1 and 1. Each is compared with its
    replacement on what it read. Sums are whole numbers here: where PyTorch's rounding makes of a sum of zero a little more or
    less, a sign behind the layer may differ.

    Args:
        module: at inference, on the CPU.
        example: an input [N, ...].
        tolerance: largest difference of a layer's output that is accepted, by its largest output.

    Returns:
        The same module.

    Raises:
        Unsupported: no layer qualifies, or a replacement gives something else; nothing is replaced then.
    """
    read: dict[str, list[Tensor]] = {}
    hooks = []
    for name, layer in module.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and _two_valued(layer):

            def look(seen: nn.Module, given: tuple[Tensor, ...], name: str = name) -> None:
                read.setdefault(name, []).append(given[0].clone())

            hooks.append(layer.register_forward_pre_hook(look))
    try:
        with torch.no_grad():
            module.eval()(example)
    finally:
        for hook in hooks:
            hook.remove()
    compiled: dict[str, Compiled] = {}
    for name, xs in read.items():
        layer, shapes = module.get_submodule(name), {x.shape[1:] for x in xs}
        rank = 4 if isinstance(layer, nn.Conv2d) else 2
        if len(shapes) > 1 or not all(x.dim() == rank and bool((x.abs() == 1).all()) for x in xs):
            continue
        compiled[name] = Compiled(_layer_graph(layer, (1, *xs[0].shape[1:])))
        with torch.no_grad():
            expected, got = layer(xs[0]), compiled[name](xs[0])
        if not float((got - expected).abs().max()) <= tolerance * float(expected.abs().max()):
            raise Unsupported("accelerate", type(layer).__name__, name, "Its compiled form gives other numbers.")
    if not compiled:
        way_out = "It needs layers whose weights are -a and a and whose inputs are -1 and 1."
        raise Unsupported("accelerate", type(module).__name__, "", way_out)
    for name, layer in compiled.items():
        module.set_submodule(name, layer)
    return module


def _two_valued(layer: nn.Linear | nn.Conv2d) -> bool:
    weight = layer.weight.detach().flatten(1)
    size = weight.abs()
    padding = getattr(layer, "padding", 0)
    zeros = not isinstance(padding, str) and getattr(layer, "padding_mode", "zeros") == "zeros"
    return zeros and bool((size == size[:, :1]).all()) and bool((size[:, 0] > 0).all())


def _layer_graph(layer: nn.Module, shape: tuple[int, ...]) -> Graph:
    """signs -> sums -> a * sums + bias, of one binary layer."""
    from netwright.design.trace import trace

    traced = trace(layer, torch.ones(shape))
    node = next(n for n in traced if n.op in ("conv2d", "linear"))
    weight = np.asarray(traced.value(node, "weight"), np.float32)
    scale = np.abs(weight.reshape(len(weight), -1)[:, 0])
    values = {"weight": np.where(weight >= 0, 1, -1).astype(np.int8), "scale": scale}
    if "bias" in node.weights:
        values["add"] = np.asarray(traced.value(node, "bias"), np.float32).reshape(-1, *[1] * (len(node.spec.shape) - 2))
    x, codes, sums = traced.inputs[0], Spec(shape, 8, "int"), replace(node.spec, bits=32, kind="int")
    attrs = {**node.attrs, "lo": -127, "hi": 127, "bits": 1}
    nodes = [
        Node(x, "input", (), Spec(shape)),
        Node("signs", "quantize", (x,), codes, {"scale": 1.0, "lo": -1, "hi": 1}),
        Node("sums", "bconv2d" if node.op == "conv2d" else "blinear", ("signs",), sums, attrs, {"weight": "weight"}, node.macs),
        Node("scaled", "dequantize", ("sums",), node.spec, {}, {"scale": "scale"}),
    ]
    if "add" in values:
        nodes.append(Node("shifted", "add", ("scaled",), node.spec, {}, {"other": "add"}))
    params = {k: Spec(v.shape, 1 if k == "weight" else 32, "int" if k == "weight" else "float") for k, v in values.items()}
    return Graph(tuple(nodes), (nodes[-1].name,), params, values)
