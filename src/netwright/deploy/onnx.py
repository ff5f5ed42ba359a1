"""ONNX: float and int8 graphs for ONNX Runtime and every other engine that reads the format.

The file is written from our own Graph, operation by operation, with a dynamic batch. A float graph becomes float
operators. An int8 graph becomes QDQ: codes travel as uint8 tensors of scale 1 (signed codes with zero point 128, because
ONNX Runtime fuses a layer only if it reads and writes the same type), and a rescaling ``code = acc * mult / 2**shift``
becomes the per-channel scale of the weights,

    DequantizeLinear(x, 1), DequantizeLinear(W, m), DequantizeLinear(bias, m) -> Conv -> QuantizeLinear(., 1),

with ``m[o] = mult[o] / 2**shift[o]``, the pattern that ONNX Runtime fuses into one integer convolution. Its rounding is in
float32 with ties to even and its signed codes saturate at -128, ours is in 64-bit integers with ties upwards and stops at
-127: a code may differ by one, so int8 results agree in prediction, not bit for bit. `OrtModel` asks for exact sums, which
ONNX Runtime does not keep by default on x86 processors without VNNI (pairs of products saturate in 16 bits there).

Spiking and binary graphs are refused: ONNX has neither their operators nor their bit widths, and a copy in 8 bits or float
would claim a form that it is not. So are ternary ones, unless the caller says how: in 8 bits, or linear layers in two
(onnx_ternary.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from netwright.core.errors import NetwrightError, Unsupported
from netwright.core.graph import Graph, Node
from netwright.deploy.onnx_float import FLOAT_OPERATORS, FloatOperators
from netwright.deploy.onnx_ternary import ternary_sums

OPSET, IR_VERSION = 20, 9
SIGNED = 128  # zero point of signed codes
FEW_ROWS = 8  # from here on a product of bytes is faster than one of two bits
Ternary = Literal["refuse", "int8", "nbits", "auto"]
_KEEP = "Deploy this form as C (c99)."
_OVER_TIME = ("integrate", "iadd", "isum", "accumulate", "difference", "readout")
_REFUSED = {
    **dict.fromkeys(_OVER_TIME, f"ONNX has no neurons that keep a state over time steps. {_KEEP}"),
    **dict.fromkeys(("bconv2d", "blinear"), f"ONNX has no binary layers; in float they would save nothing. {_KEEP}"),
}


class Writer(FloatOperators):
    """Collects ONNX nodes and initialisers; one method for each of the `operations`."""

    operations = FLOAT_OPERATORS | frozenset(
        "conv2d linear batch_norm layer_norm affine silu hardtanh relu6 max_pool2d avg_pool2d mean constant "
        "quantize qconv2d qlinear dequantize qadd qmul requantize qprelu lut qmean".split()
    )

    def __init__(self, graph: Graph, ternary: Ternary = "refuse"):
        self.graph, self.ternary = graph, ternary
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: dict[str, onnx.TensorProto] = {}
        self.specs = {n.name: n.spec for n in graph}
        self.axis = dict.fromkeys(graph.inputs, 0)
        self.batch: str | int = "batch"
        self.sums: set[str] = set()  # tensors that hold 32-bit sums, carried in float

    # --- pieces ---------------------------------------------------------------------------------------------------
    def const(self, value: Any, dtype: Any = np.float32, name: str = "") -> str:
        array = np.array(value, dtype=dtype, order="C")
        name = name or f"const_{len(self.initialisers)}"
        self.initialisers.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def emit(self, op: str, inputs: Sequence[str], out: str = "", outputs: Sequence[str] = ("",), **attrs: Any) -> str:
        """Append a node and return the name of its first output; `outputs` are endings of that name, one an output."""
        out = out or f"t_{len(self.nodes)}"
        names = [out + ending for ending in outputs]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"{op}_{len(self.nodes)}", **attrs))
        return out

    def weight(self, node: Node, role: str) -> str:
        value = self.value(node, role)
        dtype = np.int64 if role == "index" else value.dtype if value.dtype == bool else np.float32
        return self.const(value, dtype, node.weights[role])

    def value(self, node: Node, role: str) -> np.ndarray:
        if node.weights[role] not in self.graph.values:
            raise NetwrightError(f"ONNX needs the values of {node.weights[role]!r}; this graph was read without its weights.")
        return self.graph.value(node, role)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.specs[name].shape

    def refuse(self, node: Node, why: str) -> Unsupported:
        return Unsupported("ONNX", node.op, node.origin, why)

    def zero(self, name: str) -> str:
        """The zero point of a tensor of codes: 128 where they are signed."""
        return self.const(0 if self.specs[name].kind == "uint" else SIGNED, np.uint8)

    def dequantise(self, x: str, scale: float = 1.0) -> str:
        """Codes of the tensor `x` to real values."""
        return self.emit("DequantizeLinear", [x, self.const(scale), self.zero(x)])

    def quantise(self, x: str, node: Node, scale: float = 1.0, out: str | None = None) -> str:
        """Real values to the codes of `node`, clamped to lo..hi, under the node's name or that of `out` ("": a new one)."""
        lo, hi = node.attrs["lo"], node.attrs["hi"]
        type_lo, type_hi = (0, 255) if node.spec.kind == "uint" else (-127, 127)
        if lo > type_lo or hi < type_hi:
            low, high = (self.const(np.float32(v) * np.float32(scale)) for v in (lo, hi))
            x = self.emit("Clip", [x, low, high])
        return self.emit("QuantizeLinear", [x, self.const(scale), self.zero(node.name)], node.name if out is None else out)

    # --- float ----------------------------------------------------------------------------------------------------
    def conv2d(self, n: Node, x: str) -> None:
        self._conv(n, [x, *(self.weight(n, r) for r in ("weight", "bias") if r in n.weights)], n.name)

    def _conv(self, n: Node, inputs: list[str], out: str = "") -> str:
        a = n.attrs
        kernel = self.graph.params[n.weights["weight"]].shape[2:]
        attrs = {"strides": a["stride"], "pads": a["pads"], "dilations": a["dilation"], "group": a["groups"]}
        return self.emit("Conv", inputs, out, kernel_shape=list(kernel), **attrs)

    def linear(self, n: Node, x: str) -> None:
        weights = [self.weight(n, r) for r in ("weight", "bias") if r in n.weights]
        if len(self.shape(x)) == 2:
            self.emit("Gemm", [x, *weights], n.name, transB=1)
            return
        transposed = self.const(self.value(n, "weight").T, name=f"{n.weights['weight']}.T")
        product = self.emit("MatMul", [x, transposed], n.name if len(weights) == 1 else "")
        if len(weights) == 2:
            self.emit("Add", [product, weights[1]], n.name)

    def batch_norm(self, n: Node, x: str) -> None:
        mean = self.value(n, "mean")
        scale = self.weight(n, "weight") if "weight" in n.weights else self.const(np.ones_like(mean))
        bias = self.weight(n, "bias") if "bias" in n.weights else self.const(np.zeros_like(mean))
        stats = [scale, bias, self.weight(n, "mean"), self.weight(n, "var")]
        self.emit("BatchNormalization", [x, *stats], n.name, epsilon=n.attrs["eps"])

    def layer_norm(self, n: Node, x: str) -> None:
        shape = n.attrs["shape"]
        scale = self.weight(n, "weight") if "weight" in n.weights else self.const(np.ones(shape))
        bias = [self.weight(n, "bias")] if "bias" in n.weights else []
        self.emit("LayerNormalization", [x, scale, *bias], n.name, axis=-len(shape), epsilon=n.attrs["eps"])

    def affine(self, n: Node, x: str) -> None:
        rank = len(self.shape(x))
        scaled = self.emit("Mul", [x, self.channelwise(self.value(n, "scale"), rank)])
        self.emit("Add", [scaled, self.channelwise(self.value(n, "bias"), rank)], n.name)

    def is_truth(self, name: str) -> bool:
        return self.specs[name].bits == 1

    def operands(self, n: Node, xs: Sequence[str]) -> list[str]:
        xs = [self.emit("Cast", [x], to=TensorProto.FLOAT) if self.is_truth(x) else x for x in xs]
        if len(xs) == 2:
            return xs
        other = self.weight(n, "other") if "other" in n.weights else self.const(n.attrs["scalar"])
        return [other, xs[0]] if n.attrs.get("reverse") else [xs[0], other]

    def _arithmetic(self, op: str, n: Node, *xs: str) -> None:
        self.emit(op, self.operands(n, xs), n.name)

    def silu(self, n: Node, x: str) -> None:
        self.emit("Mul", [x, self.emit("Sigmoid", [x])], n.name)

    def hardtanh(self, n: Node, x: str) -> None:
        low, high = (0.0, 6.0) if n.op == "relu6" else (n.attrs["min"], n.attrs["max"])
        self.emit("Clip", [x, self.const(low), self.const(high)], n.name)

    relu6 = hardtanh

    def _pool(self, op: str, n: Node, x: str, **attrs: Any) -> None:
        """A last window that sticks out (ceil) is written as padding at the end."""
        a, sizes, outs = n.attrs, self.shape(x)[2:], n.spec.shape[2:]
        needed = [
            (o - 1) * s + k - i - p for o, s, k, i, p in zip(outs, a["stride"], a["kernel"], sizes, a["padding"], strict=True)
        ]
        pads = [*a["padding"], *(max(p, e) for p, e in zip(a["padding"], needed, strict=True))]
        self.emit(op, [x], n.name, kernel_shape=a["kernel"], strides=a["stride"], pads=pads, **attrs)

    def max_pool2d(self, n: Node, x: str) -> None:
        self._pool("MaxPool", n, x)

    def avg_pool2d(self, n: Node, x: str) -> None:
        counts_padding = bool(n.attrs.get("count_include_pad", True))
        if n.attrs.get("ceil") and counts_padding and any(n.attrs["padding"]):
            raise self.refuse(n, "Use count_include_pad=False or ceil_mode=False: engines disagree on the two together.")
        self._pool("AveragePool", n, x, count_include_pad=int(counts_padding and not n.attrs.get("ceil")))

    def mean(self, n: Node, x: str) -> None:
        if n.attrs["dims"] == [2, 3] and n.attrs["keepdim"] and len(self.shape(x)) == 4:
            self.emit("GlobalAveragePool", [x], n.name)
        else:
            self.emit("ReduceMean", [x, self.const(n.attrs["dims"], np.int64)], n.name, keepdims=int(n.attrs["keepdim"]))

    def constant(self, n: Node) -> None:
        self.emit("Identity", [self.weight(n, "value")], n.name)

    # --- int8 -----------------------------------------------------------------------------------------------------
    def quantize(self, n: Node, x: str) -> None:
        self.quantise(x, n, n.attrs["scale"])

    def _weighted(self, n: Node, x: str) -> None:
        bits = n.attrs["bits"]
        if bits != 8 and (bits != 2 or self.ternary == "refuse"):
            kind = {1: "binary", 2: "ternary"}.get(bits, f"{bits}-bit")
            raise self.refuse(n, f"Its weights are {kind}; ONNX would store them in 8 bits. {_KEEP}")
        unit = np.ones(len(self.value(n, "weight")))
        if "mult" in n.weights:
            unit = np.ldexp(self.value(n, "mult").astype(np.float64), -self.value(n, "shift").astype(np.int64))
        else:
            self.sums.add(n.name)
        few = self.ternary == "nbits" or (self.ternary == "auto" and math.prod(n.spec.shape[:-1]) < FEW_ROWS)
        if bits == 2 and n.op == "qlinear" and few:
            self._two_bits(n, x, unit)
        else:
            self._eight_bits(n, x, unit)

    def _two_bits(self, n: Node, x: str, unit: np.ndarray) -> None:
        plain = "mult" not in n.weights
        sums = ternary_sums(self, n, x, self.specs[x].kind != "uint", n.name if plain else "")
        if not plain:
            self.quantise(self.emit("Mul", [sums, self.const(unit)]), n)

    def _eight_bits(self, n: Node, x: str, unit: np.ndarray) -> None:
        weight, plain = self.value(n, "weight"), "mult" not in n.weights
        # a scale is positive in ONNX: a negative factor moves into the codes, a zero one empties them
        sign = np.sign(unit).astype(np.int8)
        scale = np.where(unit == 0, 1.0, np.abs(unit)).astype(np.float32)
        signed = (weight * sign.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8)
        tokens = n.op == "qlinear" and len(n.spec.shape) > 2  # ONNX Runtime fuses Gemm, which takes rows
        rows = self.emit("Reshape", [x, self.const([-1, weight.shape[1]], np.int64)]) if tokens else x
        inputs = [self.emit("DequantizeLinear", [rows, self.const(1.0), self.zero(x)])]
        inputs.append(self._channel_scaled(signed, scale, np.int8))
        if "bias" in n.weights:
            inputs.append(self._channel_scaled(self.value(n, "bias").astype(np.int32) * sign, scale, np.int32))
        out = n.name if plain and not tokens else ""
        y = self._conv(n, inputs, out) if n.op == "qconv2d" else self.emit("Gemm", inputs, out, transB=1)
        if not plain:
            y = self.quantise(y, n, out="" if tokens else None)
        if tokens:
            self.reshape(n, y)

    def _channel_scaled(self, codes: np.ndarray, scale: np.ndarray, dtype: Any) -> str:
        zero = self.const(np.zeros(len(scale)), dtype)
        return self.emit("DequantizeLinear", [self.const(codes, dtype), self.const(scale), zero], axis=0)

    qconv2d = qlinear = _weighted

    def dequantize(self, n: Node, x: str) -> None:
        real = x if x in self.sums else self.dequantise(x)
        self.emit("Mul", [real, self.coded(self.value(n, "scale"), len(self.shape(x)))], n.name)

    def coded(self, value: np.ndarray, rank: int) -> str:
        """A vector by channel of codes: axis 1 of images (rank 4), else the last."""
        return self.channelwise(value, 4 if rank == 4 else 2)

    def qadd(self, n: Node, a: str, b: str) -> None:
        """Negative factors turn the sum into a difference; both negative do not occur in a sum of two branches."""
        ma, mb = (math.ldexp(n.attrs[k], -n.attrs["shift"]) for k in ("ma", "mb"))
        if ma < 0:
            (a, ma), (b, mb) = (b, mb), (a, ma)
        if ma <= 0 or mb == 0:
            raise self.refuse(n, f"Its factors are {ma:g} and {mb:g}; at least one must be positive.")
        left, right = self.dequantise(a, ma), self.dequantise(b, abs(mb))
        self.quantise(self.emit("Add" if mb > 0 else "Sub", [left, right]), n)

    def qmul(self, n: Node, a: str, b: str) -> None:
        factor = math.ldexp(n.attrs["mult"], -n.attrs["shift"])
        if factor <= 0:
            raise self.refuse(n, f"Its factor is {factor:g}; it must be positive.")
        self.quantise(self.emit("Mul", [self.dequantise(a), self.dequantise(b, factor)]), n)

    def requantize(self, n: Node, x: str) -> None:
        rank = len(self.shape(x))
        mult, bias = (np.ldexp(self.value(n, r).astype(np.float64), -n.attrs["shift"]) for r in ("mult", "bias"))
        scaled = self.emit("Mul", [self.dequantise(x), self.coded(mult, rank)])
        self.quantise(self.emit("Add", [scaled, self.coded(bias, rank)]), n)

    def qprelu(self, n: Node, x: str) -> None:
        rank, value = len(self.shape(x)), self.dequantise(x)

        def line(mult: str, bias: str) -> str:
            m, b = (np.ldexp(self.value(n, r).astype(np.float64), -n.attrs["shift"]) for r in (mult, bias))
            return self.emit("Add", [self.emit("Mul", [value, self.coded(m, rank)]), self.coded(b, rank)])

        above = self.emit("GreaterOrEqual", [value, self.channelwise(self.value(n, "gate").astype(np.float32), rank)])
        lines = [line("mult", "bias"), line("below_mult", "below_bias")]
        self.quantise(self.emit("Where", [above, *lines]), n)

    def lut(self, n: Node, x: str) -> None:
        """A signed code c is stored as c + 128, which is its place in the table."""
        stored = self.value(n, "table") + (0 if n.spec.kind == "uint" else SIGNED)
        index = self.emit("Cast", [x], to=TensorProto.INT32)
        self.emit("Gather", [self.const(stored, np.uint8), index], n.name, axis=0)

    def qmean(self, n: Node, x: str) -> None:
        area = math.prod(self.shape(x)[2:])
        factor = math.ldexp(n.attrs["mult"], -n.attrs["shift"]) * area
        self.quantise(self.emit("GlobalAveragePool", [self.dequantise(x, factor)]), n)

    # --- all ------------------------------------------------------------------------------------------------------
    def write(self) -> onnx.ModelProto:
        for node in self.graph:
            if node.op == "input":
                continue
            if (method := _method(self, node)) is None:
                way_out = _REFUSED.get(
                    node.op, "Run this network in PyTorch, or replace the module by an equal one of known operations."
                )
                raise self.refuse(node, way_out)
            self.follow_batch(node)
            method(node, *node.inputs)
            if node.op == "reshape" and node.inputs[0] in self.sums:
                self.sums.add(node.name)
        return self.model()

    def model(self) -> onnx.ModelProto:
        def info(name: str) -> onnx.ValueInfoProto:
            shape = self.shape(name)
            return helper.make_tensor_value_info(
                name, TensorProto.FLOAT, [self.batch if shape[0] == 1 else None, *shape[1:]] if shape else []
            )

        inputs, outputs = ([info(name) for name in names] for names in (self.graph.inputs, self.graph.outputs))
        graph = helper.make_graph(self.nodes, "netwright", inputs, outputs, list(self.initialisers.values()))
        opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(d, 1) for d in {n.domain for n in self.nodes} if d)]
        return helper.make_model(graph, producer_name="netwright", ir_version=IR_VERSION, opset_imports=opsets)


