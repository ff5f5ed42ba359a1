"""What each ATen operation becomes in a Graph, and its multiply-accumulates."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netwright.core.graph import Spec


def pair(v: Any) -> list[int]:
    v = list(v) if isinstance(v, (list, tuple)) else [v]
    return [int(i) for i in (v * 2 if len(v) == 1 else v)]


def spec_of(value: Any) -> Spec:
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


def macs_of(op: str, out: Spec, ins: list[Spec], weight: Spec | None, attrs: Mapping[str, Any]) -> int:
    """Multiply-accumulates of one operation, from shapes."""
    base = op.removeprefix("aten.")
    if base in ("conv2d", "qconv2d", "bconv2d", "conv1d", "conv3d") and weight:
        return out.elements * math.prod(weight.shape[1:])
    if base.startswith("conv_transpose") and weight:
        return ins[0].elements * math.prod(weight.shape[1:])
    if base in ("linear", "qlinear", "blinear") and weight:
        return out.elements * weight.shape[-1]
    if base in ("matmul", "qmatmul", "bmatmul", "mv", "dot", "_grouped_mm", "grouped_mm_fallback"):  # the last: of experts
        return out.elements * ins[0].shape[-1] if ins else 0
    if base in ("addmm", "baddbmm", "addmv"):
        return out.elements * ins[1].shape[-1] if len(ins) > 1 else 0
    if base == "sdpa":
        q, k, v = (s.shape for s in ins[:3])
        return math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])
    if base == "einsum":
        return _einsum_macs(attrs["equation"], ins)
    return 0


class Computed(Exception):
    """A weight that depends on the network's input, where an operation of ours has constant ones."""


