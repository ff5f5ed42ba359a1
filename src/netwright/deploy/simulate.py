"""Simulate: a spiking network on batches of images in PyTorch, fast.

    run = simulate(graph)
    logits = run(x)                      # x [N, C, H, W] -> [N, K]
    currents = run.over_time(x)          # [T, N, K]: what the output receives in every step
    rates = run.rates(x)                 # layer of neurons -> spikes a neuron and step

Layer by layer, all T steps of a part of the batch at once, channels last. What is constant is computed once (the current of
the first layer) and what is linear is computed on sums (the head reads the sum of its spikes). Convolutions and matrix
products run in the library's dense kernels, neurons in one pass of compiled C over all steps, together with the pooling of their
spikes (`kernels/simulate.h`).

Spikes, weight codes and currents are whole numbers, so both modes give what `GraphModule(graph)` gives, number for number:

    "int8"    spikes and weights as bytes, sums in 32 bits: oneDNN, with VNNI or AMX units where the processor has them
    "float"   everything in float32, which holds every whole number below 2^24: for any processor
    "auto"    int8 where the processor multiplies bytes, else float

There is no bfloat16 mode: it rounds currents, and the units that multiply bfloat16 multiply bytes faster, and exactly.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from netwright.core.errors import NetwrightError, Unsupported
from netwright.core.graph import Graph, Node
from netwright.deploy.c99.compile import chosen_isa, compile_c
from netwright.deploy.c99.emit import kernels
from netwright.design.execute import RUN

Mode = Literal["auto", "int8", "float"]
WHO, WAY_OUT = "The simulator", "Run GraphModule(graph) instead, or compile it with netwright.deploy.c99.build."
EXACT = 2**24  # whole numbers below it are exact in float32
CODES = 128  # largest byte in a product: some kernels add two products of bytes in 16 bits
RULES = ("if", "bipolar", "memory", "burst")  # in the order of kernels/spiking.h
PART = 2048  # NW_PART_NEURONS in kernels/spiking.h
BYTES = 2**22  # of the largest tensor of one part of a batch, which then stays in the processor's cache
LAST = torch.channels_last
Run = Callable[..., Tensor]


def _processor() -> str:
    from netwright.deploy.bundle import processor  # here: a bundle's manifest is no part of a simulation

    return processor()


@lru_cache(maxsize=8)
def _library(isa: str, folder: Path) -> ctypes.CDLL:
    """The compiled neurons, from `folder` or made now.

    Raises:
        CompilerError: no compiler, or it refused.
    """
    source = kernels({"nw_simulate"})
    library = folder / f"simulate-{hashlib.sha256(f'{source} {isa} {_processor()}'.encode()).hexdigest()[:24]}.so"
    if not library.is_file():
        with tempfile.TemporaryDirectory() as made:
            path = Path(made) / "simulate.c"
            path.write_text(source)
            compile_c(path, library, isa=isa, threads=1)
    return ctypes.CDLL(str(library))


@dataclass(frozen=True)
class Form:
    """How a tensor of the graph is held: [steps*N, C, H, W] (channels last) or [steps*N, C], whole numbers of magnitude up to
    `largest`, as floats or (`bytes`) as unsigned bytes with `zero` added."""

    steps: int
    largest: int
    bytes: bool = False
    zero: int = 0

    def floats(self, x: Tensor) -> Tensor:
        return x.to(torch.float32) - self.zero if self.bytes else x


@dataclass(frozen=True)
class Step:
    """`run` takes the tensors named `inputs` and makes the tensor `name`; `size`: its bytes of one image, all steps."""

    name: str
    inputs: tuple[str, ...]
    run: Run
    size: int


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=LAST) if x.dim() == 4 else x.contiguous()


def _time(x: Tensor, steps: int) -> Tensor:
    """[steps*N, ...] -> [steps, N, ...]."""
    return x.reshape(steps, len(x) // steps, *x.shape[1:])


def _total(x: Tensor, form: Form, start: int = 0) -> Tensor:
    """Sum of the steps start..steps-1, in float64."""
    return _time(form.floats(x), form.steps)[start:].sum(0, dtype=torch.float64)


class _Plan:
    """The steps of a graph.

    Args:
        fused: neurons and the pooling of their spikes are one step.
        summed: a layer that only the readout reads gets the sum of its input over the steps that count.
    """

    def __init__(self, graph: Graph, int8: bool, fused: bool, summed: bool):
        from netwright.deploy.torch_program import cache_folder

        self.graph, self.int8, self.summed = graph, int8, summed
        self.library = _library(chosen_isa(), cache_folder())
        self.readers = graph.consumers()
        self.forms: dict[str, Form] = {}
        self.steps: list[Step] = []
        self.pools = dict(self._pools()) if fused else {}
        inside = {pool.name for pool in self.pools.values()}
        for node in graph:
            if node.op == "input" or node.name in inside:
                continue
            if (method := getattr(self, f"op_{node.op}", None)) is None:
                raise Unsupported(WHO, node.op, node.origin, WAY_OUT)
            method(node)

    def _reader(self, node: Node | None, op: str) -> Node | None:
        """The only reader of a node, where it has this operation."""
        after = self.readers[node.name] if node is not None else []
        return after[0] if len(after) == 1 and after[0].op == op else None

    def _pools(self) -> Iterator[tuple[str, Node]]:
        """Neurons whose only reader sums their spikes over windows that do not overlap, and that reader."""
        for node in self.graph:
            pool = self._reader(node, "qconv2d") if node.op == "integrate" else None
            if pool is not None and "bias" not in pool.weights and self._kept(pool):
                a, w = pool.attrs, self.graph.value(pool, "weight")
                apart = a["stride"] == list(w.shape[2:]) and not any(a["pads"]) and a["dilation"] == [1, 1]
                if apart and a["groups"] == len(w) == node.spec.shape[1] and w.size <= PART and (w == 1).all():
                    yield node.name, pool

    def _kept(self, node: Node) -> bool:
        """Sums that are not rescaled, or by one."""
        return "mult" not in node.weights or bool(
            (self.graph.value(node, "mult").astype(np.int64) == 1 << self.graph.value(node, "shift").astype(np.int64)).all()
        )

    def add(self, node: Node, run: Run, form: Form, inputs: tuple[str, ...] | None = None, name: str = "") -> None:
        size = math.prod(node.spec.shape) * form.steps * (1 if form.bytes else 4)
        self.forms[name or node.name] = form
        self.steps.append(Step(name or node.name, node.inputs if inputs is None else inputs, run, size))

    def exact(self, node: Node, largest: int) -> int:
        if largest >= EXACT:
            why = f"Its sums can reach {largest}; float32 is exact below {EXACT}."
            raise Unsupported(WHO, node.op, node.origin, f"{why} {WAY_OUT}")
        return largest

    def channels(self, node: Node, role: str, count: int) -> np.ndarray:
        """A whole number a channel; zeros where the node has none."""
        v = self.graph.value(node, role) if role in node.weights else np.zeros(1)
        return np.broadcast_to(v.reshape(-1).astype(np.int64), (count,))

    def op_quantize(self, node: Node) -> None:
        lo, hi = int(node.attrs["lo"]), int(node.attrs["hi"])
        inverse = torch.tensor(1.0 / node.attrs["scale"], dtype=torch.float32)

        def run(x: Tensor) -> Tensor:
            return _last((x * inverse).round_().nan_to_num_(0.0, hi, lo).clamp_(lo, hi))

        self.add(node, run, Form(1, max(abs(lo), abs(hi))))

    def op_qconv2d(self, node: Node) -> None:
        if not self._kept(node):
            raise Unsupported(WHO, f"{node.op} with rescaling", node.origin, WAY_OUT)
        w, name = self._weights(node)
        x = self.forms[name]
        bias, rows = self.channels(node, "bias", len(w)), abs(w.astype(np.int64)).reshape(len(w), -1).sum(1)
        readout = self._reader(node, "readout") if self.summed else None
        if readout is not None:
            start = int(readout.attrs["start"])
            sums = Form(1, x.largest * (x.steps - start))
            total = rows * sums.largest + abs(bias) * (x.steps - start)
            if total.max() < EXACT:
                spikes, bias = x, bias * (x.steps - start)
                self.add(self.graph[name], lambda s: _last(_total(s, spikes, start).to(torch.float32)), sums, (name,), f"{name}+")
                name, x = f"{name}+", sums
        largest = self.exact(node, int((rows * x.largest + abs(bias)).max()))
        make = _product if x.bytes and x.largest + x.zero <= CODES else _sums
        run, form = make(node, w, torch.from_numpy(bias.astype(np.float32)), x), Form(x.steps, largest)
        if "mult" in node.weights:  # sums that fit in codes
            if largest > min(-node.attrs["lo"], node.attrs["hi"]):
                raise Unsupported(WHO, f"{node.op} with clipped sums", node.origin, WAY_OUT)
            form = Form(x.steps, largest, x.bytes, largest * (x.zero > 0))
            self.add(node, (lambda s: run(s).add_(form.zero).to(torch.uint8)) if x.bytes else run, form, (name,))
        else:
            self.add(node, run, form, (name,))

    op_qlinear = op_qconv2d

    def _weights(self, node: Node) -> tuple[np.ndarray, str]:
        """The weights of a layer, and the tensor that it reads: a flattened image as it lies, channels last, by columns of the
        weights in that order."""
        w, source = np.asarray(self.graph.value(node, "weight")), self.graph[node.inputs[0]]
        if not self._in_place(source):
            return w, source.name
        _, c, height, width = self.graph[source.inputs[0]].spec.shape
        order = np.arange(w.shape[1]).reshape(c, height, width).transpose(1, 2, 0).reshape(-1)
        return w[:, order], source.inputs[0]

    def _in_place(self, node: Node) -> bool:
        """An image flattened for matrix products alone."""
        flat = node.op == "reshape" and len(node.spec.shape) == 2 and len(self.graph[node.inputs[0]].spec.shape) == 4
        return flat and all(n.op == "qlinear" for n in self.readers[node.name]) and node.name not in self.graph.outputs

    def op_reshape(self, node: Node) -> None:
        if not self._in_place(node):
            self.add(node, lambda x: _last(x.reshape(-1, *node.spec.shape[1:])), self.forms[node.inputs[0]])

    def op_integrate(self, node: Node) -> None:
        x, a, count = self.forms[node.inputs[0]], node.attrs, node.spec.shape[1]
        pool, rule, limit, steps = self.pools.get(node.name), a["rule"], int(a["limit"]), int(a["steps"])
        vectors = [self.channels(node, role, count) for role in ("theta", "v0")]
        reach = steps * x.largest + sum(int(abs(v).max()) for v in vectors)
        if reach >= 2**31:
            raise Unsupported(WHO, node.op, node.origin, f"Its potentials can reach {reach}, beyond 32 bits. {WAY_OUT}")
        repeated = [_repeated(v) for v in vectors]
        window = tuple(pool.attrs["stride"]) if pool is not None else ()
        largest = (limit if rule == "burst" else 1) * math.prod(window)
        zero = largest if rule in ("bipolar", "memory") else 0
        held = self.int8 and largest + zero <= CODES
        form = Form(steps, largest, held, zero if held else 0)
        how = (steps, x.steps, int(not held), form.zero, RULES.index(rule), limit)
        call = self.library["nw_simulate_pooled" if window else "nw_simulate"]

        def run(current: Tensor) -> Tensor:
            current, n = _last(current), len(current) // x.steps
            shape = (count, *(m // k for m, k in zip(current.shape[2:], window or (1, 1), strict=False)))
            y = torch.empty((steps * n, *shape), dtype=torch.uint8 if held else torch.float32,
                            memory_format=LAST if len(shape) == 3 else torch.contiguous_format)  # fmt: skip
            sizes = (n, *current.shape[2:], count, *window) if window else (current[:n].numel(), count)
            pointers = (ctypes.c_void_p(t.data_ptr()) for t in (current, *repeated, y))
            call(*pointers, ctypes.c_long(sizes[0]), *map(ctypes.c_int, (*sizes[1:], *how)))
            return y

        self.add(pool or node, run, form, node.inputs)

    def op_iadd(self, node: Node) -> None:
        a, b = (self.forms[i] for i in node.inputs)
        form = Form(max(a.steps, b.steps), self.exact(node, a.largest + b.largest))

        def run(x: Tensor, y: Tensor) -> Tensor:
            return _last((_time(a.floats(x), a.steps) + _time(b.floats(y), b.steps)).flatten(0, 1))

        self.add(node, run, form)

    def op_accumulate(self, node: Node) -> None:
        x = self.forms[node.inputs[0]]
        form = Form(x.steps, self.exact(node, x.largest * x.steps))
        self.add(node, lambda s: _last(_time(x.floats(s), x.steps).cumsum(0).flatten(0, 1)), form)

    def op_difference(self, node: Node) -> None:
        x, steps = self.forms[node.inputs[0]], int(node.attrs["steps"])

        def run(s: Tensor) -> Tensor:
            time = _time(x.floats(s), x.steps)
            time = time if x.steps == steps else time.expand(steps, *time.shape[1:])
            return _last(torch.cat([time[:1], time[1:] - time[:-1]]).flatten(0, 1))

        self.add(node, run, Form(steps, self.exact(node, 2 * x.largest)))

    def op_isum(self, node: Node) -> None:
        x = self.forms[node.inputs[0]]
        area = math.prod(self.graph[node.inputs[0]].spec.shape[2:])
        form = Form(x.steps, self.exact(node, x.largest * area))
        self.add(node, lambda s: s.sum((2, 3), keepdim=True, dtype=torch.float32) - area * x.zero, form)

    def op_slice(self, node: Node) -> None:
        self.add(node, lambda x: _last(RUN["slice"](node, {}, x)), self.forms[node.inputs[0]])

    def op_take(self, node: Node) -> None:
        index = torch.from_numpy(np.array(self.graph.value(node, "index"), np.int64))
        self.add(node, lambda x: _last(x.index_select(node.attrs["dim"], index)), self.forms[node.inputs[0]])

    def op_cat(self, node: Node) -> None:
        forms = [self.forms[i] for i in node.inputs]
        held = all(f.bytes for f in forms)
        form = Form(forms[0].steps, max(f.largest for f in forms), held, max(f.zero for f in forms) if held else 0)

        def run(*xs: Tensor) -> Tensor:
            parts = [x + (form.zero - f.zero) if held else f.floats(x) for x, f in zip(xs, forms, strict=True)]
            return _last(torch.cat(parts, node.attrs["dim"]))

        self.add(node, run, form)

    def op_max_pool2d(self, node: Node) -> None:
        form = self.forms[node.inputs[0]]
        self.add(node, lambda x: _last(RUN["max_pool2d"](node, {}, x)), form)  # `zero` shifts all alike

    def op_readout(self, node: Node) -> None:
        x, start = self.forms[node.inputs[0]], int(node.attrs["start"])
        v0 = self.channels(node, "v0", node.spec.shape[1]).astype(np.float64)
        initial = torch.from_numpy(v0).reshape(-1, *[1] * (len(node.spec.shape) - 2))
        start = 0 if x.steps == 1 else start  # the head has read a sum
        self.add(node, lambda y: _total(y, x, start) + initial, Form(1, x.largest * x.steps + int(abs(v0).max())))

    def op_dequantize(self, node: Node) -> None:
        scale = torch.from_numpy(np.array(self.graph.value(node, "scale")))
        scale = scale.reshape(-1, *[1] * (len(node.spec.shape) - 2))
        self.add(node, lambda x: x.to(torch.float32) * scale, self.forms[node.inputs[0]])


def _repeated(v: np.ndarray) -> Tensor:
    """A number a channel, over and over: a part of the neurons may start at any channel."""
    return torch.from_numpy(np.tile(v.astype(np.int32), 1 + -(-PART // len(v))))


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qconv2d_pointwise")


def _flat(x: Tensor) -> Tensor:
    """Channels last: [N, C, H, W] -> [N, H*W*C]."""
    return x.permute(0, 2, 3, 1).flatten(1) if x.dim() == 4 else x


def _padded(x: Tensor, pads: list[int], value: int) -> Tensor:
    top, left, bottom, right = pads
    return _last(F.pad(x, (left, right, top, bottom), value=value))


def _sums(node: Node, w: np.ndarray, bias: Tensor, x: Form) -> Run:
    """A weighted layer in float32."""
    weight, a = torch.from_numpy(w.astype(np.float32)), node.attrs
    if w.ndim == 2:
        if _has_onednn():  # twice as fast as MKL's on processors that are not Intel's
            return lambda s: torch.ops.mkldnn._linear_pointwise(_flat(x.floats(s)), weight, bias, "none", [], "")
        return lambda s: F.linear(_flat(x.floats(s)), weight, bias)
    top, left, bottom, right = a["pads"]
    if a["groups"] == len(w) and w[0].size == 1 and a["stride"] == [1, 1] and not any(a["pads"]):  # a shortcut
        return lambda s: torch.addcmul(bias.reshape(-1, 1, 1), x.floats(s), weight.reshape(-1, 1, 1))
    weight = weight.contiguous(memory_format=LAST)
    how = (a["stride"], (top, left), a["dilation"], a["groups"])
    if (top, left) == (bottom, right):
        return lambda s: F.conv2d(x.floats(s), weight, bias, *how)
    return lambda s: F.conv2d(_padded(x.floats(s), a["pads"], 0), weight, bias, a["stride"], 0, *how[2:])


def _product(node: Node, w: np.ndarray, bias: Tensor, x: Form) -> Run:
    """A weighted layer on bytes, with float32 sums."""
    op, weight, a = torch.ops.onednn, torch.from_numpy(np.ascontiguousarray(w)), node.attrs
    ones, zeros = torch.ones(len(w)), torch.zeros(len(w), dtype=torch.int32)
    end: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")
    if w.ndim == 2:
        packed = op.qlinear_prepack(weight, None)
        return lambda s: op.qlinear_pointwise(_flat(s), 1.0, x.zero, packed, ones, zeros, bias, *end)
    if a["groups"] == len(w) and w[0].size == 1:
        return _sums(node, w, bias, x)
    top, left, bottom, right = a["pads"]
    even = (top, left) == (bottom, right)
    how = (a["stride"], [top, left] if even else [0, 0], a["dilation"], a["groups"])
    packed = op.qconv_prepack(weight, ones, 1.0, x.zero, *how, None)

    def run(s: Tensor) -> Tensor:
        s = s if even else _padded(s, a["pads"], x.zero)
        out: Tensor = op.qconv2d_pointwise(s, 1.0, x.zero, packed, ones, zeros, bias, *how, *end)
        return out

    return run


class Simulator:
    """A spiking network that runs on batches; `mode` is "int8" or "float". Inference on the CPU, no gradients.

    The neurons run in one thread, the products in PyTorch's.
    """

    def __init__(self, graph: Graph, mode: Literal["int8", "float"]):
        self.graph, self.mode = graph, mode
        self.readout = _readout(graph)
        self._fast = self._plan(True, True)

    def _plan(self, fused: bool, summed: bool) -> _Plan:
        return _Plan(self.graph, self.mode == "int8", fused, summed)

    @cached_property
    def _steps(self) -> _Plan:
        return self._plan(True, False)

    @cached_property
    def _layers(self) -> _Plan:
        return self._plan(False, False)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits [N, K] of images x [N, C, H, W].

        Raises:
            NetwrightError: x has another shape.
        """
        return torch.cat([self._run(self._fast, part, self.graph.outputs[0]) for part in self._parts(self._fast, x)])

    def over_time(self, x: Tensor) -> Tensor:
        """What the output receives in each step, whole numbers: int32 [T, N, K] (of an image: [T, N, K, H, W])."""
        name = self.readout.inputs[0]
        parts = [self._run(self._steps, part, name) for part in self._parts(self._steps, x)]
        return torch.cat([_time(p, self.readout.attrs["steps"]) for p in parts], 1).to(torch.int32)

    def rates(self, x: Tensor) -> dict[str, float]:
        """Share of the neurons that fire in a step, for each layer of neurons."""
        fired: dict[str, int] = {n.name: 0 for n in self.graph if n.op == "integrate"}

        def visit(name: str, out: Tensor) -> None:
            if name in fired:
                fired[name] += int(torch.count_nonzero(self._layers.forms[name].floats(out)))

        for part in self._parts(self._layers, x):
            self._run(self._layers, part, self.graph.outputs[0], visit)
        neurons = {name: self.graph[name].spec.elements * self.graph[name].attrs["steps"] for name in fired}
        return {name: n / (len(x) * neurons[name]) for name, n in fired.items()}

    def _parts(self, plan: _Plan, x: Tensor) -> Iterator[Tensor]:
        shape = self.graph[self.graph.inputs[0]].spec.shape
        if x.shape[1:] != shape[1:] or not len(x):
            wanted, found = ("x".join(map(str, s)) for s in (("N", *shape[1:]), x.shape))
            raise NetwrightError(f"The network takes images {wanted} and was given {found}. Give at least one, as in training.")
        size = max(step.size for step in plan.steps)
        return iter(x.to(torch.float32).split(max(1, BYTES // size)))

    def _run(self, plan: _Plan, x: Tensor, output: str, visit: Callable[[str, Tensor], None] | None = None) -> Tensor:
        values: dict[str, Tensor] = {self.graph.inputs[0]: x}
        last = {name: i for i, step in enumerate(plan.steps) for name in step.inputs}
        with torch.no_grad():
            for i, step in enumerate(plan.steps):
                values[step.name] = step.run(*(values[name] for name in step.inputs))
                if visit is not None:
                    visit(step.name, values[step.name])
                if step.name == output:
                    break
                for name in step.inputs:
                    if last[name] == i:
                        values.pop(name, None)
        return values[output]


def _readout(graph: Graph) -> Node:
    node = graph[graph.outputs[0]]
    while node.op != "readout":
        if not node.inputs:
            raise NetwrightError("The graph has no readout over time steps: it is not a spiking network. Convert it first.")
        node = graph[node.inputs[0]]
    return node


def simulate(graph: Graph, mode: Mode = "auto") -> Simulator:
    """A fast form of a spiking network.

    Args:
        graph: what `netwright.spike.convert` makes (`made.module.graph`): codes, weighted sums, neurons over T steps, a readout.
        mode: see above.

    Raises:
        Unsupported: another operation, or sums that float32 does not hold.
        CompilerError: no C compiler.
        NetwrightError: not a spiking network, or no such mode.
    """
    _readout(graph)
    known: dict[Any, Literal["int8", "float"]] = {"int8": "int8", "float": "float"}
    known["auto"] = "int8" if "vnni" in _processor() or "amx_int8" in _processor() else "float"
    if mode not in known:
        raise NetwrightError(f"There is no mode {mode!r}; there are auto, int8 and float.")
    if known[mode] == "int8" and not _has_onednn():
        if mode == "int8":
            raise NetwrightError("This PyTorch multiplies no bytes (it has no oneDNN). Use mode='float'.")
        return Simulator(graph, "float")
    return Simulator(graph, known[mode])
