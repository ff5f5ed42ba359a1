"""Refit: the weights of a region by least squares, for the spikes that really arrive.

The float network feeds a region with activations x, the spiking one with their decoded mean x~ over T steps, which is rounded,
clipped and late. The weights that make the best of it, with a price on moving them,

    W~, b~ = argmin  E |z(x) - (W~ x~ + b~)|^2 + rho var |W~ - W|^2

have a closed form from one pass. Behind a rectifier only the positive part of z matters: where z < 0 any negative sum is as
good, so there the wanted value is min(W~ x~ + b~, 0), in `rounds` of alternation. Shortcuts and depthwise terms stay.

Li et al. 2021 move weights layer by layer with gradients for the same end ("advanced pipeline").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from netwright.spike.convert.program import Region, Term

IMAGES = 64  # whose windows are unfolded at a time
TRAIN = 0.75  # of the images choose the weights that the others judge


def columns(term: Term, x: Tensor, pixels: Tensor, spatial: int) -> Tensor:
    """The inputs [P, K] that the term's weight [O, K] meets at the chosen positions (image * spatial + pixel, ascending)."""
    if term.op == "linear":
        return x[pixels]
    a, rows = term.attrs, []
    top, left, bottom, right = a["pads"]
    for i in range(0, len(x), IMAGES):
        part = F.pad(x[i : i + IMAGES], (left, right, top, bottom))
        windows = F.unfold(part, term.weight.shape[2:], a["dilation"], 0, a["stride"]).transpose(1, 2).flatten(0, 1)
        here = pixels[(pixels >= i * spatial) & (pixels < (i + IMAGES) * spatial)]
        rows.append(windows[here - i * spatial])
    return torch.cat(rows)


@dataclass(frozen=True, eq=False)
class Ridge:
    """Least squares with a price on the weights, for any right side and any price: from one eigendecomposition.

    w, b = argmin  mean |r - (w x + b)|^2 + rho var |w|^2,      x [P, K],  r [P, O],  var the mean variance of an input
    """

    x: Tensor
    mean: Tensor
    values: Tensor
    vectors: Tensor
    var: float
    wide: bool

    @staticmethod
    def of(x: Tensor) -> Ridge:
        mean = x.mean(0)
        x = x - mean
        wide = x.shape[1] > len(x)
        values, vectors = torch.linalg.eigh(((x @ x.T if wide else x.T @ x) / len(x)).double())
        return Ridge(x, mean, values.clamp(min=0), vectors, float(x.square().mean()) + 1e-12, wide)

    def solve(self, r: Tensor, rho: float) -> tuple[Tensor, Tensor]:
        """w [O, K] and b [O]."""
        middle = r.mean(0)
        right = ((r - middle) if self.wide else self.x.T @ (r - middle)).double() / len(r)
        w = self.vectors @ ((self.vectors.T @ right) / (self.values + rho * self.var)[:, None])
        w = (self.x.T @ w.float() if self.wide else w.float()).T
        return w, middle - w @ self.mean


def refit(
    region: Region,
    fed: Mapping[str, Tensor],
    wanted: Tensor,
    *,
    rectified: bool,
    prices: Sequence[float],
    points: int,
    rounds: int,
    generator: torch.Generator,
) -> Region:
    """The region with new weights and bias.

    Args:
        fed: source -> what arrives from it on average, [N, C, ...] in the float network's units.
        wanted: what the region gives in the float network before pooling, [N, O, ...].
        rectified: whether only the positive part of `wanted` matters.
        prices: candidates of rho; the one is taken that predicts the last quarter of the images best from the others.
        points: positions (image and pixel) that are looked at, at most.
    """
    free = [i for i, t in enumerate(region.terms) if not t.skip and (t.op == "linear" or t.attrs["groups"] == 1)]
    if not free:
        return region
    spatial = wanted[0, 0].numel()
    total = len(wanted) * spatial
    pixels = torch.randperm(total, generator=generator)[:points].sort().values

    def rows(v: Tensor) -> Tensor:
        return v.flatten(2).transpose(1, 2).flatten(0, 1)[pixels] if v.dim() > 2 else v[pixels]

    given = region.bias.to(wanted.dtype).reshape(-1, *[1] * (wanted.dim() - 2)).expand_as(wanted)
    for i, term in enumerate(region.terms):
        if i not in free:
            given = given + term(fed[term.source])
    parts = [columns(region.terms[i], fed[region.terms[i].source], pixels, spatial) for i in free]
    x, z, given = torch.cat(parts, 1), rows(wanted), rows(given)
    old = torch.cat([region.terms[i].weight.flatten(1) for i in free], 1).to(x.dtype)
    base = x @ old.T + given

    def lacking(z: Tensor, sums: Tensor) -> Tensor:
        return (torch.where(z > 0, z, sums.clamp(max=0)) if rectified else z) - sums

    train = int((pixels < total * TRAIN).sum())  # whole images, the first ones
    half, errors = Ridge.of(x[:train]), []
    wanted_by_half = lacking(z[:train], base[:train])
    for rho in prices:
        w, b = half.solve(wanted_by_half, rho)
        errors.append(float(lacking(z[train:], base[train:] + x[train:] @ w.T + b).square().mean()))
    rho = prices[errors.index(min(errors))]
    whole, sums = Ridge.of(x), base
    for _ in range(rounds + 1):
        w, b = whole.solve(lacking(z, sums) + sums - base, rho)
        sums = base + x @ w.T + b
    terms = list(region.terms)
    for i, part in zip(free, (old + w).split([p.shape[1] for p in parts], 1), strict=True):
        terms[i] = replace(terms[i], weight=part.reshape(terms[i].weight.shape).double())
    return replace(region, terms=tuple(terms), bias=region.bias + b.double())
