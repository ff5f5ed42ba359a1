"""Binary transformers: equation = gradient = test, and the integer graph compiled to C against PyTorch."""

from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from netwright.compress import BiPFT, BiReal, BiViT, EcoFormer
from netwright.compress.binarise import bipft, ecoformer
from netwright.compress.binarise.attention import SignProduct, SoftmaxGate, attentions, batch_first, gathered, projections
from netwright.compress.binarise.bipft import BiPFTLayer, low_rank
from netwright.compress.binarise.bivit import BiViTLayer
from netwright.compress.binarise.estimators import ShapedSign
from netwright.compress.coded import signs
from netwright.core.graph import Graph, Node, Spec
from netwright.deploy import c99
from netwright.design import trace
from netwright.design.execute import GraphModule
from netwright.testing.compress import few_steps

METHODS = {"bivit": BiViT(), "bipft": BiPFT(), "ecoformer": EcoFormer(iterations=10)}
GRID = torch.linspace(-2, 2, 401, dtype=torch.float64)
SIGN = torch.where(GRID >= 0, 1.0, -1.0).double()
TOKENS, WORDS, WIDTH = 12, 10, 16


class Mixed(nn.Module):
    """softmax(q k' / sqrt(d) + mask) v by one operation, or written out."""

    def __init__(self, heads: int, causal: bool, by_hand: bool):
        super().__init__()
        self.heads, self.causal, self.by_hand = heads, causal, by_hand
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).split(c, -1)
        if self.heads > 1:
            q, k, v = (y.view(n, t, self.heads, c // self.heads).transpose(1, 2) for y in (q, k, v))
        if self.by_hand:
            out = torch.softmax((q @ k.transpose(-2, -1)) / math.sqrt(q.shape[-1]), -1) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.proj(out.transpose(1, 2).reshape(n, t, c) if self.heads > 1 else out)


class Language(nn.Module):
    """One block of a causal language model: one-hot tokens [N, T, V] -> scores of the next ones [N, T, V]."""

    def __init__(self, heads: int = 2, causal: bool = True, by_hand: bool = False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embed = nn.Linear(WORDS, WIDTH, bias=False)
            self.place = nn.Parameter(torch.randn(1, TOKENS, WIDTH) * 0.3)
            self.first, self.second, self.last = (nn.LayerNorm(WIDTH) for _ in range(3))
            self.mixed = Mixed(heads, causal, by_hand)
            self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
            self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x) + self.place
        x = x + self.mixed(self.first(x))
        return self.head(self.last(x + self.mlp(self.second(x))))


def text(count: int = 8) -> torch.Tensor:
    """One-hot sequences in which every word follows from the one before it."""
    start = torch.arange(count) % WORDS
    return F.one_hot((start[:, None] + 3 * torch.arange(TOKENS)) % WORDS, WORDS).float()


def gradient(function, *xs, g=1.0):
    xs = [x.clone().requires_grad_() for x in xs]
    y = function(*xs)
    return y.detach(), *torch.autograd.grad(y, xs, g * torch.ones_like(y))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- gradients --------------------------------------------------------------------------------------------------------
def test_a_gate_is_a_threshold_on_softmax_with_the_gradient_of_softmax():
    s, weight = 3 * random(5, 9), random(5, 9, seed=1)
    a = torch.softmax(s, -1)
    t = (s - s.amax(-1, keepdim=True) + math.log(4)).requires_grad_()
    b = (SoftmaxGate.apply(t) + 1) / 2
    assert torch.equal(b, (a >= 0.25 * a.amax(-1, keepdim=True)).double())
    (g,) = torch.autograd.grad((b * weight).sum(), t)
    free = s.clone().requires_grad_()
    (expected,) = torch.autograd.grad((torch.softmax(free, -1) * weight).sum(), free)
    assert torch.allclose(g, expected, atol=1e-6) and not g.sum(-1).abs().max() > 1e-12


def test_products_of_signs():
    a, b, weight = random(3, 4, 5), random(3, 5, 6, seed=1), random(3, 4, 6, seed=2)
    for whole in (0, 1, 2):
        x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        out = SignProduct(whole)(x, y)
        assert torch.equal(out, signs(a) @ signs(b))
        gx, gy = torch.autograd.grad((out * weight).sum(), (x, y))
        assert torch.allclose(gx, weight @ signs(b).mT * (1.0 if whole > 0 else (a.abs() <= 1)), atol=1e-6)
        assert torch.allclose(gy, signs(a).mT @ weight * (1.0 if whole > 1 else (b.abs() <= 1)), atol=1e-6)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 1.7])