_SIMPLE: dict[str, tuple[str, Callable[[Node], dict[str, Any]]]] = {
    **{
        op.lower(): (op, lambda n: {})
        for op in ("Relu", "Sigmoid", "Tanh", "HardSwish", "Abs", "Sqrt", "Exp", "Log", "Sin", "Cos", "Erf", "Mish")
    },
    "gelu": ("Gelu", lambda n: {"approximate": n.attrs.get("approximate", "none")}),
    "hardsigmoid": ("HardSigmoid", lambda n: {"alpha": 1 / 6, "beta": 0.5}),
    "leaky_relu": ("LeakyRelu", lambda n: {"alpha": n.attrs["slope"]}),
    "elu": ("Elu", lambda n: {"alpha": n.attrs.get("alpha", 1.0)}),
    "softmax": ("Softmax", lambda n: {"axis": n.attrs["dim"]}),
}
_ARITHMETIC = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "matmul": "MatMul", "maximum": "Max", "minimum": "Min"}


def _method(writer: Writer, node: Node) -> Callable[..., Any] | None:
    if node.op in _SIMPLE:
        op, attrs = _SIMPLE[node.op]
        return lambda n, x: writer.emit(op, [x], n.name, **attrs(n))
    if node.op in _ARITHMETIC:
        return lambda n, *xs: writer._arithmetic(_ARITHMETIC[n.op], n, *xs)
    return getattr(writer, node.op, None) if node.op in writer.operations else None


