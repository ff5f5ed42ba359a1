"""BiPFT: binary transformers whose attention estimates what binarisation has left out.

    linear layers    y[o] = alpha * m[o] * sum sign(w - mean(w)) sign(x + b),     m[o] = mean|w - mean(w)|
    scores           s = alpha_s * sign(q) sign(k)' + q_m k_p' + q_p k_m' + q_p k_p'
    values           o = alpha_v * B sign(v) + softmax(s) v_p,     B = [softmax(s) >= theta * max]

Activations are elastic: b[c] is learnt for each feature and alpha for each layer, ``d(alpha sign(x))/dx = [|x| <= alpha]``, and
the gradient for alpha is divided by the root of the number of inputs. q_m, q_p, k_m, k_p and v_p are linear maps of the
attention's input to one number a token and head: the binarisation residual of the scores,
(Q_m + Q_p)(K_m + K_p)' - Q_m K_m', with every factor estimated by rank one. They have 8 bits; v_p starts at zero.

Computed as ``q_m k_p' + q_p k_n'`` with k_n = k_m + k_p. Both products start from the singular vectors of the residual on
calibration data: of rank two, with the least squared error.

Differs from the paper: fine-tunes the user's network in place of binary pre-training; the attention is binarised as in BiViT.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from netwright.compress.binarise.attention import (
    FAR,
    SAMPLES,
    Attention,
    AttentionBinariser,
    Seen,
    Sketch,
    best_factor,
    gate_factor,
    score_factor,
)
from netwright.compress.binarise.binariser import BinaryLayer
from netwright.compress.binarise.estimators import ClippedSign, ShapedSign
from netwright.compress.compressor import Stage
from netwright.compress.plan import channel_axis
from netwright.compress.trainee import Trainee
from netwright.core.graph import Graph, Node, Spec
from netwright.core.paper import Paper


def slope(a: Tensor, alpha: Tensor) -> Tensor:
    """The gradient of an elastic sign, ``d sign(a)/da = [|a| <= alpha] / alpha``: that of clip(a / alpha, -1, 1)."""
    return (a.abs() <= alpha) / alpha


def damped(x: Tensor, factor: float) -> Tensor:
    """x, with its gradient times `factor`."""
    return x * factor + (x * (1 - factor)).detach()


class BiPFTLayer(BinaryLayer):
    """Centred weights and elastic activations."""

    def __init__(self, node: Node, weight: np.ndarray, bias: np.ndarray | None):
        super().__init__(node, weight, bias)
        self.alpha = nn.Parameter(torch.ones(()))

    def latent(self) -> Tensor:
        return self.weight - self.per_channel(self.weight.flatten(1).mean(1))

    def binary(self) -> Tensor:
        return ClippedSign.apply(self.latent())

    @property
    def scale(self) -> Tensor:
        size = self.latent().detach().abs().flatten(1).mean(1).clamp(min=1e-8)
        alpha = damped(self.alpha, self.weight[0].numel() ** -0.5)
        return size * torch.where(self.alpha.abs() < 1e-8, torch.full_like(alpha, 1e-8), alpha)

    def sign(self, a: Tensor) -> Tensor:
        return ShapedSign.apply(a, slope(a.detach(), self.alpha.detach().abs().clamp(min=1e-8)))


def moved(graph: Graph, binary: set[str]) -> Graph:
    """A learnt shift of every feature in front of the nodes of `binary`."""
    params, values, nodes = dict(graph.params), dict(graph.values), []
    for node in graph:
        if node.name in binary:
            source = graph[node.inputs[0]]
            shape = [1] * len(source.spec.shape)
            shape[channel_axis(len(shape))] = source.spec.shape[channel_axis(len(shape))]
            name, key = f"{node.name}_move", f"{node.name}.move"
            values[key], params[key] = np.zeros(shape, np.float32), Spec(tuple(shape))
            nodes.append(Node(name, "add", (source.name,), source.spec, {}, {"other": key}, 0, node.path))
            node = replace(node, inputs=(name,))
        nodes.append(node)
    return graph.replace(nodes, params=params, values=values)


@torch.no_grad()
def low_rank(x: Tensor, residual: Tensor, rank: int = 2) -> tuple[Tensor, Tensor]:
    """Maps of x [N, T, C] with ``(x l)(x r)'`` near to residual [N, H, T, T]: l, r [H, C, rank].

    ``M = G^-1 (sum x' R x) G^-1 / N`` with the mean Gram matrix G = L L' of the inputs; the largest singular values of L' M L.
    """
    gram = (x.mT @ x).double().mean(0)
    gram = gram + torch.eye(len(gram)).to(gram) * gram.diagonal().mean() * 1e-2
    root = torch.linalg.cholesky(gram)
    inner = (x.mT[:, None] @ residual @ x[:, None]).double().mean(0)
    half = torch.linalg.solve_triangular(root, inner, upper=False)
    core = torch.linalg.solve_triangular(root, half.mT, upper=False).mT
    u, s, v = torch.linalg.svd(core)
    left, right = (m[..., :rank] * s[..., None, :rank].sqrt() for m in (u, v.mT))
    first, second = (torch.linalg.solve_triangular(root.mT, m, upper=True).float() for m in (left, right))
    return first, second


@dataclass(frozen=True)
class BiPFT(AttentionBinariser):
    """Binary transformers with low-rank estimates of the residual.

    Attributes:
        threshold: theta, the share of a row's largest attention from which on B is 1.
    """

    threshold: float = 0.25

    name: ClassVar[str] = "bipft"
    stages: ClassVar[tuple[Stage, ...]] = (Stage("bipft", 1.0, 3e-3),)
    paper: ClassVar[Paper] = Paper(
        "xing2024bipft",
        "BiPFT: Binary Pre-trained Foundation Transformer with Low-rank Estimation of Binarization Residual Polynomials",
        "Xing, Xingrun and Du, Li and Wang, Xinyuan and Zeng, Xianlin and Wang, Yequan and Zhang, Zheng and Zhang, Jiajun",
        "AAAI",
        2024,
        "https://arxiv.org/abs/2312.08937",
        "S162",
    )

    def layer(self, node: Node, weight: np.ndarray, bias: np.ndarray | None) -> BinaryLayer:
        return BiPFTLayer(node, weight, bias)

    def signed(self, graph: Graph, binary: set[str]) -> Graph:
        return moved(super().signed(graph, binary), binary)

    def estimates(self, sketch: Sketch, a: Attention, name: str, count: int, dims: tuple[int, ...]) -> str:
        """A linear map of the attention's input to `count` numbers a token and head: [N, T, heads, count] permuted by `dims`."""
        assert a.source is not None
        _, tokens, width = sketch.shapes[a.source]
        heads = a.a_head[1]
        weight, bias = np.zeros((heads * count, width)), np.zeros(heads * count)
        macs = tokens * width * heads * count
        flat = sketch.add(name, "linear", (a.source,), (1, tokens, heads * count), {}, macs, weight=weight, bias=bias)
        shape = (1, tokens, heads, count)
        split = sketch.add(f"{name}_heads", "reshape", (flat,), shape)
        out = sketch.add(f"{name}_turned", "permute", (split,), tuple(shape[d] for d in dims), {"dims": list(dims)})
        if len(a.scores) == 4:
            return out
        return sketch.add(f"{name}_single", "reshape", (out,), (1, *(shape[d] for d in dims[2:])))

    def write(self, sketch: Sketch, a: Attention) -> str:
        scores = sketch.scores(a)
        if a.source is None:
            return sketch.gated(a, sketch.gate(a, sketch.masked(a, scores), self.threshold))
        left, right = (self.estimates(sketch, a, n, 2, d) for n, d in (("left", (0, 2, 1, 3)), ("right", (0, 2, 3, 1))))
        residual = sketch.product("residual", left, right, None)
        scores = sketch.masked(a, sketch.add("whole", "add", (scores, residual), a.scores))
        gated = sketch.gated(a, sketch.gate(a, scores, self.threshold), "binary")
        soft = sketch.add("soft", "softmax", (scores,), a.scores, {"dim": len(a.scores) - 1})
        rest = sketch.product("rest", soft, self.estimates(sketch, a, "values_rest", 1, (0, 2, 1, 3)), None)
        return sketch.add("", "add", (gated, rest), a.node.spec.shape)

    @torch.no_grad()
    def fit_attention(self, a: Attention, tensors: Seen) -> dict[str, Tensor]:
        factor, scores = score_factor(a, tensors)
        if tensors.source is None:
            return {f"{a.name}_scale.other": factor, f"{a.name}.other": gate_factor(a, tensors, scores, self.threshold)}
        mask = torch.zeros(1) if a.mask is None else torch.from_numpy(a.mask)
        real = tensors.q @ tensors.k.mT * a.scale + mask
        allowed = (mask > FAR / 2).to(real)
        x = torch.cat([tensors.source, torch.ones_like(tensors.source[..., :1])], -1)
        missing = ((real - scores) * allowed).reshape(len(x), a.a_head[1], *a.scores[-2:])
        left, right = low_rank(x, missing)
        estimate = ((x[:, None] @ left) @ (x[:, None] @ right).mT).reshape(real.shape)
        fit = best_factor(missing.reshape(real.shape), estimate * allowed, a)
        left = left * fit.reshape(-1, 1, 1)
        found = {f"{a.name}_scale.other": factor}
        for name, maps in (("left", left), ("right", right)):
            rows = maps.mT.reshape(-1, x.shape[-1])
            found |= {f"{a.name}_{name}.weight": rows[:, :-1], f"{a.name}_{name}.bias": rows[:, -1]}
        found[f"{a.name}_binary.other"] = gate_factor(a, tensors, scores + estimate * fit, self.threshold)
        return found

    def prepare(self, module: nn.Module, example: Tensor, calibration: Tensor) -> Trainee:
        trainee = super().prepare(module, example, calibration)
        readers = trainee.plan.graph.consumers()

        def visit(node: Node, out: Tensor) -> None:
            for reader in readers[node.name]:
                layer = trainee.layer(reader.name) if reader.name in trainee.names else None
                if isinstance(layer, BiPFTLayer):
                    layer.alpha.data.fill_(max(1e-8, float(out.abs().mean())))

        trainee.eval()
        with torch.no_grad():
            trainee.body(calibration[:SAMPLES], visit=visit)
        trainee.calibrate(calibration)
        return trainee.train()
