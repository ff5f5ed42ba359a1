"""ATen operations that move or select elements, as slices, concatenations, permutations, reshapes and choices of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from netwright.core.graph import Spec
from netwright.design.aten import Aten, spec_of


class Moved(Aten):
    """One method `op_NAME` an operation, as in `Aten`; the last node of a method is its result."""

    def part(self, node: Any, op: str, inputs: Sequence[str], shape: Sequence[int], attrs: dict[str, Any] | None = None,
             weights: dict[str, str] | None = None, macs: int | None = None) -> str:  # fmt: skip
        """A node of a known shape, which need not be that of the fx node."""
        return self.emit(node, op, list(inputs), attrs, weights, Spec(tuple(int(n) for n in shape)), macs)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.specs[name].shape

    def viewed(self, node: Any, x: str, shape: Sequence[int]) -> str:
        return x if self.shape(x) == tuple(shape) else self.part(node, "reshape", [x], shape)

    def cut(self, node: Any, x: str, dim: int, start: int, end: int) -> str:
        """Elements start..end of one dimension."""
        shape = list(self.shape(x))
        if (start, end) == (0, shape[dim]):
            return x
        shape[dim] = end - start
        return self.part(node, "slice", [x], shape, {"dim": dim, "start": start, "end": end, "step": 1})

    def joined(self, node: Any, parts: Sequence[str], dim: int) -> str:
        if len(parts) == 1:
            return parts[0]
        shape = list(self.shape(parts[0]))
        shape[dim] = sum(self.shape(p)[dim] for p in parts)
        return self.part(node, "cat", parts, shape, {"dim": dim})

    def turned(self, node: Any, x: str, dims: Sequence[int]) -> str:
        if list(dims) == sorted(dims):
            return x
        return self.part(node, "permute", [x], [self.shape(x)[d] for d in dims], {"dims": list(dims)})

    def taken(self, node: Any, x: str, dim: int, index: np.ndarray[Any, Any]) -> str:
        shape = list(self.shape(x))
        shape[dim] = index.size
        key = self.constant(node, torch.from_numpy(np.array(index, np.int64).reshape(-1)), "index")
        return self.part(node, "take", [x], shape, {"dim": dim}, {"index": key})

    def scaled(self, node: Any, x: str, factor: float) -> str:
        return x if factor == 1 else self.part(node, "mul", [x], self.shape(x), {"scalar": float(factor)})

    def result(self, node: Any, x: str) -> None:
        self.alias[node.name] = x

    # --- moving elements ------------------------------------------------------------------------------------------
    def op_select(self, node: Any, a: dict[str, Any]) -> None:
        x = self.tensor(node.args[0])
        dim = a["dim"] % len(self.shape(x))
        at = a["index"] % self.shape(x)[dim]
        self.result(node, self.viewed(node, self.cut(node, x, dim, at, at + 1), spec_of(node.meta["val"]).shape))

    def op_unbind(self, node: Any, a: dict[str, Any]) -> None:
        x = self.tensor(node.args[0])
        dim = a["dim"] % len(self.shape(x))
        self.alias[node.name], self.split_dim[node.name] = x, dim
        self.split[node.name] = [(i, i + 1) for i in range(self.shape(x)[dim])]

    def op_t(self, node: Any, a: dict[str, Any]) -> None:
        """x.T, x.mT: the last two dimensions change places."""
        x = self.tensor(node.args[0])
        dims = list(range(len(self.shape(x))))
        self.result(node, self.turned(node, x, [*dims[:-2], *reversed(dims[-2:])]))

    op_numpy_T = op_mT = op_t

    def op_stack(self, node: Any, a: dict[str, Any]) -> None:
        parts = [self.tensor(t) for t in a["tensors"]]
        dim = a["dim"] % (len(self.shape(parts[0])) + 1)
        wide = [self.widened(node, p, dim) for p in parts]
        self.result(node, self.joined(node, wide, dim))

    def widened(self, node: Any, x: str, dim: int) -> str:
        """x with a dimension of length one. In front of the batch it is put there by a permutation, so that a reshape never
        has to guess which of two dimensions of length one is the batch."""
        shape = self.shape(x)
        if dim == 0 and len(shape) > 1 and shape[0] == 1:
            x = self.viewed(node, x, (shape[0], 1, *shape[1:]))
            return self.part(node, "permute", [x], (1, *shape), {"dims": [1, 0, *range(2, len(shape) + 1)]})
        return self.viewed(node, x, (*shape[:dim], 1, *shape[dim:]))

    def op_unsqueeze(self, node: Any, a: dict[str, Any]) -> None:
        x = self.tensor(node.args[0])
        self.result(node, self.widened(node, x, a["dim"] % (len(self.shape(x)) + 1)))

    def op_slice_scatter(self, node: Any, a: dict[str, Any]) -> None:
        """x with a slice replaced"""
        x, new, dim = self.tensor(node.args[0]), self.tensor(a["src"]), a["dim"] % len(spec_of(node.meta["val"]).shape)
        size = self.shape(x)[dim]
        start, end, step = slice(a["start"], a["end"], a["step"]).indices(size)
        if step != 1:
            self.emit(node, "aten.slice_scatter", [x, new])
            return
        sides = [self.cut(node, x, dim, i, j) if i < j else None for i, j in ((0, start), (end, size))]
        self.result(node, self.joined(node, [p for p in (sides[0], new, sides[1]) if p is not None], dim))

    def op_select_scatter(self, node: Any, a: dict[str, Any]) -> None:
        x, new = self.tensor(node.args[0]), self.tensor(a["src"])
        dim, shape = a["dim"] % len(self.shape(x)), self.shape(x)
        at = a["index"] % shape[dim]
        parts = [self.cut(node, x, dim, i, j) if i < j else None for i, j in ((0, at), (at + 1, shape[dim]))]
        new = self.viewed(node, new, (*shape[:dim], 1, *shape[dim + 1 :]))
        self.result(node, self.joined(node, [p for p in (parts[0], new, parts[1]) if p is not None], dim))

    def op_copy(self, node: Any, a: dict[str, Any]) -> None:
        self.result(node, self.repeated(node, self.tensor(a["src"]), spec_of(node.meta["val"]).shape))

    def op_fill(self, node: Any, a: dict[str, Any]) -> None:
        if isinstance(a["value"], (int, float)):
            value = torch.full(spec_of(node.meta["val"]).shape, float(a["value"]))
            self.emit(node, "constant", [], weights={"value": self.constant(node, value, "fill")})
        else:
            self.op_copy(node, {"src": a["value"]})

    def op_roll(self, node: Any, a: dict[str, Any]) -> None:
        x = whole = self.tensor(node.args[0])
        shifts, dims = (list(v) if isinstance(v, (list, tuple)) else [v] for v in (a["shifts"], a["dims"]))
        if not dims:
            x, dims = self.viewed(node, x, (self.specs[x].elements,)), [0]
        for shift, dim in zip(shifts, dims, strict=True):
            dim %= len(self.shape(x))
            size = self.shape(x)[dim]
            if at := -shift % size:
                x = self.joined(node, [self.cut(node, x, dim, at, size), self.cut(node, x, dim, 0, at)], dim)
        self.result(node, self.viewed(node, x, self.shape(whole)))

    def op_flip(self, node: Any, a: dict[str, Any]) -> None:
        x = self.tensor(node.args[0])
        for dim in a["dims"]:
            dim %= len(self.shape(x))
            x = self.taken(node, x, dim, np.arange(self.shape(x)[dim])[::-1])
        self.result(node, x)

    def op_pad(self, node: Any, a: dict[str, Any]) -> None:
        """Reflected, replicated and circular frames are a choice of rows and columns; a negative width crops."""
        if a["mode"] == "constant":
            x, widths = self.tensor(node.args[0]), list(a["pad"])
            for i in range(0, len(widths), 2):
                dim = len(self.shape(x)) - 1 - i // 2
                x = self.cut(node, x, dim, max(0, -widths[i]), self.shape(x)[dim] - max(0, -widths[i + 1]))
            widths, value = [max(0, w) for w in widths], float(a["value"] or 0.0)
            shape = spec_of(node.meta["val"]).shape
            self.result(node, self.part(node, "pad", [x], shape, {"pad": widths, "value": value}) if any(widths) else x)
            return
        x, mode = self.tensor(node.args[0]), {"replicate": "edge", "circular": "wrap"}.get(a["mode"], a["mode"])
        for i in range(len(a["pad"]) // 2):
            dim, (low, high) = len(self.shape(x)) - 1 - i, a["pad"][2 * i : 2 * i + 2]
            if low or high:
                x = self.taken(node, x, dim, np.pad(np.arange(self.shape(x)[dim]), (low, high), mode=mode))
        self.result(node, x)

    def op_index(self, node: Any, a: dict[str, Any]) -> None:
        """x[:, i, j] with constant indices of neighbouring dimensions."""
        x, indices = self.tensor(node.args[0]), list(a["indices"])
        places = [d for d, index in enumerate(indices) if index is not None]
        known = [self.known(indices[d]) for d in places]
        if not places or places != list(range(places[0], places[-1] + 1)) or any(k is None for k in known):
            self.emit(node, "aten.index", [x])
            return
        arrays = [k.cpu().numpy() for k in known if k is not None]
        arrays = [part for k in arrays for part in (k.nonzero() if k.dtype == bool else (k,))]
        first, sizes = places[0], self.shape(x)[places[0] : places[0] + len(arrays)]
        arrays = [np.where(k < 0, k + n, k) for k, n in zip(np.broadcast_arrays(*arrays), sizes, strict=True)]
        x = self.viewed(node, x, (*self.shape(x)[:first], math.prod(sizes), *self.shape(x)[first + len(sizes) :]))
        x = self.taken(node, x, first, np.ravel_multi_index(arrays, sizes))
        self.result(node, self.viewed(node, x, spec_of(node.meta["val"]).shape))

    def op_index_select(self, node: Any, a: dict[str, Any]) -> None:
        x, index = self.tensor(node.args[0]), self.known(a["index"])
        if index is None:
            self.emit(node, "aten.index_select", [x])
        else:
            self.result(node, self.taken(node, x, a["dim"] % len(self.shape(x)), index.cpu().numpy()))

    def op_unfold(self, node: Any, a: dict[str, Any]) -> None:
        """Tensor.unfold: windows of `size` every `step` along one dimension; the window is the last dimension."""
        x, size, step = self.tensor(node.args[0]), a["size"], a["step"]
        shape, dim = self.shape(x), a["dimension"] % len(self.shape(x))
        starts = np.arange(0, shape[dim] - size + 1, step)
        if size != step or starts.size * step != shape[dim]:
            x = self.taken(node, x, dim, starts[:, None] + np.arange(size))
        x = self.viewed(node, x, (*shape[:dim], starts.size, size, *shape[dim + 1 :]))
        rank = len(shape) + 1
        self.result(node, self.turned(node, x, [d for d in range(rank) if d != dim + 1] + [dim + 1]))

    def repeated(self, node: Any, x: str, shape: Sequence[int]) -> str:
        x = self.viewed(node, x, (*[1] * (len(shape) - len(self.shape(x))), *self.shape(x)))
        return x if self.shape(x) == tuple(shape) else self.part(node, "expand", [x], shape, {"shape": list(shape)})

    def op_expand(self, node: Any, a: dict[str, Any]) -> None:
        self.result(node, self.repeated(node, self.tensor(node.args[0]), spec_of(node.meta["val"]).shape))

    op_expand_as = op_expand

    def op_repeat(self, node: Any, a: dict[str, Any]) -> None:
        x = self.tensor(node.args[0])
        counts = a["repeats"] if "repeats" in a else a["dims"]
        rank = max(len(counts), len(self.shape(x)))
        x = self.viewed(node, x, (*[1] * (rank - len(self.shape(x))), *self.shape(x)))
        for dim, count in enumerate([*[1] * (rank - len(counts)), *counts]):
            x = self.joined(node, [x] * count, dim)
        self.result(node, x)

    op_tile = op_repeat

    def op_repeat_interleave(self, node: Any, a: dict[str, Any]) -> None:
        x, count = self.tensor(node.args[0]), a["repeats"]
        if not isinstance(count, int) or a.get("dim") is None:
            self.emit(node, "aten.repeat_interleave", [x])
            return
        dim = a["dim"] % len(self.shape(x))
        self.result(node, self.taken(node, x, dim, np.arange(self.shape(x)[dim]).repeat(count)))

    def op_pixel_shuffle(self, node: Any, a: dict[str, Any]) -> None:
        x, r = self.tensor(node.args[0]), a["upscale_factor"]
        n, c, h, w = self.shape(x)
        x = self.turned(node, self.viewed(node, x, (n, c // r**2, r, r, h, w)), (0, 1, 4, 2, 5, 3))
        self.result(node, self.viewed(node, x, (n, c // r**2, h * r, w * r)))

    def op_pixel_unshuffle(self, node: Any, a: dict[str, Any]) -> None:
        x, r = self.tensor(node.args[0]), a["downscale_factor"]
        n, c, h, w = self.shape(x)
        x = self.turned(node, self.viewed(node, x, (n, c, h // r, r, w // r, r)), (0, 1, 3, 5, 2, 4))
        self.result(node, self.viewed(node, x, (n, c * r**2, h // r, w // r)))

    def op_channel_shuffle(self, node: Any, a: dict[str, Any]) -> None:
        x, g = self.tensor(node.args[0]), a["groups"]
        shape = n, c, *rest = self.shape(x)
        x = self.turned(node, self.viewed(node, x, (n, g, c // g, *rest)), (0, 2, 1, *range(3, len(rest) + 3)))
        self.result(node, self.viewed(node, x, shape))