def test_an_elastic_sign_has_the_gradient_of_its_clip(alpha):
    size = torch.tensor(alpha, dtype=torch.float64)
    y, g = gradient(lambda v: size * ShapedSign.apply(v, bipft.slope(v.detach(), size)), GRID)
    inside = (GRID.abs() - alpha).abs() > 1e-9  # floating-point grid points on the corner may fall to either side
    assert torch.equal(y, alpha * SIGN) and torch.allclose(g[inside], (GRID.abs() <= alpha).double()[inside], atol=1e-6)
    y, g = gradient(lambda v: bipft.damped(v, 0.25), GRID)
    assert torch.allclose(y, GRID) and torch.allclose(g, torch.full_like(g, 0.25))


def test_the_sign_of_a_hash():
    y, g = gradient(ecoformer.HashSign.apply, GRID * ecoformer.STEEP)
    assert torch.equal(y, signs(GRID + 1e-9)) and torch.allclose(g * ecoformer.STEEP, (GRID.abs() <= 1).double(), atol=1e-6)


def layer_of(kind, weight, bias):
    node = Node("l", "linear", ("x",), Spec((1, len(weight))), {}, {"weight": "w"})
    return kind(node, weight.float().numpy(), bias.float().numpy())


@pytest.mark.parametrize("kind", [BiViTLayer, BiPFTLayer])
def test_linear_layers_of_transformers(kind):
    """y = s * sign(w - mean) sign(x): the gradient for w is centred, that for the learnt factor the sum over what it scales."""
    w, x, weight = 0.7 * random(4, 6).float(), random(9, 6, seed=1).float(), random(9, 4, seed=2).float()
    layer = layer_of(kind, w, torch.zeros(4)).eval()
    centred = w - w.mean(1, keepdim=True)
    size = w.abs().mean(1) if kind is BiViTLayer else centred.abs().mean(1)
    out = layer(x)
    sums = signs(x) @ signs(centred).T
    assert torch.allclose(out, sums * size, atol=1e-6)
    g_weight, g_alpha = torch.autograd.grad((out * weight).sum(), (layer.weight, layer.alpha))
    through = (weight * size).T @ signs(x) * (centred.abs() <= 1)
    assert torch.allclose(g_weight, through - through.mean(1, keepdim=True), atol=1e-5)
    expected = (weight * sums).sum(0) if kind is BiViTLayer else (weight * sums * size).sum() / math.sqrt(6)
    assert torch.allclose(g_alpha, expected, atol=1e-5)
    assert np.array_equal(layer.codes().codes, signs(centred).to(torch.int8).numpy())


# --- the parts of the methods -----------------------------------------------------------------------------------------
def test_linear_attention_is_quadratic_attention():
    hq, hk, v = signs(random(2, 3, 7, 16)), signs(random(2, 3, 9, 16, seed=1)), random(2, 3, 9, 5, seed=2)
    similar = hq @ hk.mT + 16
    assert similar.min() >= 0
    expected = similar @ v / similar.sum(-1, keepdim=True)
    assert torch.allclose(ecoformer.linear_attention(hq, hk, v), expected)