def to_onnx(graph: Graph, ternary: Ternary = "refuse") -> bytes:
    """A checked ONNX file (opset 20) of a float or int8 graph with values; first axis of inputs and outputs is ``batch``.

    Args:
        graph: the network.
        ternary: what becomes of layers with weights -1, 0, 1. ``refuse``: an error. ``int8``: they are stored in 8 bits.
            ``nbits``: linear ones become `MatMulNBits` of 2 bits, which ONNX Runtime alone reads, convolutions int8.
            ``auto``: linear ones that multiply fewer than 8 rows for an example become `MatMulNBits`, all else int8.

    Raises:
        Unsupported: a spiking or binary layer, a ternary one unless allowed, or an operation that ONNX cannot take with a
            dynamic batch.
        NetwrightError: the graph has no values, or `ternary` is none of these words.
    """
    if ternary not in get_args(Ternary):
        raise NetwrightError(f"ternary={ternary!r} is unknown; choose {', '.join(get_args(Ternary))}.")
    model = Writer(graph, ternary).write()
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _has_vnni() -> bool:
    """Whether the processor adds products of bytes in 32 bits."""
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


class OrtModel:
    """An ONNX file in ONNX Runtime on the processor: x float32 [N, ...] -> float32 [N, ...].

    Raises:
        NetwrightError: the file is missing or ONNX Runtime refuses it.
    """

    def __init__(self, model: bytes | str | Path, threads: int = 1):
        import onnxruntime

        if not isinstance(model, bytes) and not Path(model).is_file():
            raise NetwrightError(f"There is no ONNX file {model}.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        if not _has_vnni():  # its sums of two products would saturate at 16 bits; slower, and needed only there
            options.add_session_config_entry("session.x64quantprecision", "1")
        options.log_severity_level = 3
        source = model if isinstance(model, bytes) else str(model)
        try:
            self.session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise NetwrightError(f"ONNX Runtime {onnxruntime.__version__} cannot run this file: {reason}") from error
        self.threads = threads
        self.names = [i.name for i in self.session.get_inputs()]

    def run(self, *inputs: np.ndarray) -> Any:
        """The graph's output for one batch, a tuple where it has several; inputs are taken as float32."""
        feed = {name: np.ascontiguousarray(x, dtype=np.float32) for name, x in zip(self.names, inputs, strict=True)}
        found = self.session.run(None, feed)
        return tuple(found) if len(found) > 1 else found[0]
