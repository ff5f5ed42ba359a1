"""ATen operations that a Graph writes as several nodes, or as a node of another name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from netwright.design.aten import pair, spec_of
from netwright.design.moved import Moved

_COMPARE = ("gt", "ge", "lt", "le", "eq", "ne")
_UNARY = ("abs", "sqrt", "rsqrt", "exp", "log", "sin", "cos", "erf", "mish")


class Composed(Moved):
    """Products, arithmetic, reductions, norms and operations on one dimension."""

    # --- products -------------------------------------------------------------------------------------------------
    def product(self, node: Any, x: str, y: str) -> str:
        a, b = self.shape(x), self.shape(y)
        shape = (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])
        return self.part(node, "matmul", [x, y], shape, macs=math.prod(shape) * a[-1])

    def op_linear(self, node: Any, a: dict[str, Any]) -> None:
        if "weight" in self.roles(weight=a["weight"]):
            super().op_linear(node, a)
            return
        x, w = self.tensor(a["input"]), self.tensor(a["weight"])
        y = self.product(node, x, self.turned(node, w, (1, 0)))
        self.result(node, y if a["bias"] is None else self.part(node, "add", [y, self.tensor(a["bias"])], self.shape(y)))

    def op_addmm(self, node: Any, a: dict[str, Any]) -> None:
        """beta * self + alpha * left @ right"""
        left, right = (a["mat1"], a["mat2"]) if "mat1" in a else (a["batch1"], a["batch2"])
        y = self.scaled(node, self.product(node, self.tensor(left), self.tensor(right)), a["alpha"])
        if a["beta"]:
            y = self.part(node, "add", [y, self.scaled(node, self.tensor(a["self"]), a["beta"])], self.shape(y))
        self.result(node, y)

    op_baddbmm = op_addmm

    def op_einsum(self, node: Any, a: dict[str, Any]) -> None:
        """Of two tensors: one batched matrix product over shared, left, summed and right labels."""
        tensors, equation = [self.tensor(t) for t in a["tensors"]], a["equation"].replace(" ", "")
        terms, _, out = equation.partition("->")
        labels = terms.split(",")
        if "." in equation or not out or len(labels) != 2 or any(len(set(t)) < len(t) for t in labels):
            self.emit(node, "aten.einsum", tensors, {"equation": a["equation"]})
            return
        left, right = labels
        size = {k: n for t, x in zip(labels, tensors, strict=True) for k, n in zip(t, self.shape(x), strict=True)}
        shared, summed = ([k for k in left if k in right and (k in out) == kept] for kept in (True, False))
        rows, columns = [k for k in left if k not in right], [k for k in right if k not in left]
        if any(k not in out for k in rows + columns):
            self.emit(node, "aten.einsum", tensors, {"equation": a["equation"]})
            return

        def grouped(x: str, term: str, *groups: list[str]) -> str:
            x = self.turned(node, x, [term.index(k) for group in groups for k in group])
            return self.viewed(node, x, [math.prod(size[k] for k in group) for group in groups])

        y = self.product(
            node, grouped(tensors[0], left, shared, rows, summed), grouped(tensors[1], right, shared, summed, columns)
        )
        order = [*shared, *rows, *columns]
        y = self.viewed(node, y, [size[k] for k in order])
        self.result(node, self.turned(node, y, [order.index(k) for k in out]))

    # --- arithmetic -----------------------------------------------------------------------------------------------
    def op_addcmul(self, node: Any, a: dict[str, Any]) -> None:
        self._addc("mul", node, a)

    def op_addcdiv(self, node: Any, a: dict[str, Any]) -> None:
        self._addc("div", node, a)

    def _addc(self, op: str, node: Any, a: dict[str, Any]) -> None:
        x, y, z = (self.tensor(a[k]) for k in ("self", "tensor1", "tensor2"))
        y = self.part(node, op, [y, z], np.broadcast_shapes(self.shape(y), self.shape(z)))
        self.part(node, "add", [x, self.scaled(node, y, a["value"])], spec_of(node.meta["val"]).shape)

    def op_neg(self, node: Any, a: dict[str, Any]) -> None:
        self.emit(node, "mul", [self.tensor(node.args[0])], {"scalar": -1.0})

    def op_reciprocal(self, node: Any, a: dict[str, Any]) -> None:
        self.emit(node, "div", [self.tensor(node.args[0])], {"scalar": 1.0, "reverse": True})

    def op_pow(self, node: Any, a: dict[str, Any]) -> None:
        x, power = self.tensor(node.args[0]), a["exponent"]
        if not isinstance(power, (int, float)) or isinstance(node.args[0], (int, float)):
            self.emit(node, "aten.pow", [x])
        elif power == 2:
            self.emit(node, "mul", [x, x])
        elif power in (0.5, -0.5):
            self.emit(node, "sqrt" if power > 0 else "rsqrt", [x])
        else:
            self.emit(node, "pow", [x], {"scalar": float(power)})

    def op_square(self, node: Any, a: dict[str, Any]) -> None:
        self.op_pow(node, {"exponent": 2})

    def _extreme(self, op: str, node: Any, a: dict[str, Any]) -> None:
        """x.max(dim), whose indices nobody reads; x.max() of all; max(x, y)."""
        if "other" in a:
            self._arithmetic(op, node, a)
            return
        x = self.tensor(node.args[0])
        dims = [a["dim"]] if "dim" in a else range(len(self.shape(x)))
        pairs = isinstance(node.meta["val"], (list, tuple))
        if pairs and any(u.args[1] == 1 and u.users for u in node.users):
            self.emit(node, f"aten.{op}", [x])
            return
        spec = spec_of(node.meta["val"][0] if pairs else node.meta["val"])
        self.reduced(node, {"maximum": "amax", "minimum": "amin"}[op], x, list(dims), bool(a.get("keepdim")), spec.shape)

    def op_max(self, node: Any, a: dict[str, Any]) -> None:
        self._extreme("maximum", node, a)

    def op_min(self, node: Any, a: dict[str, Any]) -> None:
        self._extreme("minimum", node, a)

    op_maximum, op_minimum = op_max, op_min

    def op_clamp(self, node: Any, a: dict[str, Any]) -> None:
        low, high = a.get("min"), a.get("max")
        if all(isinstance(v, (int, float)) for v in (low, high)) or (low == 0 and high is None):
            super().op_clamp(node, a)
            return
        x = self.tensor(node.args[0])
        for op, bound in (("maximum", low), ("minimum", high)):
            if isinstance(bound, fx.Node):
                x = self.part(node, op, [x, self.tensor(bound)], spec_of(node.meta["val"]).shape)
            elif bound is not None:
                x = self.part(node, op, [x], self.shape(x), {"scalar": float(bound)})

    op_clamp_min = op_clamp_max = op_clip = op_clamp

    def op_where(self, node: Any, a: dict[str, Any]) -> None:
        if not {"condition", "self", "other"} <= a.keys():
            self.emit(node, "aten.where", [self.tensor(a["condition"])])
            return
        sides = [v if isinstance(v, fx.Node) else torch.tensor(float(v)) for v in (a["self"], a["other"])]
        self._choose(node, a["condition"], *sides)

    def op_masked_fill(self, node: Any, a: dict[str, Any]) -> None:
        value = a["value"] if isinstance(a["value"], fx.Node) else torch.tensor(float(a["value"]))
        self._choose(node, a["mask"], value, a["self"])

    def _choose(self, node: Any, *parts: Any) -> None:
        names = []
        for p in parts:
            if isinstance(p, Tensor):
                names.append(self.emit(node, "constant", [], weights={"value": self.constant(node, p, "fill")}, spec=spec_of(p)))
            else:
                names.append(self.tensor(p))
        self.emit(node, "where", names)

    # --- reductions -----------------------------------------------------------------------------------------------
    def reduced(self, node: Any, op: str, x: str, dims: Sequence[int], keep: bool, shape: Sequence[int] | None = None) -> str:
        rank = len(self.shape(x))
        dims = sorted(d % rank for d in (dims or range(rank)))
        kept = [1 if d in dims else n for d, n in enumerate(self.shape(x)) if keep or d not in dims]
        return self.part(node, op, [x], kept if shape is None else shape, {"dims": dims, "keepdim": keep})

    def _reduce(self, op: str, node: Any, a: dict[str, Any]) -> None:
        dims = a.get("dim")
        dims = [] if dims is None else [dims] if isinstance(dims, int) else list(dims)
        self.reduced(node, op, self.tensor(node.args[0]), dims, bool(a.get("keepdim", False)))

    def op_norm(self, node: Any, a: dict[str, Any]) -> None:
        order = a.get("ord", a.get("p"))
        if order not in (2, 2.0, None):
            self.emit(node, "aten.norm", [self.tensor(node.args[0])])
            return
        x = self.tensor(node.args[0])
        square = self.part(node, "mul", [x, x], self.shape(x))
        dims = a.get("dim")
        total = self.reduced(node, "sum", square, [dims] if isinstance(dims, int) else dims or [], bool(a.get("keepdim")))
        self.part(node, "sqrt", [total], self.shape(total))

    op_linalg_vector_norm = op_norm

    def _variance(self, node: Any, a: dict[str, Any], keep: bool) -> tuple[str, str]:
        """Variance and mean, both with dimensions kept where `keep`."""
        x, dims = self.tensor(node.args[0]), a.get("dim")
        dims = [] if dims is None else [dims] if isinstance(dims, int) else list(dims)
        mean = self.reduced(node, "mean", x, dims, True)
        less = a.get("correction", int(bool(a.get("unbiased", True))))
        less = 1 if less is None else less
        centred = self.part(node, "sub", [x, mean], self.shape(x))
        square = self.part(node, "mul", [centred, centred], self.shape(x))
        variance = self.reduced(node, "mean", square, dims, True)
        count = self.specs[x].elements // self.specs[mean].elements
        variance = self.scaled(node, variance, count / (count - less))
        if not keep:
            shape = self.shape(self.reduced(node, "mean", x, dims, False))
            variance, mean = self.viewed(node, variance, shape), self.viewed(node, mean, shape)
        return variance, mean

    def op_var(self, node: Any, a: dict[str, Any]) -> None:
        self.result(node, self._variance(node, a, bool(a.get("keepdim")))[0])

    def op_std(self, node: Any, a: dict[str, Any]) -> None:
        variance, _ = self._variance(node, a, bool(a.get("keepdim")))
        self.part(node, "sqrt", [variance], self.shape(variance))

    def op_var_mean(self, node: Any, a: dict[str, Any]) -> None:
        self.results[node.name] = list(self._variance(node, a, bool(a.get("keepdim"))))

    def op_log_softmax(self, node: Any, a: dict[str, Any]) -> None:
        """x - m - log sum exp(x - m) with m = max x"""
        x, dims = self.tensor(node.args[0]), [a["dim"]]
        less = self.part(node, "sub", [x, self.reduced(node, "amax", x, dims, True)], self.shape(x))
        total = self.reduced(node, "sum", self.part(node, "exp", [less], self.shape(x)), dims, True)
        self.part(node, "sub", [less, self.part(node, "log", [total], self.shape(total))], self.shape(x))

    # --- norms and activations ------------------------------------------------------------------------------------
    def op_rms_norm(self, node: Any, a: dict[str, Any]) -> None:
        """x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019)"""
        x = self.tensor(a["input"])
        square = self.part(node, "mul", [x, x], self.shape(x))
        mean = self.reduced(node, "mean", square, [-1 - d for d in range(len(a["normalized_shape"]))], True)
        eps = torch.finfo(torch.float32).eps if a["eps"] is None else a["eps"]
        rate = self.part(node, "add", [mean], self.shape(mean), {"scalar": float(eps)})
        y = self.part(node, "mul", [x, self.part(node, "rsqrt", [rate], self.shape(mean))], self.shape(x))
        if a["weight"] is not None:
            self.part(node, "mul", [y], self.shape(x), {}, self.roles(other=a["weight"]))

    def op_instance_norm(self, node: Any, a: dict[str, Any]) -> None:
        x = self.tensor(a["input"])
        weights = self.roles(weight=a["weight"], bias=a["bias"])
        if a["use_input_stats"]:
            self.emit(node, "group_norm", [x], {"groups": self.shape(x)[1], "eps": a["eps"]}, weights)
        else:
            self.op_batch_norm(node, a)

    def op_glu(self, node: Any, a: dict[str, Any]) -> None:
        x = self.tensor(node.args[0])
        dim = a["dim"] % len(self.shape(x))
        half = self.shape(x)[dim] // 2
        y, gate = self.cut(node, x, dim, 0, half), self.cut(node, x, dim, half, 2 * half)
        self.part(node, "mul", [y, self.part(node, "sigmoid", [gate], self.shape(gate))], self.shape(y))

    def op_selu(self, node: Any, a: dict[str, Any]) -> None:
        """Klambauer et al. 2017"""
        x = self.tensor(node.args[0])
        self.scaled(node, self.part(node, "elu", [x], self.shape(x), {"alpha": 1.6732632423543772}), 1.0507009873554805)

    def op_celu(self, node: Any, a: dict[str, Any]) -> None:
        """alpha * elu(x / alpha) (Barron 2017)"""
        x = self.scaled(node, self.tensor(node.args[0]), 1 / a["alpha"])
        self.scaled(node, self.part(node, "elu", [x], self.shape(x), {"alpha": 1.0}), a["alpha"])

    def op_log_sigmoid(self, node: Any, a: dict[str, Any]) -> None:
        x = self.scaled(node, self.tensor(node.args[0]), -1)
        self.scaled(node, self.part(node, "softplus", [x], self.shape(x), {"beta": 1.0, "threshold": 20.0}), -1)

    def op_softsign(self, node: Any, a: dict[str, Any]) -> None:
        x = self.tensor(node.args[0])
        size = self.part(node, "add", [self.part(node, "abs", [x], self.shape(x))], self.shape(x), {"scalar": 1.0})
        self.part(node, "div", [x, size], self.shape(x))

    def op_softplus(self, node: Any, a: dict[str, Any]) -> None:
        attrs = {"beta": float(a["beta"]), "threshold": float(a["threshold"])}
        self.emit(node, "softplus", [self.tensor(node.args[0])], attrs)

    def op_prelu(self, node: Any, a: dict[str, Any]) -> None:
        self.emit(node, "prelu", [self.tensor(node.args[0])], {}, self.roles(weight=a["weight"]))

    # --- one dimension as two -------------------------------------------------------------------------------------
    def _flat(self, node: Any, x: str) -> str:
        n, *rest = self.shape(x)
        return self.viewed(node, x, (n, *rest[:-1], 1, rest[-1]) if rest else (n,))

    def op_conv1d(self, node: Any, a: dict[str, Any]) -> None:
        weights = self.roles(weight=a["weight"], bias=a["bias"])
        x, out = self.tensor(a["input"]), spec_of(node.meta["val"]).shape
        if "weight" not in weights:
            self.emit(node, "aten.conv1d", [x, self.tensor(a["weight"])])
            return
        kernel, (dilation,), (stride,) = self.state[weights["weight"]].shape[2], a["dilation"], a["stride"]
        if isinstance(a["padding"], str):
            total = dilation * (kernel - 1) if a["padding"] == "same" else 0
            pads = [0, total // 2, 0, total - total // 2]
        else:
            pads = [0, a["padding"][0]] * 2
        key = f"{weights['weight']}.2d"
        self.state[key] = self.state[weights["weight"]][:, :, None]
        attrs = {"stride": [1, stride], "pads": pads, "dilation": [1, dilation], "groups": a["groups"]}
        macs = math.prod(out) * math.prod(self.state[key].shape[1:])
        y = self.part(node, "conv2d", [self._flat(node, x)], (*out[:-1], 1, out[-1]), attrs, {**weights, "weight": key}, macs)
        self.result(node, self.viewed(node, y, out))

    def _pool1d(self, op: str, node: Any, a: dict[str, Any], **attrs: Any) -> None:
        (kernel,), (padding,), out = a["kernel_size"], a["padding"], spec_of(node.meta["val"]).shape
        (stride,) = a["stride"] or [kernel]
        attrs = {"kernel": [1, kernel], "stride": [1, stride], "padding": [0, padding], "ceil": a["ceil_mode"], **attrs}
        x = self._flat(node, self.tensor(node.args[0]))
        self.result(node, self.viewed(node, self.part(node, op, [x], (*out[:-1], 1, out[-1]), attrs), out))

    def op_max_pool1d(self, node: Any, a: dict[str, Any]) -> None:
        if list(a["dilation"]) != [1]:
            self.emit(node, "aten.max_pool1d", [self.tensor(node.args[0])])
        else:
            self._pool1d("max_pool2d", node, a)

    def op_avg_pool1d(self, node: Any, a: dict[str, Any]) -> None:
        self._pool1d("avg_pool2d", node, a, count_include_pad=a["count_include_pad"])

    def op_adaptive_avg_pool1d(self, node: Any, a: dict[str, Any]) -> None:
        x, out = self._flat(node, self.tensor(node.args[0])), spec_of(node.meta["val"]).shape
        y = self.part(node, "adaptive_avg_pool2d", [x], (*out[:-1], 1, out[-1]), {"size": [1, out[-1]]})
        self.result(node, self.viewed(node, y, out))

    def op_adaptive_max_pool2d(self, node: Any, a: dict[str, Any]) -> None:
        x = self.tensor(node.args[0])
        size, target = self.shape(x)[-2:], tuple(a["output_size"])
        if target == (1, 1):
            self.alias[node.name] = self.reduced(node, "amax", x, [-2, -1], True)
        elif all(s % t == 0 for s, t in zip(size, target, strict=True)):
            kernel = [s // t for s, t in zip(size, target, strict=True)]
            attrs = {"kernel": kernel, "stride": kernel, "padding": [0, 0], "ceil": False}
            self.part(node, "max_pool2d", [x], (*self.shape(x)[:-2], *target), attrs)
        else:
            self.emit(node, "aten.adaptive_max_pool2d", [x])

    # --- windows and sizes ----------------------------------------------------------------------------------------
    def op_conv_transpose2d(self, node: Any, a: dict[str, Any]) -> None:
        weights, x = self.roles(weight=a["weight"], bias=a["bias"]), self.tensor(a["input"])
        if "weight" not in weights:
            self.emit(node, "aten.conv_transpose2d", [x, self.tensor(a["weight"])])
            return
        keys = ("stride", "padding", "output_padding", "dilation")
        attrs = {**{k: pair(a[k]) for k in keys}, "groups": a["groups"]}
        macs = self.specs[x].elements * math.prod(self.state[weights["weight"]].shape[1:])
        self.part(node, "conv_transpose2d", [x], spec_of(node.meta["val"]).shape, attrs, weights, macs)

    def _window(self, node: Any, channels: int, kernel: list[int]) -> dict[str, str]:
        """Weights [C * kh * kw, 1, kh, kw] that pick one element of the window each."""
        pick = torch.eye(math.prod(kernel)).reshape(-1, 1, *kernel).repeat(channels, 1, 1, 1)
        return {"weight": self.constant(node, pick, "window")}

    def op_im2col(self, node: Any, a: dict[str, Any]) -> None:
        """F.unfold: a depthwise convolution whose channels pick the elements of the window."""
        x, (kernel, dilation, padding, stride) = self.tensor(node.args[0]), (pair(v) for v in node.args[1:])
        n, c, *size = self.shape(x)
        outs = [
            (i + 2 * p - d * (k - 1) - 1) // s + 1 for i, p, d, k, s in zip(size, padding, dilation, kernel, stride, strict=True)
        ]
        attrs = {"stride": stride, "pads": padding * 2, "dilation": dilation, "groups": c}
        shape = (n, c * math.prod(kernel), *outs)
        y = self.part(node, "conv2d", [x], shape, attrs, self._window(node, c, kernel), 0)
        self.result(node, self.viewed(node, y, (*shape[:2], math.prod(outs))))

    def op_col2im(self, node: Any, a: dict[str, Any]) -> None:
        """F.fold: the transpose of `im2col`."""
        x, (size, kernel, dilation, padding, stride) = self.tensor(node.args[0]), (pair(v) for v in node.args[1:])
        n, rows = self.shape(x)[:2]
        c = rows // math.prod(kernel)
        steps = [i + 2 * p - d * (k - 1) - 1 for i, p, d, k in zip(size, padding, dilation, kernel, strict=True)]
        attrs = {"stride": stride, "padding": padding, "output_padding": [v % s for v, s in zip(steps, stride, strict=True)],
                 "dilation": dilation, "groups": c}  # fmt: skip
        x = self.viewed(node, x, (n, rows, *(v // s + 1 for v, s in zip(steps, stride, strict=True))))
        self.part(node, "conv_transpose2d", [x], (n, c, *size), attrs, self._window(node, c, kernel), 0)

    def op_upsample_bicubic2d(self, node: Any, a: dict[str, Any]) -> None:
        """A x B' with the weights of rows A and of columns B, found by resizing the identity."""
        x, shape = self.tensor(a["input"] if "input" in a else a["self"]), spec_of(node.meta["val"]).shape
        scales = a.get("scale_factors") or [a.get("scales_h"), a.get("scales_w")]
        resize = getattr(torch.ops.aten, node.target._schema.name.removeprefix("aten::")).default

        def weights(size: int, out: int, scale: float | None) -> Tensor:
            """[size, out]; along columns, because PyTorch's antialiasing is wrong for images one column wide."""
            return resize(torch.eye(size)[:, None, None], [1, out], a["align_corners"], None, scale)[:, 0, 0].contiguous()

        (h, w), (oh, ow) = self.shape(x)[2:], shape[2:]
        rows, columns = weights(h, oh, scales[0]).T.contiguous(), weights(w, ow, scales[1])
        y = self.part(node, "matmul", [x], (*shape[:2], h, ow), {}, {"other": self.constant(node, columns, "columns")},
                      math.prod(shape[:2]) * h * ow * w)  # fmt: skip
        self.part(
            node, "matmul", [y], shape, {"reverse": True}, {"other": self.constant(node, rows, "rows")}, math.prod(shape) * h
        )

    op__upsample_bicubic2d_aa = op__upsample_bilinear2d_aa = op_upsample_bicubic2d


for _op in _UNARY:
    setattr(Composed, f"op_{_op}", lambda self, node, a, _op=_op: self._pointwise(_op)(node, a))
for _op in _COMPARE:
    setattr(Composed, f"op_{_op}", lambda self, node, a, _op=_op: self._arithmetic(_op, node, a))
for _op in ("sum", "amax", "amin"):
    setattr(Composed, f"op_{_op}", lambda self, node, a, _op=_op: self._reduce(_op, node, a))