def test_hash_functions_follow_the_labels_of_pairs():
    """<H(q), H(k)> / bits comes nearer to the labels than with random functions of the same kernels; gradient steps help."""
    centre = random(1, 2, 6, 8)
    x = torch.cat([centre + 0.3 * random(20, 2, 6, 8, seed=s) for s in (1, 2)]).float()
    x = x / x.norm(dim=-1, keepdim=True)
    flat = x.transpose(0, 1).flatten(1, 2)[:, :100]
    y = ecoformer.labels(flat @ flat.mT, 0.1)
    assert torch.equal((y == 1).sum(-1), (y == -1).sum(-1)) and bool((y.diagonal(dim1=1, dim2=2) == 1).all())

    def error(hashing: ecoformer.Hashing) -> float:
        codes = signs(hashing(flat))
        return float(((codes @ codes.mT / 16 - y) ** 2).mean())

    first, fitted, again = (ecoformer.fit_hashing(x, x, 16, 25, steps) for steps in (0, 30, 30))
    chance = ecoformer.Hashing(fitted.anchors, fitted.sigma, fitted.mu, random(2, 25, 16).float())
    assert error(fitted) < error(first) < 0.75 * error(chance)
    assert torch.equal(again.a, fitted.a)


def test_low_rank_estimates():
    """The maps take the mean squared residual down; a residual of rank two is found."""
    x = random(64, 10, 6)
    left, right = random(3, 6, 2, seed=1), random(3, 6, 2, seed=2)
    residual = (x[:, None] @ left) @ (x[:, None] @ right).mT
    found = [m.double() for m in low_rank(x, residual)]
    rest = residual - (x[:, None] @ found[0]) @ (x[:, None] @ found[1]).mT
    assert float((rest**2).mean() / (residual**2).mean()) < 0.1


@pytest.mark.parametrize("heads", [1, 2])
def test_written_out_attention_is_found(heads):
    x = text()
    graphs = [gathered(trace(Language(heads, False, by_hand).eval(), x[:1])) for by_hand in (True, False)]
    for graph in graphs:
        assert [n.op for n in graph].count("sdpa") == 1 and not {"softmax", "matmul"} & {n.op for n in graph}
        (a,) = attentions(graph)
        assert a.scale == pytest.approx((WIDTH / heads) ** -0.5) and a.mask is None and a.source is not None
    assert torch.allclose(*(GraphModule(g)(x) for g in graphs), atol=1e-5)


