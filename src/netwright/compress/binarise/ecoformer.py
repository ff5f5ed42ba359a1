"""EcoFormer: attention between hashed queries and keys, with linear cost.

    H(x) = sign(A (kappa(x) - mu)),    kappa_m(x) = exp(-|x - anchor_m|^2 / (2 sigma^2)),    x = q/|q| or k/|k|
    o_i  = sum_j (<H(q_i), H(k_j)> + bits) v_j / sum_j (<H(q_i), H(k_j)> + bits)

H is the same for queries and keys of a head. With phi(q) = [H(q), bits] and phi(k) = [H(k), 1] it is phi(q) (phi(k)' v) over
phi(q) sum phi(k): the product of codes and values comes first, and no matrix of all pairs exists. Codes -1, +1 times 8-bit
values have exact sums; the second product is in float, additions and subtractions of those sums.

A is fitted greedily, bit by bit, to labels of pairs: +1 for each query's most similar keys, -1 for the least similar ones, 0
between. With R = bits * Y minus what the bits before it explain, a bit's a maximises ``tanh(K_q a)' R tanh(K_k a)``, from the
largest eigenvector of the quadratic form without tanh. Training sees H with the gradient ``g * [|h| <= 1]``, h scaled to a
standard deviation of 1.

Differs from the paper: anchors and A are fitted once, to the float network, not again in training; the network keeps its own q
and k; a masked (causal) attention is computed in its quadratic form, with one bit a code; linear layers are binary too (plain
straight-through estimator), or 8-bit with ``keep_linear=True``, nearer to the paper, which leaves them in float.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from netwright.compress.binarise.attention import TOP, Attention, AttentionBinariser, Seen, SignProduct, Sketch
from netwright.compress.binarise.binariser import BinaryLayer
from netwright.compress.binarise.ste import STELayer
from netwright.compress.coded import signs
from netwright.compress.compressor import Stage
from netwright.core.graph import Graph, Node
from netwright.core.paper import Paper

STEEP = 2.0**20  # h times this, clipped at -1 and 1, is sign(h)
PAIRS, SHARE = 96, 0.1  # queries and keys of a fit; share of keys that count as similar, and as not similar


class HashSign(torch.autograd.Function):
    """sign(u) of u = STEEP * h; gradient ``g * [|h| <= 1]`` for h, which is that for u divided by STEEP."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return signs(torch.round(u * TOP))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return g * (u.abs() <= STEEP) / STEEP


class Hash(nn.Module):
    """Stands for the clip behind a hash: -1 and +1 already, with the gradient of `HashSign`."""

    def forward(self, u: Tensor) -> Tensor:
        return HashSign.apply(u)


@dataclass(frozen=True)
class Hashing:
    """The hash functions of all heads: anchors [H, M, D], sigma and mu [H, 1, 1 or M], a [H, M, bits]."""

    anchors: Tensor
    sigma: Tensor
    mu: Tensor
    a: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """h of normalised x [..., H, T, D]: what the codes are the signs of."""
        return (kernel(x, self.anchors, self.sigma) - self.mu) @ self.a


def kernel(x: Tensor, anchors: Tensor, sigma: Tensor) -> Tensor:
    """``exp(-|x - anchor|^2 / (2 sigma^2))``."""
    return torch.exp(-(torch.cdist(x, anchors.expand(*x.shape[:-2], -1, -1)) ** 2) / (2 * sigma**2))


def linear_attention(hq: Tensor, hk: Tensor, v: Tensor) -> Tensor:
    """Attention of codes [..., T, bits], the product with v first."""
    left = torch.cat([hq, torch.full_like(hq[..., :1], hq.shape[-1])], -1)
    right = torch.cat([hk, torch.ones_like(hk[..., :1])], -1).mT
    return left @ (right @ v) / (left @ right.sum(-1, keepdim=True)).clamp(min=1)


def labels(similarity: Tensor, share: float) -> Tensor:
    """+1 for the largest share of each row, -1 for the smallest, 0 between."""
    count = max(1, round(share * similarity.shape[-1]))
    order = torch.sort(similarity, dim=-1, descending=True, stable=True).indices
    out = torch.zeros_like(similarity)
    return out.scatter(-1, order[..., :count], 1.0).scatter(-1, order[..., -count:], -1.0)


