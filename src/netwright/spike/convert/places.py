"""Places: values that stand elsewhere, as tables of places until something needs them in order.

Reshapes, permutations, slices, choices of channels, rows and columns, broadcasting and nearest upsampling cost nothing until
then. Whole channels, rows and columns are views of spikes; a table that mixes channels, which have thresholds of their own, with
places has no such view, but for pixels that become channels and channels that become pixels.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netwright.core.graph import Node
from netwright.spike.convert.wiring import Moved, Spikes, Sum, Wiring, places_of


class Places(Wiring):
    """The operations that move values, one method each."""

    def moved(self, x: Any, at: NDArray[np.int64]) -> Moved:
        return Moved(x.base, x.at.reshape(-1)[at]) if isinstance(x, Moved) else Moved(x, at)

    def settled(self, x: Moved) -> Any:
        base, size = x.base, math.prod(x.base.shape[2:])
        channel, place = (part.reshape(x.shape[1], -1) for part in (x.at // size, x.at % size))
        if (channel == channel[:, :1]).all() and (place == place[:1]).all():
            chosen, places = channel[:, 0], place[0]
            if not np.array_equal(places, np.arange(size)):
                s = self.spikes(base)
                s = self.viewed(s, "reshape", {}, (*s.shape[:2], size, 1))
                wide = (*s.shape[:2], len(places), 1)
                s = self.viewed(s, "expand", {}, wide) if size == 1 else self.viewed(s, "take", {"dim": 2}, wide, index=places)
                base = s
            if not np.array_equal(chosen, np.arange(base.shape[1])):
                base = self.chosen(base, torch.from_numpy(chosen))
            return self.reshaped(base, x.shape)
        if len(x.shape) == 2 and len(np.unique(x.at)) == x.at.size:
            return self._flattened(x, size)
        made = self._shuffled(x)
        if made is None:
            raise self.refuse(way_out="It mixes channels, each with its own threshold, with places; move whole channels instead.")
        return made

    def chosen(self, x: Any, index: Tensor) -> Any:
        """The channels `index` of a value, which may repeat."""
        again = len(torch.unique(index)) < len(index)
        if isinstance(x, Sum) and x.act is None:
            rows = x.region.rows(index)
            if rows is not None:
                return Sum(replace(rows, name=self.node.name, path=self.node.path))
        s = self.spikes(x)
        if again and s.fan and len(s.shape) in (2, 4):
            rows = self.region(s.shape, (self.shortcut(s),)).rows(index)
            if rows is not None:
                return Sum(rows)
        rank = torch.argsort(s.index, stable=True)
        counts = torch.bincount(s.index, minlength=s.shape[1])
        ends = counts.cumsum(0)
        source = torch.cat([rank[ends[c] - counts[c] : ends[c]] for c in index.tolist()])
        owner = torch.arange(len(index)).repeat_interleave(counts[index])
        shape = (1, len(source), *s.shape[2:])
        start, end = int(source[0]), int(source[0]) + len(source)
        if torch.equal(source, torch.arange(start, end)):
            name = self.view("slice", (s.source,), {"dim": 1, "start": start, "end": end, "step": 1}, shape)
        else:
            name = self.view("take", (s.source,), {"dim": 1}, shape, {"index": source.numpy()})
        return Spikes(name, s.gain[source], owner, (1, len(index), *s.shape[2:]), s.signed)

    def reshaped(self, x: Any, shape: tuple[int, ...]) -> Any:
        """The same channels with their places in another shape."""
        if x.shape == shape:
            return x
        if isinstance(x, Sum) and not x.shared:
            return Sum(x.region.then(self.made_of("reshape", shape, {})), x.act)
        return self.viewed(self.spikes(x), "reshape", {}, shape)

    def _flattened(self, x: Moved, size: int) -> Spikes:
        """Every element of the base a channel of its own, in any order."""
        s = self.spikes(x.base)
        name = self.view("reshape", (s.source,), {}, (1, len(s.gain) * size))
        inverse = torch.full((s.shape[1] * size,), -1)
        inverse[torch.from_numpy(x.at)] = torch.arange(x.at.size)
        index = inverse[(s.index[:, None] * size + torch.arange(size)).reshape(-1)]
        gain = s.gain.repeat_interleave(size) * (index >= 0)
        return Spikes(name, gain, index.clamp(min=0), x.shape, s.signed)

    def _shuffled(self, x: Moved) -> Any:
        """Pixels into channels and back, by convolutions with weights 0 and 1."""
        if len(x.shape) != 4 or len(x.base.shape) != 4:
            return None
        (_, c, h, w), (_, o, oh, ow) = x.base.shape, x.shape
        places = places_of(x.base.shape)
        r = max(h // oh, oh // h)
        one = torch.zeros(max(c, o), 1, r, r, dtype=torch.float64)
        for j in range(len(one)):
            one[j, 0, (j // r) % r, j % r] = 1
        attrs = {"stride": [r, r], "pads": [0] * 4, "dilation": [1, 1]}
        down = (h, w, o) == (oh * r, ow * r, c * r * r)
        table = places.reshape(c, oh, r, ow, r).transpose(0, 2, 4, 1, 3) if down else None
        if table is not None and np.array_equal(table.reshape(o, oh, ow), x.at):
            return self.conv(x.base, one, {**attrs, "groups": c}, None, x.shape)
        if (oh, ow, c) == (h * r, w * r, o * r * r):
            table = places.reshape(o, r, r, h, w).transpose(0, 3, 1, 4, 2)
            if np.array_equal(table.reshape(o, oh, ow), x.at):
                return self.spread(x.base, one, (r, r), (0, 0), (0, 0), (1, 1), o, None, x.shape)
        return None

    def expanded(self, x: Any, shape: tuple[int, ...]) -> Any:
        if x.shape == shape:
            return x
        if len(x.shape) != len(shape):
            raise self.refuse(way_out="Both tensors must have the same number of dimensions.")
        return self.moved(x, np.broadcast_to(places_of(x.shape), shape[1:]))

    def op_reshape(self, node: Node, x: Any) -> Any:
        shape = node.spec.shape
        if len(shape) < 2 or len(x.shape) < 2 or shape[0] != x.shape[0] or math.prod(shape) != math.prod(x.shape):
            raise self.refuse(way_out="The batch must stay the first dimension.")
        return self.moved(x, places_of(node.spec.shape))

    def op_permute(self, node: Node, x: Any) -> Any:
        dims = node.attrs["dims"]
        if dims[0] != 0:
            raise self.refuse(way_out="The batch must stay the first dimension.")
        return self.moved(x, places_of(x.shape).transpose([d - 1 for d in dims[1:]]))

    def op_take(self, node: Node, x: Any) -> Any:
        dim, index = node.attrs["dim"] % len(x.shape), np.array(self.graph.value(node, "index"), np.int64)
        if dim == 0:
            raise self.refuse(way_out="The batch cannot be chosen from.")
        return self.moved(x, places_of(x.shape).take(index, dim - 1))

    def op_slice(self, node: Node, x: Any) -> Any:
        a = {"step": 1, **node.attrs}
        if a["dim"] == 0:
            raise self.refuse(way_out="The batch cannot be cut.")
        if a["dim"] == 1 and not isinstance(x, Moved):
            return self.chosen(x, torch.arange(x.shape[1])[a["start"] : a["end"] : a["step"]])
        return self.moved(x, places_of(x.shape)[(slice(None),) * (a["dim"] - 1) + (slice(a["start"], a["end"], a["step"]),)])

    def op_expand(self, node: Node, x: Any) -> Any:
        return self.expanded(x, node.spec.shape)