class Stacked(nn.Module):
    """Attention whose q, k and v are one tensor [3, N, heads, T, D]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.qkv, self.head = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(self.first(x)).reshape(n, t, 3, 2, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return self.head(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, -1))


def test_stacked_queries_keys_and_values_are_cut_as_codes():
    net, x = Stacked().eval(), torch.rand(3, 7, 8)
    graph = trace(net, x[:1])
    assert torch.allclose(GraphModule(batch_first(graph))(x), net(x), atol=1e-6)
    found = BiViT().compress(net, x[:1], x, lambda t, **_: t).graph
    for node in (n for n in found if n.op == "bmatmul"):
        assert found[node.inputs[1]].op == "permute" and found[node.inputs[1]].spec.kind == "int"


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph]


def compiled(network: GraphModule, x: torch.Tensor, folder) -> torch.Tensor:
    model = c99.build(trace(network, x[:1]), folder)
    return torch.cat(
        [torch.from_numpy(np.array(model(x[i : i + 1].numpy()))).reshape(1, *network(x[:1]).shape[1:]) for i in range(len(x))]
    )


def trained(method, net, x, target, steps=3):
    def fit(trainee, **_):
        return few_steps(trainee, x, target, steps)

    return method.compress(net, x[:1], x, fit)


# --- whole networks ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize(("heads", "by_hand"), [(2, False), (1, True)])
def test_a_language_model(name, heads, by_hand, tmp_path):
    """The integer graph in C gives what PyTorch gives, and later words do not change what comes before them."""
    net, x, method = Language(heads, not by_hand, by_hand).eval(), text(), METHODS[name]
    trainee = method.prepare(net, x[:1], x)
    for stage in method.stages:
        method.begin(trainee, stage)
        trainee.train()
        optimiser = torch.optim.Adam(trainee.parameters(), 3e-3)
        for _ in range(3):
            optimiser.zero_grad()
            F.cross_entropy(trainee(x)[:, :-1].flatten(0, 1), x[:, 1:].argmax(-1).flatten()).backward()
            optimiser.step()
    network = method.finish(trainee.eval(), x)
    found, out = ops(network.graph), network(x)
    linear = name == "ecoformer" and by_hand
    assert "sdpa" not in found and found.count("blinear") == 4
    assert (found.count("bmatmul"), found.count("qmatmul")) == ((0, 1) if linear else (1 if name == "ecoformer" else 2, 0))
    assert torch.equal(out, network(x)) and torch.isfinite(out).all()
    assert torch.allclose(compiled(network, x, tmp_path), out, atol=1e-4)
    if not by_hand:
        other = x.clone()
        other[:, 7:] = other[:, 7:].roll(1, -1)
        assert torch.equal(network(other)[:, :7], out[:, :7]) and not torch.equal(network(other)[:, 7:], out[:, 7:])


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_vision_transformer(name, tmp_path):
    if find_spec("timm") is None:
        pytest.skip("timm is not installed (pip install 'netwright[zoo]')")
    from netwright.design.zoo import timm_model

    torch.manual_seed(0)
    net, x = timm_model("test_vit").eval(), torch.rand(4, 3, 160, 160)
    network = trained(METHODS[name], net, x, torch.arange(4), steps=1)
    found, out = ops(network.graph), network(x)
    assert found.count("blinear") == 24 and "sdpa" not in found
    assert (found.count("bmatmul"), found.count("qmatmul")) == ((0, 6) if name == "ecoformer" else (12, 0))
    got = compiled(network, x[:2], tmp_path)
    assert torch.equal(got.argmax(-1), out[:2].argmax(-1)) and (got - out[:2]).abs().max() < 1e-4


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_trainee_computes_what_the_integer_graph_does(name):
    net, x, method = Language().eval(), text(), METHODS[name]
    trainee = method.prepare(net, x[:1], x).eval()
    assert torch.allclose(trainee(x), method.finish(trainee, x)(x), atol=2e-2)


def test_bivit_binarises_attention_first():
    net, x, method = Language().eval(), text(), BiViT()
    around = projections(gathered(trace(net, x[:1])))
    trainee = method.prepare(net, x[:1], x)
    layers = [m for m in trainee.modules() if isinstance(m, BiViTLayer)]
    assert len(layers) == 4 and len(around) == 2
    for stage, binary in zip(method.stages, (2, 4), strict=True):
        method.begin(trainee, stage)
        assert sum(m.settled for m in layers) == binary
        for m in layers:
            assert (len(m.effective()[0].abs().unique()) == 1) == m.settled
            assert m.settled or m.node.name not in around


def test_ecoformer_can_leave_linear_layers_in_8_bits():
    net, x = Language().eval(), text()
    network = EcoFormer(iterations=2, keep_linear=True).compress(net, x[:1], x, lambda t, **_: t)
    assert "blinear" not in ops(network.graph) and ops(network.graph).count("qlinear") == 6


def test_other_binarisers_leave_attention_in_float():
    net, x = Language().eval(), text()
    assert ops(BiReal().compress(net, x[:1], x, lambda t, **_: t).graph).count("sdpa") == 1


@pytest.mark.parametrize("name", sorted(METHODS))
def test_binary_language_models_learn(name):
    """Words that follow from those before them: from chance, 10 %, to nearly all."""
    net, x, method = Language().eval(), text(WORDS), METHODS[name]

    def fit(trainee, **_):
        optimiser = torch.optim.Adam([p for p in trainee.parameters() if p.requires_grad], 1e-2)
        trainee.train()
        for _ in range(60):
            optimiser.zero_grad()
            F.cross_entropy(trainee(x)[:, :-1].flatten(0, 1), x[:, 1:].argmax(-1).flatten()).backward()
            optimiser.step()
        return trainee.eval()

    network = method.compress(net, x[:1], x, fit)
    assert float((network(x)[:, :-1].argmax(-1) == x[:, 1:].argmax(-1)).float().mean()) > 0.8