@torch.no_grad()
def fit_bits(kq: Tensor, kk: Tensor, y: Tensor, bits: int, iterations: int) -> Tensor:
    """a [H, M, bits] from centred kernels of queries and keys [H, P, M] and labels [H, P, P]."""
    rest, found = bits * y, []
    both = kq.mT @ kq + kk.mT @ kk
    both = both + torch.eye(both.shape[-1]) * (both.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None] * 1e-3 + 1e-12)
    root = torch.linalg.cholesky(both)
    pool = torch.cat([kq, kk], 1)

    def even(a: Tensor) -> Tensor:
        return a / (pool @ a).std(1, keepdim=True).clamp(min=1e-12)

    def gain(a: Tensor) -> Tensor:
        return (signs(kq @ a).mT @ rest @ signs(kk @ a))[:, 0, 0]

    for _ in range(bits):
        form = kq.mT @ rest @ kk
        half = torch.linalg.solve_triangular(root, form + form.mT, upper=False)
        core = torch.linalg.solve_triangular(root, half.mT, upper=False)
        top = torch.linalg.eigh((core + core.mT) / 2).eigenvectors[..., -1:]
        first = a = even(torch.linalg.solve_triangular(root.mT, top, upper=True))
        for i in range(iterations):
            hq, hk = torch.tanh(kq @ a), torch.tanh(kk @ a)
            step = kq.mT @ ((rest @ hk) * (1 - hq**2)) + kk.mT @ ((rest.mT @ hq) * (1 - hk**2))
            size = a.norm(dim=1, keepdim=True) / step.norm(dim=1, keepdim=True).clamp(min=1e-12)
            a = a + 0.1 * (1 - i / iterations) * size * step
        a = even(a)
        a = torch.where((gain(a) >= gain(first))[:, None, None], a, first)
        rest = rest - signs(kq @ a) @ signs(kk @ a).mT
        found.append(a)
    return torch.cat(found, -1)


@torch.no_grad()
def fit_hashing(q: Tensor, k: Tensor, bits: int, anchors: int, iterations: int) -> Hashing:
    """Hash functions for normalised queries and keys [N, H, T, D]."""
    generator = torch.Generator().manual_seed(0)
    sets = []
    for x in (q, k):
        flat = x.transpose(0, 1).flatten(1, 2)
        sets.append(flat[:, torch.randint(0, flat.shape[1], (PAIRS,), generator=generator)])
    pool = torch.cat(sets, 1)
    chosen = pool[:, torch.randperm(pool.shape[1], generator=generator)[:anchors]]
    sigma = torch.cdist(pool, chosen).mean((1, 2), keepdim=True).clamp(min=1e-6)
    mu = kernel(pool, chosen, sigma).mean(1, keepdim=True)
    kq, kk = (kernel(x, chosen, sigma) - mu for x in sets)
    return Hashing(chosen, sigma, mu, fit_bits(kq, kk, labels(sets[0] @ sets[1].mT, SHARE), bits, iterations))


