"""Read: a float Graph to a Program, and the reasons where it has none.

The graph is walked once, one method an operation; `wiring` makes spikes and regions of the values, `places` moves them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from netwright.core.graph import Graph, Node, Spec
from netwright.spike.convert.places import Places
from netwright.spike.convert.program import Neuron, Program, Region, Term, View
from netwright.spike.convert.wiring import APPROXIMATE, Moved, Parts, Refused, Spikes, Sum, places_of


class _Reader(Places):
    def read(self) -> Program | None:
        values: dict[str, Any] = {}
        readers = self.graph.consumers()
        for node in self.graph:
            self.node = node
            try:
                method = getattr(self, f"op_{node.op.replace('.', '_')}", None)
                if method is None:
                    raise self.refuse()
                value = method(node, *(values[i] for i in node.inputs))
                if len(readers[node.name]) > 1:
                    for v in (value, getattr(value, "base", None)):
                        if isinstance(v, Sum):
                            v.shared = True
            except Refused:  # go on as if it were given, so that all reasons are found
                value = self.given(node, [values[i] for i in node.inputs])
            values[node.name] = value
        self.node = self.graph[self.graph.outputs[0]]
        self._whole()
        try:
            if len(self.node.spec.shape) not in (2, 4):
                raise self.refuse("output", way_out="It must be [N, K] or [N, C, H, W].")
            final = self.plain(values[self.node.name])
            head = final.region if isinstance(final, Sum) and final.act is None else None
            if head is None:
                s = self.spikes(final)
                head = self.current(s)
        except Refused:
            head = None
        if head is None or self.errors:
            return None
        return Program(self.graph[self.graph.inputs[0]], self._live(head), head)

    def _whole(self) -> None:
        if len(self.graph.inputs) != 1 or len(self.graph.outputs) != 1:
            found = f"It has {len(self.graph.inputs)} and {len(self.graph.outputs)}; wrap it in a module with one of each."
            self.refuse("inputs and outputs", way_out=found)

    def _live(self, head: Region) -> tuple[Neuron | View, ...]:
        """The steps that the output depends on."""
        needed = {t.source for t in head.terms}
        live: list[Neuron | View] = []
        for step in reversed(self.steps):
            if step.name in needed:
                needed.update(step.sources if isinstance(step, View) else (t.source for t in step.region.terms))
                live.append(step)
        return tuple(reversed(live))

    def op_input(self, node: Node) -> Any:
        return self.opaque(node.name, node.spec.shape)

    def op_conv2d(self, node: Node, x: Any) -> Any:
        return self.conv(x, self.vector("weight"), node.attrs, self.bias(), node.spec.shape)

    def op_conv_transpose2d(self, node: Node, x: Any) -> Any:
        a = node.attrs
        given = (a["stride"], a["padding"], a["output_padding"], a["dilation"], a["groups"])
        return self.spread(x, self.vector("weight"), *given, self.bias(), node.spec.shape)

    def op_linear(self, node: Node, x: Any) -> Any:
        return self.linear(x, self.vector("weight"), self.bias())

    def op_matmul(self, node: Node, *xs: Any) -> Any:
        if len(xs) == 2 or node.attrs.get("reverse") or self.vector("other").dim() != 2:
            raise self.refuse()
        return self.linear(xs[0], self.vector("other").T, None)

    def linear(self, x: Any, weight: Tensor, bias: Tensor | None) -> Any:
        if len(x.shape) > 2:
            return self._on_last(x, weight, bias)
        return self.layer(self.plain(x), weight, None, bias, (1, len(weight)))

    def _on_last(self, x: Any, weight: Tensor, bias: Tensor | None) -> Any:
        """A linear layer on channels that stand last, as a 1x1 convolution on images."""
        base = x.base if isinstance(x, Moved) else x
        channels, size = base.shape[1], math.prod(base.shape[2:])
        last = (
            places_of(base.shape).reshape(channels, size).T.reshape(x.shape[1:])
            if size * channels == math.prod(x.shape)
            else None
        )
        if last is None or not isinstance(x, Moved) or not np.array_equal(last, x.at):
            raise self.refuse(way_out="Matrix products on sequences have no spiking form here; use 1x1 convolutions.")
        image = base if len(base.shape) == 4 else self.reshaped(base, (1, channels, size, 1))
        attrs = {"stride": [1, 1], "pads": [0] * 4, "dilation": [1, 1], "groups": 1}
        made = self.conv(image, weight[:, :, None, None], attrs, bias, (1, len(weight), *image.shape[2:]))
        return Moved(made, places_of(made.shape).reshape(len(weight), size).T.reshape(*x.shape[1:-1], len(weight)))

    def op_batch_norm(self, node: Node, x: Any) -> Any:
        scale = torch.rsqrt(self.vector("var") + node.attrs["eps"])
        if "weight" in node.weights:
            scale = scale * self.vector("weight")
        offset = -self.vector("mean") * scale
        return self.affine(self.plain(x), scale, offset + self.vector("bias") if "bias" in node.weights else offset)

    def op_affine(self, node: Node, x: Any) -> Any:
        return self.affine(self.plain(x), self.vector("scale").reshape(-1), self.vector("bias").reshape(-1))

    def _constant(self, node: Node, x: Any) -> Tensor:
        if x.shape != node.spec.shape:
            raise self.refuse(way_out="A constant must not be larger than the tensor that it meets.")
        scalar = torch.tensor(float(node.attrs.get("scalar", 0.0)), dtype=torch.float64)
        value = self.vector("other") if "other" in node.weights else scalar
        return self.channels(value, x)

    def _sum(self, node: Node, a: Any, b: Any, sign: float) -> Any:
        shape = node.spec.shape
        a, b = self.expanded(a, shape), self.expanded(b, shape)
        if isinstance(a, Moved) and isinstance(b, Moved) and a.base.shape == b.base.shape and np.array_equal(a.at, b.at):
            return Moved(self._total(a.base, b.base, sign), a.at)
        return self._total(a, b, sign)

    def _total(self, a: Any, b: Any, sign: float) -> Any:
        left, right = self.current(a), self.current(b)
        if self.signed and left.terms and right.terms:  # codes of the input weigh too little beside spikes for 8 bits
            still = [all(t.source in self.still and not t.skip for t in r.terms) for r in (left, right)]
            spiking = [all(t.source not in self.still for t in r.terms) for r in (left, right)]
            if still[0] and spiking[1]:
                left = self.current(self.spikes(a))
            elif still[1] and spiking[0]:
                right = self.current(self.spikes(b))
        if left.post or right.post or left.shape != right.shape:
            image = [self.region(s.shape, (self.shortcut(s),)) for s in (self.image(a), self.image(b))]
            left, right = image
        right = right.affine(*self.both(right.shape[1], sign, 0.0))
        shape = a.shape
        terms: dict[Any, Term] = {}
        for term in (*left.terms, *right.terms):
            key = (term.source, term.op, term.weight.shape) if term.skip else id(term)
            known = terms.get(key)
            terms[key] = term if known is None else replace(term, weight=known.weight + term.weight)
        kept, bias = tuple(t for t in terms.values() if t.weight.any()), left.bias + right.bias
        square = len(kept) == 1 and kept[0].skip and kept[0].weight.numel() == shape[1] ** (2 if len(shape) == 2 else 1)
        if square and not bias.any() and left.shape == shape:  # nothing was added: the spikes themselves
            weight = kept[0].weight
            gain = weight.diagonal() if weight.dim() == 2 else weight.reshape(-1)
            signed = kept[0].source in self.negative or bool((gain < 0).any())
            return Spikes(kept[0].source, gain, torch.arange(len(gain)), shape, signed)
        region = self.region(left.shape, kept, bias)
        return Sum(region if left.shape == shape else region.then(self.made_of("reshape", shape, {})))

    def op_add(self, node: Node, *xs: Any) -> Any:
        if len(xs) == 2:
            return self._sum(node, *xs, 1.0)
        constant = self._constant(node, xs[0])
        return self.affine(xs[0], torch.ones_like(constant), constant)

    def op_sub(self, node: Node, *xs: Any) -> Any:
        if len(xs) == 2:
            return self._sum(node, *xs, -1.0)
        constant = self._constant(node, xs[0])
        sign = -1.0 if node.attrs.get("reverse") else 1.0
        return self.affine(xs[0], torch.full_like(constant, sign), -sign * constant)

    def op_mul(self, node: Node, *xs: Any) -> Any:
        if len(xs) == 2:
            raise self.refuse()
        constant = self._constant(node, xs[0])
        return self.affine(xs[0], constant, torch.zeros_like(constant))

    def op_div(self, node: Node, *xs: Any) -> Any:
        if len(xs) == 2 or node.attrs.get("reverse"):
            raise self.refuse()
        constant = 1.0 / self._constant(node, xs[0])
        return self.affine(xs[0], constant, torch.zeros_like(constant))

    def _activation(self, x: Any, signed: bool, cap: float | None) -> Any:
        if isinstance(x, Moved):
            return Moved(self._activation(x.base, signed, cap), x.at)
        if isinstance(x, Parts):
            return Parts([self._activation(v, signed, cap) for v in x.values], self.node.name, self.node.path, x.shape)
        if isinstance(x, Sum) and x.act is None:
            return Sum(replace(x.region, name=self.node.name, path=self.node.path), (signed, cap))
        if isinstance(x, Sum) and x.act is not None:  # the second clip of a clipped value
            caps = [c for c in (x.act[1], cap) if c is not None]
            return Sum(x.region, (x.act[0] and signed, min(caps) if caps else None))
        return Sum(self.current(x), (signed, cap))

    def op_relu(self, node: Node, x: Any) -> Any:
        return self._activation(x, False, None)

    def op_relu6(self, node: Node, x: Any) -> Any:
        return self._activation(x, False, 6.0)

    def op_hardtanh(self, node: Node, x: Any) -> Any:
        low, high = node.attrs["min"], node.attrs["max"]
        if high <= 0 or low not in (0, -high):
            bounds = f"Its bounds are {low} and {high}; a neuron clips at 0 and theta, or at -theta and theta. "
            raise self.refuse(way_out=bounds + APPROXIMATE)
        return self._activation(x, low != 0, float(high))

    def op_max_pool2d(self, node: Node, x: Any) -> Any:
        x = self.plain(x)
        if isinstance(x, Parts):
            parts = [self._pooled(v, replace(node, spec=Spec((1, v.shape[1], *node.spec.shape[2:])))) for v in x.values]
            return Parts(parts, node.name, node.path, node.spec.shape)
        return self._pooled(x, node)

    def _pooled(self, x: Any, node: Node) -> Any:
        x = self.plain(x)
        if isinstance(x, Parts):
            return self.op_max_pool2d(node, x)
        if isinstance(x, Sum):
            return Sum(replace(x.region, name=self.node.name, path=self.node.path).then(node), x.act)
        return Sum(self.current(x).then(node))

    def op_amax(self, node: Node, x: Any) -> Any:
        if len(x.shape) != 4 or node.attrs["dims"] != [2, 3]:
            raise self.refuse(way_out="Only the largest value over height and width of [N, C, H, W] converts.")
        size = list(x.shape[2:])
        attrs = {"kernel": size, "stride": size, "padding": [0, 0], "ceil": False}
        y = self.op_max_pool2d(self.made_of("max_pool2d", (*x.shape[:2], 1, 1), attrs), x)
        return y if node.attrs["keepdim"] else self.moved(y, places_of(node.spec.shape))

    def op_avg_pool2d(self, node: Node, x: Any) -> Any:
        a, x = node.attrs, self.plain(x)
        pad = a["padding"]
        if any(pad) and not a.get("count_include_pad", True):
            raise self.refuse(way_out="Padding must count in the average (count_include_pad=True).")
        floor = [(n + 2 * p - k) // t + 1 for n, p, k, t in zip(x.shape[2:], pad, a["kernel"], a["stride"], strict=True)]
        if list(node.spec.shape[2:]) != floor:
            raise self.refuse(way_out="Use ceil_mode=False.")
        return self.average(x, a["kernel"], a["stride"], pad, node.spec.shape)

    def average(self, x: Any, kernel: Sequence[int], stride: Sequence[int], pad: Sequence[int], shape: tuple[int, ...]) -> Any:
        merged = None if any(pad) else self.averaged(x, kernel, stride, shape)
        if merged is not None:
            return Sum(merged)
        s = self.spikes(x)
        if s.source in self.still or math.prod(kernel) > 127:  # sums that leave 8 bits
            weight = torch.full((shape[1], 1, *kernel), 1 / math.prod(kernel), dtype=torch.float64)
            window = {"stride": list(stride), "pads": [*pad, *pad], "dilation": [1, 1], "groups": shape[1]}
            return Sum(self.region(shape, (self.term(s, weight, window),)))
        attrs = {"kernel": list(kernel), "stride": list(stride), "padding": list(pad)}
        pooled = self.viewed(s, "sum_pool", attrs, shape)  # sums of spikes are whole numbers and need no neuron
        return replace(pooled, gain=pooled.gain / math.prod(kernel))

    def op_mean(self, node: Node, x: Any) -> Any:
        return self.reduced(node, x, math.prod(x.shape[d] for d in node.attrs["dims"]))

    def op_sum(self, node: Node, x: Any) -> Any:
        return self.reduced(node, x, 1)

    def reduced(self, node: Node, x: Any, divisor: int) -> Any:
        """The sum over some dimensions, divided: over the image, over rows or columns, or over channels."""
        rank, dims = len(x.shape), [d % len(x.shape) for d in node.attrs["dims"]]
        base, at = (x.base, x.at) if isinstance(x, Moved) else (x, places_of(x.shape))
        size, kept = math.prod(base.shape[2:]), [d - 1 for d in range(1, rank) if d not in dims]
        if 0 in dims:
            raise self.refuse(way_out="The batch cannot be summed over.")
        groups = at.transpose(*kept, *(d - 1 for d in dims)).reshape(*(at.shape[d] for d in kept), -1)
        channel, place = groups // size, np.sort(groups % size, -1)
        target = node.spec.shape
        if groups.shape[-1] == size and (channel == channel[..., :1]).all() and (place == np.arange(size)).all():
            s = self.image(base)
            if size > 1:
                name = self.view("isum", (s.source,), {}, (1, len(s.gain), 1, 1))
                s = replace(s, source=name, shape=(*base.shape[:2], 1, 1))
            made = replace(s, gain=s.gain / divisor)
            return self.moved(made, channel[..., 0].reshape(target[1:]))
        if (place == place[..., :1]).all() and groups.size == math.prod(base.shape):
            owner = np.empty(base.shape[1], np.int64)
            first = groups[..., 0].reshape(-1, size) % size if groups[..., 0].size % size == 0 else None
            if first is not None and (first == np.arange(size)).all():
                owner[channel.reshape(-1, size, groups.shape[-1])[:, 0].reshape(-1)] = np.repeat(
                    np.arange(len(first)), groups.shape[-1]
                )
                s = self.spikes(base)
                made = replace(
                    s, gain=s.gain / divisor, index=torch.from_numpy(owner)[s.index], shape=(1, len(first), *base.shape[2:])
                )
                return self.moved(made, places_of(target))
        if base is x and rank == 4 and set(dims) < {2, 3}:
            kernel = [x.shape[d] if d in dims else 1 for d in (2, 3)]
            made = self.average(x, kernel, kernel, (0, 0), tuple(1 if d in dims else n for d, n in enumerate(x.shape)))
            made = self.affine(made, *self.both(x.shape[1], math.prod(kernel) / divisor, 0.0))
            return made if node.attrs["keepdim"] else self.moved(made, places_of(target))
        raise self.refuse(way_out="Only sums and means over the image or over whole channels convert.")

    def op_cat(self, node: Node, *xs: Any) -> Any:
        xs = tuple(self.plain(x) for x in xs)
        if node.attrs["dim"] == 1:
            return Parts(list(xs), node.name, node.path, node.spec.shape)
        if len(node.spec.shape) != 4 or node.attrs["dim"] == 0:
            raise self.refuse(way_out="Only concatenations of channels, rows or columns convert.")
        side, terms, before, whole = node.attrs["dim"] - 2, [], 0, node.spec.shape[node.attrs["dim"]]
        for x in xs:
            pads, size = [0] * 4, x.shape[2 + side]
            pads[side], pads[2 + side] = before, whole - before - size
            term = self.shortcut(self.spikes(x))
            terms.append(replace(term, attrs={**term.attrs, "pads": pads}, skip=False))
            before += size
        return Sum(self.region(node.spec.shape, tuple(terms)))

    def op_pad(self, node: Node, x: Any) -> Any:
        pads = [*node.attrs["pad"], 0, 0, 0, 0, 0, 0][:6]
        if node.attrs.get("value", 0.0) or any(node.attrs["pad"][6:]) or len(x.shape) != 4:
            raise self.refuse(way_out="Only zeros around images [N, C, H, W], or channels of zeros, can be padded with.")
        s, shape = self.spikes(x), node.spec.shape
        if any(pads[:4]):
            s = self.viewed(s, "pad", {"pad": pads[:4]}, (*s.shape[:2], *shape[2:]))
        return replace(s, index=s.index + pads[4], shape=shape) if any(pads[4:]) else s

    def op_interpolate(self, node: Node, x: Any) -> Any:
        a, (h, w), (oh, ow) = node.attrs, x.shape[2:], node.spec.shape[2:]
        if a["mode"] == "nearest":
            rows, columns = (np.arange(out) * size // out for out, size in ((oh, h), (ow, w)))
            return self.moved(x, places_of(x.shape)[:, rows][:, :, columns])
        if a["mode"] != "bilinear" or a["align_corners"] or oh % h or ow % w:
            raise self.refuse(way_out="Only nearest, and bilinear by whole factors without aligned corners, convert.")
        factors = (oh // h, ow // w)
        kernels, paddings = zip(*(self._ramp(f) for f in factors), strict=True)
        rows, columns = (np.arange(-1, size + 1).clip(0, size - 1) for size in (h, w))
        framed = self.plain(self.moved(x, places_of(x.shape)[:, rows][:, :, columns]))
        weight = (kernels[0][:, None] * kernels[1]).expand(x.shape[1], 1, -1, -1)
        pads = [p + f for p, f in zip(paddings, factors, strict=True)]
        extra = [f + 2 * p - len(k) for f, p, k in zip(factors, paddings, kernels, strict=True)]
        return self.spread(framed, weight, factors, pads, extra, (1, 1), x.shape[1], None, node.spec.shape)

    @staticmethod
    def _ramp(factor: int) -> tuple[Tensor, int]:
        """The kernel of linear interpolation in one dimension, and where it starts before its pixel."""
        one = torch.zeros(1, 1, 9, dtype=torch.float64)
        one[0, 0, 4] = 1
        wide = F.interpolate(one, scale_factor=factor, mode="linear", align_corners=False).reshape(-1)
        places = wide.nonzero().reshape(-1)
        return wide[places[0] : places[-1] + 1], 4 * factor - int(places[0])


def read(graph: Graph, signed: bool = True) -> Program:
    """The program of a float graph with one input [N, C, H, W] or [N, C]; `signed` allows bipolar neurons at linear points.

    Raises:
        Unsupported: the first operation that cannot become spikes, with its module's path and its line.
    """
    reader = _Reader(graph, signed)
    program = reader.read()
    if program is None:
        raise reader.errors[0]
    return program


def unsupported(graph: Graph, signed: bool = True) -> list[str]:
    """Why `graph` cannot be converted: one sentence for each operation that stands in the way, in the order of the graph, with
    its module's path, its line and the way out; none where it can be."""
    if not graph.values and graph.params:
        graph = graph.replace(graph.nodes, values={k: np.ones(s.shape, np.float32) for k, s in graph.params.items()})
    reader = _Reader(graph, signed)
    reader.read()
    return list(dict.fromkeys(str(error) for error in reader.errors))
