"""ATen operations that a Graph writes as several nodes, or as a node of another name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from netwright.design.aten import spec_of
from netwright.design.moved import Moved

_COMPARE = ("gt", "ge", "lt", "le", "eq", "ne")
_UNARY = ("abs", "sqrt", "rsqrt", "exp", "log", "sin", "cos", "erf", "mish")


class Composed(Moved):
    """Products, arithmetic, reductions, norms and activations."""

    # --- products -------------------------------------------------------------------------------------------------
    def product(self, node: Any, x: str, y: str) -> str:
        a, b = self.shape(x), self.shape(y)
        shape = (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])
        return self.part(node, "matmul", [x, y], shape, macs=math.prod(shape) * a[-1])

    def op_linear(self, node: Any, a: dict[str, Any]) -> None:
        if a["weight"].name in self.names and (a["bias"] is None or a["bias"].name in self.names):
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


for _op in _UNARY:
    setattr(Composed, f"op_{_op}", lambda self, node, a, _op=_op: self._pointwise(_op)(node, a))
for _op in _COMPARE:
    setattr(Composed, f"op_{_op}", lambda self, node, a, _op=_op: self._arithmetic(_op, node, a))
for _op in ("sum", "amax", "amin"):
    setattr(Composed, f"op_{_op}", lambda self, node, a, _op=_op: self._reduce(_op, node, a))
