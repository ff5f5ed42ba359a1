"""Run a Graph as an `nn.Module`: the reference meaning of every operation.

`GraphModule` holds the graph's parameters, so it can be trained, exported and traced like any other module. A node may
be carried out by a layer of the caller's (`layers`), which is how quantisation-aware training replaces a convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.core.errors import Unsupported
from netwright.core.graph import Graph, Node
from netwright.design import ops as ops
from netwright.design.reference import recurrent

nw = torch.ops.netwright
UNARY = ("abs", "sqrt", "rsqrt", "exp", "log", "sin", "cos", "erf")
Weights = Mapping[str, Tensor]


def _pads(x: Tensor, pads: list[int], value: float = 0.0) -> Tensor:
    top, left, bottom, right = pads
    return F.pad(x, (left, right, top, bottom), value=value) if any(pads) else x


def _conv2d(n: Node, w: Weights, x: Tensor) -> Tensor:
    a = n.attrs
    top, left, bottom, right = a["pads"]
    if (top, left) == (bottom, right):  # the fast path: no copy of x
        return F.conv2d(x, w["weight"], w.get("bias"), a["stride"], (top, left), a["dilation"], a["groups"])
    return F.conv2d(_pads(x, a["pads"]), w["weight"], w.get("bias"), a["stride"], 0, a["dilation"], a["groups"])


def _conv_transpose2d(n: Node, w: Weights, x: Tensor) -> Tensor:
    a = n.attrs
    return F.conv_transpose2d(
        x, w["weight"], w.get("bias"), a["stride"], a["padding"], a["output_padding"], a["groups"], a["dilation"]
    )


def _binary(function: Callable[[Any, Any], Tensor]) -> Callable[..., Tensor]:
    """Two inputs, or one and the attribute `scalar` or the weight `other`; `reverse` puts the input second."""

    def run(n: Node, w: Weights, *xs: Tensor) -> Tensor:
        if len(xs) == 2:
            return function(*xs)
        other = w["other"] if "other" in w else n.attrs["scalar"]
        return function(other, xs[0]) if n.attrs.get("reverse") else function(xs[0], other)

    return run


def _qconv(op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(n: Node, w: Weights, x: Tensor) -> Tensor:
        a = n.attrs
        args = (w["weight"], w.get("bias"), w.get("mult"), w.get("shift"))
        return op(x, *args, a["stride"], a["pads"], a["dilation"], a["groups"], a["lo"], a["hi"], a["bits"])

    return run


def _qlinear(op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(n: Node, w: Weights, x: Tensor) -> Tensor:
        a = n.attrs
        return op(x, w["weight"], w.get("bias"), w.get("mult"), w.get("shift"), a["lo"], a["hi"], a["bits"])

    return run


def _qmatmul(op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(n: Node, w: Weights, a: Tensor, b: Tensor) -> Tensor:
        return op(a, b, n.attrs.get("mult"), n.attrs.get("shift"), n.attrs["lo"], n.attrs["hi"])

    return run


def _slice(n: Node, w: Weights, x: Tensor) -> Tensor:
    a = n.attrs
    index = [slice(None)] * x.dim()
    index[a["dim"]] = slice(a["start"], a["end"], a.get("step", 1))
    return x[tuple(index)]


def _reshape(n: Node, w: Weights, x: Tensor) -> Tensor:
    if x.numel() == n.spec.elements:  # batch 1, or a constant, which has no batch
        return x.reshape(n.spec.shape)
    return x.reshape(-1, *n.spec.shape[1:])  # the batch is outermost, also where windows are counted as a batch


def _expand(n: Node, w: Weights, x: Tensor) -> Tensor:
    return x.expand([wide if size == 1 else -1 for size, wide in zip(x.shape, n.spec.shape, strict=True)])


def _cat(n: Node, w: Weights, *xs: Tensor) -> Tensor:
    """Constants, which have no batch, are repeated over it."""
    dim, batch = n.attrs["dim"], max(len(x) for x in xs)
    return torch.cat([x.expand(batch, *x.shape[1:]) if dim and len(x) == 1 else x for x in xs], dim)


def _sdpa(n: Node, w: Weights, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    mask = w.get("mask", mask)
    if mask is not None and mask.dim() == q.dim() and len(q) % len(mask) == 0:
        mask = mask.repeat(len(q) // len(mask), *[1] * (q.dim() - 1))  # one mask a window, the same in every example
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=n.attrs.get("causal", False), scale=n.attrs.get("scale"))


def _reduction(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda n, w, x: function(x, n.attrs["dims"], n.attrs["keepdim"])


def _scalar(function: Callable[[Any, Any], Tensor]) -> Callable[..., Tensor]:
    """As `_binary`, for functions that take tensors alone."""
    return _binary(lambda a, b: function(*(torch.as_tensor(v, dtype=torch.float32) for v in (a, b))))


def _channelwise(p: Tensor, x: Tensor) -> Tensor:
    return p.reshape(-1, *[1] * (x.dim() - 2))


def _max_pool(n: Node, w: Weights, x: Tensor) -> Tensor:
    a = n.attrs
    exact = x.double() if x.dtype == torch.int32 else x.float()  # sums may pass 2^24, codes do not
    return F.max_pool2d(exact, a["kernel"], a["stride"], a["padding"], 1, a.get("ceil", False)).to(x.dtype)


def _avg_pool(n: Node, w: Weights, x: Tensor) -> Tensor:
    a = n.attrs
    return F.avg_pool2d(x, a["kernel"], a["stride"], a["padding"], a.get("ceil", False), a.get("count_include_pad", True))


def _topk(n: Node, w: Weights, x: Tensor) -> Tensor:
    """Places of the k largest (smallest) elements, equal ones in the order they stand."""
    dim, k = n.attrs["dim"], n.attrs["k"]
    return torch.sort(x, dim=dim, descending=n.attrs["largest"], stable=True).indices.narrow(dim, 0, k).to(torch.float32)


RUN: dict[str, Callable[..., Tensor]] = {
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "linear": lambda n, w, x: F.linear(x, w["weight"], w.get("bias")),
    "matmul": _binary(torch.matmul),
    "layer_norm": lambda n, w, x: F.layer_norm(x, n.attrs["shape"], w.get("weight"), w.get("bias"), n.attrs["eps"]),
    "group_norm": lambda n, w, x: F.group_norm(x, n.attrs["groups"], w.get("weight"), w.get("bias"), n.attrs["eps"]),
    "affine": lambda n, w, x: x * _channelwise(w["scale"], x) + _channelwise(w["bias"], x),
    "relu": lambda n, w, x: F.relu(x),
    "relu6": lambda n, w, x: F.relu6(x),
    "hardtanh": lambda n, w, x: F.hardtanh(x, n.attrs["min"], n.attrs["max"]),
    "gelu": lambda n, w, x: F.gelu(x, approximate=n.attrs.get("approximate", "none")),
    "silu": lambda n, w, x: F.silu(x),
    "hardswish": lambda n, w, x: F.hardswish(x),
    "hardsigmoid": lambda n, w, x: F.hardsigmoid(x),
    "sigmoid": lambda n, w, x: torch.sigmoid(x),
    "tanh": lambda n, w, x: torch.tanh(x),
    "leaky_relu": lambda n, w, x: F.leaky_relu(x, n.attrs["slope"]),
    "elu": lambda n, w, x: F.elu(x, n.attrs.get("alpha", 1.0)),
    "add": _binary(torch.add),
    "sub": _binary(torch.sub),
    "mul": _binary(torch.mul),
    "div": _binary(torch.div),
    "maximum": _scalar(torch.maximum),
    "minimum": _scalar(torch.minimum),
    "pow": lambda n, w, x: x ** n.attrs["scalar"],
    **{op: _binary(getattr(torch, op)) for op in ("gt", "ge", "lt", "le", "eq", "ne")},
    **{op: (lambda f: lambda n, w, x: f(x))(getattr(torch, op)) for op in UNARY},
    "softplus": lambda n, w, x: F.softplus(x, n.attrs.get("beta", 1.0), n.attrs.get("threshold", 20.0)),
    "mish": lambda n, w, x: F.mish(x),
    "prelu": lambda n, w, x: F.prelu(x, w["weight"]),
    "where": lambda n, w, c, x, y: torch.where(c, x, y),
    "sum": _reduction(torch.sum),
    "amax": _reduction(torch.amax),
    "amin": _reduction(torch.amin),
    "take": lambda n, w, x: x.index_select(n.attrs["dim"], w["index"]),
    "expand": _expand,
    "topk": _topk,
    "gather": lambda n, w, x, index: x.gather(n.attrs["dim"], index.long()),
    "adaptive_avg_pool2d": lambda n, w, x: F.adaptive_avg_pool2d(x, n.attrs["size"]),
    **dict.fromkeys(("lstm", "gru", "rnn"), recurrent),
    "max_pool2d": _max_pool,
    "avg_pool2d": _avg_pool,
    "mean": lambda n, w, x: x.mean(n.attrs["dims"], keepdim=n.attrs["keepdim"]),
    "reshape": _reshape,
    "permute": lambda n, w, x: x.permute(n.attrs["dims"]),
    "slice": _slice,
    "cat": _cat,
    "softmax": lambda n, w, x: torch.softmax(x, n.attrs["dim"]),
    "interpolate": lambda n, w, x: F.interpolate(
        x,
        n.attrs["size"],
        mode=n.attrs["mode"],
        **({} if n.attrs["mode"] == "nearest" else {"align_corners": n.attrs["align_corners"]}),
    ),
    "pad": lambda n, w, x: F.pad(x, n.attrs["pad"], value=n.attrs.get("value", 0.0)),
    "sdpa": _sdpa,
    "constant": lambda n, w: w["value"],
    "quantize": lambda n, w, x: nw.quantize(x, n.attrs["scale"], n.attrs["lo"], n.attrs["hi"]),
    "dequantize": lambda n, w, x: nw.dequantize(x, w["scale"]),
    "qconv2d": _qconv(nw.qconv2d),
    "bconv2d": _qconv(nw.bconv2d),
    "qlinear": _qlinear(nw.qlinear),
    "blinear": _qlinear(nw.blinear),
    "qmatmul": _qmatmul(nw.qmatmul),
    "bmatmul": _qmatmul(nw.bmatmul),
    "qadd": lambda n, w, a, b: nw.qadd(a, b, *(n.attrs[k] for k in ("ma", "mb", "shift", "lo", "hi"))),
    "qmul": lambda n, w, a, b: nw.qmul(a, b, *(n.attrs[k] for k in ("mult", "shift", "lo", "hi"))),
    "requantize": lambda n, w, x: nw.requantize(x, w["mult"], w["bias"], *(n.attrs[k] for k in ("shift", "lo", "hi"))),
    "qprelu": lambda n, w, x: nw.qprelu(
        x, *(w[k] for k in ("gate", "mult", "bias", "below_mult", "below_bias")), *(n.attrs[k] for k in ("shift", "lo", "hi"))
    ),
    "lut": lambda n, w, x: nw.lut(x, w["table"], n.attrs["lo"], n.attrs["hi"]),
    "qmean": lambda n, w, x: nw.qmean(x, *(n.attrs[k] for k in ("mult", "shift", "lo", "hi"))),
    "iadd": lambda n, w, a, b: nw.iadd(a, b, n.attrs["a_steps"], n.attrs["b_steps"]),
    "isum": lambda n, w, x: nw.isum(x),
    "integrate": lambda n, w, x: nw.integrate(
        x, w["theta"], w["v0"], n.attrs["steps"], n.attrs["current_steps"], n.attrs["rule"], n.attrs["limit"]
    ),
    "accumulate": lambda n, w, x: nw.accumulate(x, n.attrs["steps"]),
    "difference": lambda n, w, x: nw.difference(x, n.attrs["steps"], n.attrs["current_steps"]),
    "readout": lambda n, w, x: nw.readout(x, n.attrs["steps"], n.attrs["start"], w.get("v0")),
}


class GraphModule(nn.Module):
    """A Graph as a module: x [N, ...] -> output of the graph, a tuple where it has several.

    Floating-point parameters are trainable `nn.Parameter`s, integer ones and batch statistics are buffers. In training
    mode `batch_norm` nodes use and update batch statistics (momentum 0.1), as `nn.BatchNorm2d` does.

    Args:
        graph: must carry its values.
        layers: node name -> module that carries the node out in place of the reference; it is called with the node's
            inputs and owns its own parameters.
    """

    def __init__(self, graph: Graph, layers: Mapping[str, nn.Module] | None = None):
        super().__init__()
        self.graph = graph
        self.layers = nn.ModuleDict({name.replace(".", "/"): layer for name, layer in (layers or {}).items()})
        frozen = {n.weights[r] for n in graph if n.op == "batch_norm" for r in ("mean", "var")}
        frozen |= {key for n in graph if n.op in ("constant", "dequantize") for key in n.weights.values()}
        owned = {key for n in graph if self._layer(n.name) is None for key in n.weights.values()}
        for key in sorted(owned):
            if key not in graph.values:
                raise Unsupported("GraphModule", key, "a graph without values", "Trace the module with its weights.")
            value = torch.from_numpy(np.array(graph.values[key]))
            name = self._key(key)
            if value.is_floating_point() and key not in frozen:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    @staticmethod
    def _key(key: str) -> str:
        return "w_" + key.replace(".", "/")

    def _layer(self, name: str) -> nn.Module | None:
        key = name.replace(".", "/")
        return self.layers[key] if key in self.layers else None

    def weights(self, node: Node) -> dict[str, Tensor]:
        """The parameters of a node by role, live (training updates them)."""
        return {role: getattr(self, self._key(key)) for role, key in node.weights.items()}

    def run(self, node: Node, *inputs: Tensor) -> Tensor:
        """Carry out one node."""
        if (layer := self._layer(node.name)) is not None:
            return layer(*inputs)
        w = self.weights(node)
        if node.op == "batch_norm":
            stats = (w["mean"], w["var"], w.get("weight"), w.get("bias"))
            return F.batch_norm(inputs[0], *stats, self.training, 0.1, node.attrs["eps"])
        if node.op not in RUN:
            raise Unsupported("GraphModule", node.op, node.path, "Use the original module instead.")
        return RUN[node.op](node, w, *inputs)

    def forward(self, *inputs: Tensor, visit: Callable[[Node, Tensor], Tensor | None] | None = None) -> Any:
        """Run all nodes. `visit(node, output)` sees every output as it is made and may return another in its place."""
        values: dict[str, Tensor] = {}
        waiting = {name: len(readers) for name, readers in self.graph.consumers().items()}
        for name in self.graph.outputs:
            waiting[name] += 1
        given = iter(inputs)
        for node in self.graph:
            out = next(given) if node.op == "input" else self.run(node, *(values[i] for i in node.inputs))
            if visit is not None and (changed := visit(node, out)) is not None:
                out = changed
            values[node.name] = out
            for source in node.inputs:
                waiting[source] -= 1
                if not waiting[source]:
                    del values[source]
        results = tuple(values[name] for name in self.graph.outputs)
        return results if len(results) > 1 else results[0]

    def to_graph(self) -> Graph:
        """The graph with the present values of the parameters (layers that replace nodes keep their own)."""
        live = {k: getattr(self, self._key(k)).detach().cpu().numpy() for k in self.graph.params if hasattr(self, self._key(k))}
        return self.graph.replace(self.graph.nodes, values={**self.graph.values, **live})