class Aten(ABC):
    """One method `op_NAME` an operation; `a` are its arguments by schema name. The walk over the program is `trace.Reader`."""

    names: dict[str, str]  # fx node of a parameter or constant -> its name
    state: dict[str, Tensor]
    alias: dict[str, str]  # fx node -> our node
    specs: dict[str, Spec]
    split: dict[str, list[tuple[int, int]]]  # fx node -> (start, end) of its parts
    split_dim: dict[str, int]
    results: dict[str, list[str]]  # fx node of several results -> our nodes

    @abstractmethod
    def constant(self, fx: Any, value: Tensor, role: str = "") -> str:
        """Key of a parameter that holds `value`."""

    @abstractmethod
    def same_origin(self, key: str, source: str) -> None:
        """The parameter `key` is `source` in another shape: it counts in its place, or not at all where that does not."""

    @abstractmethod
    def known(self, fx: Any) -> Tensor | None:
        """The value of an fx argument that does not depend on the network's inputs."""

    @abstractmethod
    def emit(
        self,
        fx: Any,
        op: str,
        inputs: list[str],
        attrs: dict[str, Any] | None = None,
        weights: dict[str, str] | None = None,
        spec: Spec | None = None,
        macs: int | None = None,
    ) -> str:
        """Append a node; returns its name."""

    @abstractmethod
    def tensor(self, fx: Any) -> str:
        """Our node for an fx argument."""

    def roles(self, **candidates: Any) -> dict[str, str]:
        """Role -> parameter name, of those candidates that are given.

        Raises:
            Computed: one depends on the network's input.
        """
        given = {role: fx for role, fx in candidates.items() if fx is not None}
        for fx in given.values():
            if fx.name not in self.names:
                raise Computed(fx.name)
        return {role: self.names[fx.name] for role, fx in given.items()}

    def op_conv2d(self, fx: Any, a: dict[str, Any]) -> None:
        if a["weight"].name not in self.names:  # a computed weight (generated, mixed of experts): kept as a second input
            inputs = [self.tensor(fx.args[0]), self.tensor(a["weight"])]
            spec, weight = spec_of(fx.meta["val"]), spec_of(a["weight"].meta["val"])
            self.emit(fx, "aten.conv2d", inputs, macs=spec.elements * math.prod(weight.shape[1:]))
            return
        weights = self.roles(weight=a["weight"], bias=a["bias"])
        kernel, dilation = self.state[weights["weight"]].shape[2:], pair(a["dilation"])
        if isinstance(a["padding"], str):
            total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)] if a["padding"] == "same" else [0, 0]
            pads = [total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2]
        else:
            pads = pair(a["padding"]) * 2
        attrs = {"stride": pair(a["stride"]), "pads": pads, "dilation": dilation, "groups": a["groups"]}
        self.emit(fx, "conv2d", [self.tensor(a["input"])], attrs, weights)

    def op_linear(self, fx: Any, a: dict[str, Any]) -> None:
        self.emit(fx, "linear", [self.tensor(a["input"])], {}, self.roles(weight=a["weight"], bias=a["bias"]))

    def op_batch_norm(self, fx: Any, a: dict[str, Any]) -> None:
        if a.get("training") or a["running_mean"] is None:  # statistics of the batch, which is unknown
            self.emit(fx, "aten.batch_norm", [self.tensor(a["input"])])
            return
        weights = self.roles(weight=a["weight"], bias=a["bias"], mean=a["running_mean"], var=a["running_var"])
        self.emit(fx, "batch_norm", [self.tensor(a["input"])], {"eps": a["eps"]}, weights)

    def op__native_batch_norm_legit_no_training(self, fx: Any, a: dict[str, Any]) -> None:
        weights = self.roles(weight=a["weight"], bias=a["bias"], mean=a["running_mean"], var=a["running_var"])
        spec = spec_of(fx.meta["val"][0])
        self.results[fx.name] = [self.emit(fx, "batch_norm", [self.tensor(a["input"])], {"eps": a["eps"]}, weights, spec)]

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
        if a.get("max") is None:
            self.emit(fx, "relu", [self.tensor(fx.args[0])])
        else:
            self.op_hardtanh(fx, {"min_val": a["min"], "max_val": a["max"]})

    def op_leaky_relu(self, fx: Any, a: dict[str, Any]) -> None:
        self.emit(fx, "leaky_relu", [self.tensor(fx.args[0])], {"slope": a["negative_slope"]})

    def op_elu(self, fx: Any, a: dict[str, Any]) -> None:
        self.emit(fx, "elu", [self.tensor(fx.args[0])], {"alpha": a["alpha"]})

    def op_gelu(self, fx: Any, a: dict[str, Any]) -> None:
        self.emit(fx, "gelu", [self.tensor(fx.args[0])], {"approximate": a["approximate"]})

    def _arithmetic(self, op: str, fx: Any, a: dict[str, Any]) -> None:
        left, right, alpha = a["self"], a["other"], a.get("alpha", 1)
        if a.get("rounding_mode"):
            self.emit(fx, f"aten.{op}", [self.tensor(v) for v in (left, right) if isinstance(v, torch.fx.Node)], {})
        elif not isinstance(right, torch.fx.Node):
            self.emit(fx, op, [self.tensor(left)], {"scalar": float(right) * float(alpha)})
        elif alpha != 1:
            scaled = self.emit(fx, "mul", [self.tensor(right)], {"scalar": float(alpha)}, spec=spec_of(right.meta["val"]))
            self.emit(fx, op, [self.tensor(left), scaled])
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
        out, inner = spec_of(fx.meta["val"]), spec_of(left.meta["val"]).shape[-1]
        if right.name in self.names and left.name not in self.names:
            self.emit(fx, "matmul", [self.tensor(left)], {}, {"other": self.names[right.name]}, macs=out.elements * inner)
        else:
            self.emit(fx, "matmul", [self.tensor(left), self.tensor(right)], macs=out.elements * inner)

    def op_sdpa(self, fx: Any, a: dict[str, Any]) -> None:
        inputs = [self.tensor(a[k]) for k in ("query", "key", "value")]
        macs = macs_of("sdpa", spec_of(fx.meta["val"]), [self.specs[i] for i in inputs], None, {})
        mask = a["attn_mask"]
        weights = self.roles(mask=mask) if mask is not None and mask.name in self.names else {}
        if a.get("enable_gqa") and self.specs[inputs[0]].shape[-3] != self.specs[inputs[1]].shape[-3]:
            self.emit(fx, "aten.scaled_dot_product_attention", inputs, {"enable_gqa": True}, macs=macs)
            return
        if mask is not None and not weights:
            inputs.append(self.tensor(mask))
        attrs = {"scale": a.get("scale"), **({"causal": True} if a["is_causal"] else {})}
        self.emit(fx, "sdpa", inputs, attrs, weights, macs=macs)

    def _pool(self, op: str, fx: Any, a: dict[str, Any], **attrs: Any) -> None:
        kernel = pair(a["kernel_size"])
        stride = pair(a["stride"]) if a["stride"] else kernel
        attrs = {"kernel": kernel, "stride": stride, "padding": pair(a["padding"]), "ceil": a["ceil_mode"], **attrs}
        self.emit(fx, op, [self.tensor(fx.args[0])], attrs)

    def op_max_pool2d(self, fx: Any, a: dict[str, Any]) -> None:
        if pair(a["dilation"]) != [1, 1]:
            self.emit(fx, "aten.max_pool2d", [self.tensor(fx.args[0])])
        else:
            self._pool("max_pool2d", fx, a)

    def op_avg_pool2d(self, fx: Any, a: dict[str, Any]) -> None:
        self._pool("avg_pool2d", fx, a, count_include_pad=a["count_include_pad"])

    def op_adaptive_avg_pool2d(self, fx: Any, a: dict[str, Any]) -> None:
        source = self.tensor(fx.args[0])
        size, target = self.specs[source].shape[-2:], tuple(pair(a["output_size"]))
        if target == (1, 1):
            self.emit(fx, "mean", [source], {"dims": [2, 3], "keepdim": True})
        elif target == size:
            self.alias[fx.name] = source
        elif all(s % t == 0 for s, t in zip(size, target, strict=True)):
            kernel = [s // t for s, t in zip(size, target, strict=True)]
            attrs = {"kernel": kernel, "stride": kernel, "padding": [0, 0], "ceil": False, "count_include_pad": True}
            self.emit(fx, "avg_pool2d", [source], attrs)
        else:
            self.emit(fx, "adaptive_avg_pool2d", [source], {"size": list(target)})

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
            fx, "interpolate", [self.tensor(fx.args[0])], {"size": list(spec_of(fx.meta["val"]).shape[2:]), "mode": "nearest"}
        )

    def op_upsample_bilinear2d(self, fx: Any, a: dict[str, Any]) -> None:
        attrs = {"size": list(spec_of(fx.meta["val"]).shape[2:]), "mode": "bilinear", "align_corners": a["align_corners"]}
        self.emit(fx, "interpolate", [self.tensor(fx.args[0])], attrs)


for _op in ("relu", "relu6", "silu", "hardswish", "hardsigmoid", "sigmoid", "tanh"):
    setattr(Aten, f"op_{_op}", lambda self, fx, a, _op=_op: self._pointwise(_op)(fx, a))