@dataclass(frozen=True)
class EcoFormer(AttentionBinariser):
    """Transformers with hashed linear attention.

    Attributes:
        bits: of a hash code.
        anchors: points that a token is compared with.
        iterations: gradient steps for each bit's hash function.
        keep_linear: linear layers and convolutions in 8 bits; attention alone is hashed.
    """

    bits: int = 16
    anchors: int = 25
    iterations: int = 100
    keep_linear: bool = False

    name: ClassVar[str] = "ecoformer"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("ecoformer", 1.0, 3e-3),)
    paper: ClassVar[Paper] = Paper(
        "liu2022ecoformer",
        "EcoFormer: Energy-Saving Attention with Linear Complexity",
        "Liu, Jing and Pan, Zizheng and He, Haoyu and Cai, Jianfei and Zhuang, Bohan",
        "NeurIPS",
        2022,
        "https://arxiv.org/abs/2209.09004",
        "S195",
    )

    def layer(self, node: Node, weight: np.ndarray, bias: np.ndarray | None) -> BinaryLayer:
        return STELayer(node, weight, bias)

    def binary_nodes(self, graph: Graph) -> set[str]:
        return set() if self.keep_linear else super().binary_nodes(graph)

    def hashed(self, sketch: Sketch, a: Attention, x: str, name: str, constants: tuple[str, ...]) -> str:
        shape = sketch.shapes[x]
        flat, last = (*shape[:-1], 1), [len(shape) - 1]
        anchors, offset, weights, threshold = constants
        square = sketch.add(f"{name}_square", "mul", (x, x), shape)
        size = sketch.add(f"{name}_size", "sum", (square,), flat, {"dims": last, "keepdim": True})
        safe = sketch.add(f"{name}_safe", "add", (size,), flat, {"scalar": 1e-12})
        inverse = sketch.add(f"{name}_inverse", "rsqrt", (safe,), flat)
        unit = sketch.add(f"{name}_unit", "mul", (x, inverse), shape)
        near = sketch.product(f"{name}_near", unit, anchors, None)
        power = sketch.add(f"{name}_power", "sub", (near, offset), sketch.shapes[near])
        kappa = sketch.add(f"{name}_kappa", "exp", (power,), sketch.shapes[near])
        sums = sketch.product(f"{name}_sums", kappa, weights, None)
        h = sketch.add(f"{name}_h", "sub", (sums, threshold), sketch.shapes[sums])
        return sketch.add(f"{name}_hash", "hardtanh", (h,), sketch.shapes[h], {"min": -1.0, "max": 1.0})

    def write(self, sketch: Sketch, a: Attention) -> str:
        lead, width = a.scores[:-2], a.shapes[0][-1]
        shapes = {"anchors": (width, self.anchors), "offset": (1, 1), "weights": (self.anchors, self.bits), "cut": (1, self.bits)}
        constants = tuple(sketch.constant(name, np.zeros((*lead, *shape))) for name, shape in shapes.items())
        q, k, v = a.node.inputs
        hq, hk = (self.hashed(sketch, a, x, name, constants) for x, name in ((q, "q"), (k, "k")))
        turned, out = sketch.turned("turned", hk), a.node.spec.shape
        rank, flat = len(a.scores), (*a.scores[:-1], 1)
        if a.mask is None:
            ones = sketch.constant("ones", np.ones((*lead, 1, a.scores[-1])))
            offsets = sketch.constant("bits", np.full(flat, float(self.bits)))
            left = sketch.add("left", "cat", (hq, offsets), (*a.scores[:-1], self.bits + 1), {"dim": rank - 1})
            right = sketch.add("right", "cat", (turned, ones), (*lead, self.bits + 1, a.scores[-1]), {"dim": rank - 2})
            gathered = sketch.product("gathered", right, v, "codes")
            attrs = {"dims": [rank - 1], "keepdim": True}
            counted = sketch.add("counted", "sum", (right,), (*lead, self.bits + 1, 1), attrs)
            above, below = (sketch.product(n, left, x, None) for n, x in (("above", gathered), ("below", counted)))
        else:
            codes = sketch.product("scores", hq, turned, "signs")
            raised = sketch.add("raised", "add", (codes,), a.scores, {"scalar": float(self.bits)})
            visible = sketch.constant("visible", np.exp(a.mask))
            similar = sketch.add("similar", "mul", (raised, visible), a.scores)
            below = sketch.add("below", "sum", (similar,), flat, {"dims": [rank - 1], "keepdim": True})
            above = sketch.product("above", similar, v, None)
        safe = sketch.add("safe", "maximum", (below,), flat, {"scalar": 1.0})  # sums are even: 0 where nothing is similar
        return sketch.add("", "div", (above, safe), out)

    def stand(self, name: str) -> dict[str, nn.Module]:
        return {f"{name}_q_hash": Hash(), f"{name}_k_hash": Hash(), f"{name}_scores": SignProduct(whole=2)}

    @torch.no_grad()
    def fit_attention(self, a: Attention, tensors: Seen) -> dict[str, Tensor]:
        units = [x / x.norm(dim=-1, keepdim=True).clamp(min=1e-6) for x in (tensors.q, tensors.k)]
        q, k = (x.reshape(len(x), a.a_head[1], *x.shape[-2:]) for x in units)
        hashing = fit_hashing(q, k, self.bits, self.anchors, self.iterations)
        inverse = 1 / hashing.sigma**2  # -|x - m|^2/2 = x m - 1 for vectors of length 1
        found = {
            "anchors": (hashing.anchors * inverse).mT,
            "offset": inverse,
            "weights": hashing.a * STEEP,
            "cut": hashing.mu @ hashing.a * STEEP,
        }
        return {f"constant.{a.name}_{n}": x.reshape(*a.scores[:-2], *x.shape[1:]) for n, x in found.items()}
