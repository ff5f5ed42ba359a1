"""ATen operations that slide windows or change sizes, written with convolutions and pools of two dimensions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from netwright.design.aten import pair, spec_of
from netwright.design.compose import Composed


class Windowed(Composed):
    """One dimension, three dimensions, transposed convolutions, unfolding and resizing."""

    # --- one dimension as two -------------------------------------------------------------------------------------
    def _flat(self, node: Any, x: str) -> str:
        n, *rest = self.shape(x)
        return self.viewed(node, x, (n, *rest[:-1], 1, rest[-1]) if rest else (n,))

    def op_conv1d(self, node: Any, a: dict[str, Any]) -> None:
        weights = self.roles(weight=a["weight"], bias=a["bias"])
        x, out = self.tensor(a["input"]), spec_of(node.meta["val"]).shape
        kernel, (dilation,), (stride,) = self.state[weights["weight"]].shape[2], a["dilation"], a["stride"]
        if isinstance(a["padding"], str):
            total = dilation * (kernel - 1) if a["padding"] == "same" else 0
            pads = [0, total // 2, 0, total - total // 2]
        else:
            pads = [0, a["padding"][0]] * 2
        key = f"{weights['weight']}.2d"
        self.state[key] = self.state[weights["weight"]][:, :, None]
        self.same_origin(key, weights["weight"])
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

    def op_conv3d(self, node: Any, a: dict[str, Any]) -> None:
        """A kernel of length one along one dimension: a convolution of the planes across it, which count as a batch."""
        weights, x = self.roles(weight=a["weight"], bias=a["bias"]), self.tensor(a["input"])
        values = self.state[weights["weight"]]
        flat = [
            d for d in range(3)
            if values.shape[2 + d] == 1 and (a["stride"][d], a["padding"][d]) == (1, 0)
        ]  # fmt: skip
        if not flat or isinstance(a["padding"], str):
            self.emit(node, "aten.conv3d", [x])
            return
        across, out = flat[-1], spec_of(node.meta["val"]).shape
        plane = [d for d in range(3) if d != across]
        key = f"{weights['weight']}.2d"
        self.state[key] = values.squeeze(2 + across)
        x = self.turned(node, x, (0, 2 + across, 1, *(2 + d for d in plane)))
        n, depth, c, *size = self.shape(x)
        attrs = {"stride": [a["stride"][d] for d in plane], "pads": [a["padding"][d] for d in plane] * 2,
                 "dilation": [a["dilation"][d] for d in plane], "groups": a["groups"]}  # fmt: skip
        sizes = (out[1], *(out[2 + d] for d in plane))
        macs = math.prod(out) * math.prod(values.shape[1:])
        x = self.viewed(node, x, (n * depth, c, *size))
        y = self.part(node, "conv2d", [x], (n * depth, *sizes), attrs, {**weights, "weight": key}, macs)
        order = [0, 2, *(3 + plane.index(d) if d != across else 1 for d in range(3))]
        self.result(node, self.turned(node, self.viewed(node, y, (n, depth, *sizes)), order))

    # --- windows and sizes ----------------------------------------------------------------------------------------
    def op_conv_transpose2d(self, node: Any, a: dict[str, Any]) -> None:
        weights, x = self.roles(weight=a["weight"], bias=a["bias"]), self.tensor(a["input"])
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
