"""Proxies: each keeps the contract, and its number is the one that its equation gives where that can be had another way."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional as F

from netwright.bench.estimate.proxies import agreement
from netwright.core.errors import NetwrightError
from netwright.design import trace
from netwright.estimate.proxies import (
    CATALOGUE,
    EPENAS,
    NASWOT,
    SNIP,
    AttentionConfidence,
    Entropy,
    Fisher,
    GradNorm,
    GradSign,
    GraSP,
    HeadImportance,
    HiddenCovariance,
    JacobCov,
    MACs,
    Parameters,
    Plain,
    SynFlow,
    Zen,
    ZiCo,
)  # fmt: skip
from netwright.estimate.proxies.entropy import effectiveness, longest
from netwright.testing.proxies import check_proxy

DRAWN = partial(torch.Generator().manual_seed, 0)


class Conv(nn.Module):
    """Convolutions with a shortcut, functional rectifiers, norm, dropout and pooling."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.second, self.short = nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=2), nn.Conv2d(6, 6, 1, stride=2)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(6, 4)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)), inplace=True)
        x = torch.relu(self.second(x) + self.short(x))
        return self.head(self.drop(x.mean((2, 3))))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.first = nn.Embedding(12, 5), nn.GRU(5, 6, batch_first=True)
        self.cell, self.head = nn.LSTMCell(6, 7), nn.Linear(7, 4)

    def forward(self, x):
        x, state = self.first(self.embed(x))[0], None
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return self.head(state[0])


class Attention(nn.Module):
    """One layer of heads on [N, L, 8], by scaled_dot_product_attention; keeps the heads' outputs where asked to."""

    def __init__(self, fused=True):
        super().__init__()
        self.qkv, self.out, self.head, self.fused = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 4), fused
        self.seen = None

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        a = F.scaled_dot_product_attention(q, k, v) if self.fused else (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
        if self.seen is not None:
            a.retain_grad()
            self.seen.append(a)
        return self.head((x + self.out(a.transpose(1, 2).flatten(2))).mean(1))


def images(n=8):
    return torch.randn(n, 2, 8, 8, generator=DRAWN()), torch.arange(n) % 4


def case(name):
    """A module that the proxy can score, and a batch."""
    if name == "hidden_covariance":
        return Recurrent(), (torch.randint(12, (6, 5), generator=DRAWN()), torch.arange(6) % 4)
    if name in ("attention_confidence", "head_importance"):
        return Attention(), (torch.randn(6, 5, 8, generator=DRAWN()), torch.arange(6) % 4)
    return Conv(), images()


def linear(x, y, network):
    """Gradient of the mean cross entropy by the weight of one linear layer."""
    p = network(x).softmax(1) - F.one_hot(y, 4)
    return (p.T @ x / len(x)).detach()


def score(proxy, module, batch):
    return proxy(module, batch, generator=DRAWN())


@pytest.mark.parametrize("name", CATALOGUE)
def test_contract(name):
    check_proxy(CATALOGUE[name](), *case(name))


def test_gradients_of_one_layer():
    network, x, y = nn.Linear(5, 4), torch.randn(7, 5), torch.arange(7) % 4
    w, g = network.weight.detach(), linear(x, y, network)
    for proxy, wanted in ((GradNorm(), g.norm()), (SNIP(), (w * g).abs().sum()), (Plain(), (w * g).sum())):
        assert proxy(network, (x, y)) == pytest.approx(float(wanted), rel=1e-4, abs=1e-6)
    a = network(x).detach()
    g_n = (a.softmax(1) - F.one_hot(y, 4)) / 7 * a
    assert Fisher()(network, (x, y)) == pytest.approx(float(5 * (g_n.square().mean(0) / 2).sum()), rel=1e-4)


def test_grasp_is_the_hessian_times_the_gradient():
    network, x, y = (
        nn.Sequential(nn.Linear(3, 4, bias=False), nn.Tanh(), nn.Linear(4, 2, bias=False)),
        torch.randn(6, 3),
        torch.arange(6) % 2,
    )

    def loss(flat):
        return F.cross_entropy((x @ flat[:12].view(4, 3).T).tanh() @ flat[12:].view(2, 4).T, y)

    flat = torch.cat([p.detach().flatten() for p in network.parameters()])
    hessian = torch.autograd.functional.hessian(loss, flat)
    (g,) = torch.autograd.functional.jacobian(loss, (flat,))
    assert GraSP()(network, (x, y)) == pytest.approx(-float(flat @ hessian @ g), rel=1e-4)


def test_synflow_counts_the_flow_once_a_layer():
    network = nn.Sequential(nn.Linear(3, 5, bias=False), nn.ReLU(), nn.BatchNorm1d(5), nn.Linear(5, 2, bias=False))
    flow = (network[3].weight.abs() @ network[0].weight.abs()).sum()
    assert SynFlow()(network, (torch.randn(4, 3), torch.zeros(4))) == pytest.approx(math.log(2 * flow.item()), rel=1e-6)
    network[0].weight.data.zero_()
    assert SynFlow()(network, (torch.randn(4, 3), torch.zeros(4))) == -math.inf


def test_jacobians():
    """A linear network has one Jacobian for all inputs; a wide one tells its inputs apart."""
    x, y = torch.randn(6, 5), torch.tensor([0, 0, 1, 1, 2, 2])
    k = 1e-5
    assert JacobCov()(nn.Linear(5, 3), (x, y)) == pytest.approx(
        -(math.log(6 + k) + 1 / (6 + k) + 5 * (math.log(k) + 1 / k)), rel=1e-4
    )
    assert EPENAS()(nn.Linear(5, 3), (x, y)) == pytest.approx(3 * 4 * math.log(1 + k), rel=1e-2)
    wide = nn.Sequential(nn.Linear(40, 400), nn.ReLU(), nn.Linear(400, 1))
    assert JacobCov()(wide, (torch.randn(6, 40), y)) > -20 > JacobCov()(nn.Linear(40, 1), (torch.randn(6, 40), y))
    dead = nn.Sequential(nn.Linear(5, 3), nn.ReLU())
    dead[0].bias.data.fill_(-100)
    for proxy in (JacobCov(), EPENAS()):
        assert proxy(dead, (x, y)) == -math.inf
        with pytest.raises(NetwrightError, match="embedded inputs"):
            proxy(Recurrent(), (torch.zeros(2, 3, dtype=torch.long), y[:2]))


def test_naswot_counts_agreeing_rectifiers():
    network, x = nn.Sequential(nn.Linear(3, 50), nn.LeakyReLU(), nn.Linear(50, 20), nn.GELU()), torch.randn(4, 3)
    with torch.no_grad():
        code = torch.cat([network[0](x) > 0, network[:3](x) > 0], 1).numpy()
    kernel = (code[:, None] == code[None]).sum(-1)
    assert NASWOT()(network, (x, x)) == pytest.approx(np.linalg.slogdet(kernel)[1], rel=1e-5)
    assert NASWOT()(network, (x[[0, 1, 1]], x)) == -math.inf
    with pytest.raises(NetwrightError, match="reads rectifiers; Linear has none"):
        NASWOT()(nn.Linear(3, 2), (x, x))


def test_zen_of_a_linear_network_grows_with_the_change():
    """Without rectifiers the answer is the change times a constant; norms' scales are added; what is pooled counts."""
    plain = nn.Sequential(nn.Conv2d(2, 8, 3), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    batch = images()
    small, large = (score(Zen(gamma=g), plain, batch) for g in (0.01, 0.1))
    assert large - small == pytest.approx(math.log(10), rel=1e-3)
    assert small == pytest.approx(score(Zen(), plain[:2], batch), rel=1e-6)
    normed = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3))
    assert score(Zen(), normed, batch) == pytest.approx(small, abs=1.0)  # what the norm divides by is put back, but for momentum
    scaled = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), nn.Conv2d(8, 8, 3))
    assert score(Zen(), scaled, batch) < small - 0.5


def test_zico_by_hand():
    network, x, y = nn.Linear(5, 4), torch.randn(8, 5), torch.arange(8) % 4
    g = np.stack([linear(x[i : i + 4], y[i : i + 4], network).numpy() for i in (0, 4)]).astype(np.float64)
    wanted = np.log((np.abs(g).mean(0) / g.std(0)).sum())
    assert ZiCo()(network, (x, y)) == pytest.approx(wanted, rel=1e-4)
    with pytest.raises(NetwrightError, match="at least 4 examples"):
        ZiCo()(network, (x[:3], y[:3]))


def test_gradsign_counts_votes():
    network, x, y = nn.Linear(5, 4), torch.randn(6, 5), torch.arange(6) % 4
    votes = sum(linear(x[i : i + 1], y[i : i + 1], network).sign() for i in range(6))
    assert GradSign()(network, (x, y)) == float(votes.abs().sum())
    alike = x[:1].expand(6, -1), y[:1].expand(6)
    assert GradSign()(network, alike) == 6 * 20
    normed = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    assert GradSign()(normed, (x, y)) > 0


def test_hidden_covariance():
    """States that are alike score least; a cell of one's own is named; the layer is the one that is asked for."""
    network, (x, y) = case("hidden_covariance")
    assert HiddenCovariance()(network, (x, y)) > HiddenCovariance()(network, (x[:1].expand_as(x), y))
    with torch.no_grad():
        states = network.first(network.embed(x))[0].flatten(1).numpy()
    v = np.linalg.eigvalsh(np.corrcoef(states.astype(np.float64))) + 1e-5
    assert HiddenCovariance()(network, (x, y)) == pytest.approx(-np.sum(np.log(v) + 1 / v), rel=1e-4)
    assert HiddenCovariance(layer=1)(network, (x, y)) == HiddenCovariance(module="cell")(network, (x, y))
    with pytest.raises(NetwrightError, match="there are 2"):
        HiddenCovariance(layer=2)(network, (x, y))
    with pytest.raises(NetwrightError, match="recurrent layers"):
        HiddenCovariance()(Conv(), images())


def test_attention():
    """Equal keys give even attention; heads' importance is that of their outputs; fused and plain attention score alike."""
    network, (x, y) = case("head_importance")
    confidence = AttentionConfidence()(network, (x, y))
    plain = Attention(fused=False)
    plain.load_state_dict(network.state_dict())
    assert AttentionConfidence()(plain, (x, y)) == pytest.approx(confidence, rel=1e-5) and 1 / 5 < confidence < 1
    network.seen = []
    F.cross_entropy(network(x), y).backward()
    wanted = float((network.seen[0] * network.seen[0].grad).sum((2, 3)).abs().sum())
    network.seen = None
    for module in (network, plain):
        assert HeadImportance()(module, (x, y)) == pytest.approx(wanted, rel=1e-4)
    network.qkv.weight.data.zero_()
    network.qkv.bias.data.zero_()
    assert AttentionConfidence()(network, (x, y)) == pytest.approx(1 / 5)
    encoder = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Flatten(1), nn.Linear(40, 4))
    assert 1 / 5 < AttentionConfidence()(encoder, (x, y)) < 1 and HeadImportance()(encoder, (x, y)) > 0
    for proxy in (AttentionConfidence(), HeadImportance()):
        with pytest.raises(NetwrightError, match="reads attention; Conv has none"):
            proxy(Conv(), images())


def test_entropy_in_closed_form():
    x, y = torch.randn(2, 3, 16, 16), torch.zeros(2)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 5, 2, 2), nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip
    widths = [3 * 9, 8 * 25, 9]
    first, rest = math.log(256 * 8) * math.log(27), math.log(64 * 16) * math.log(math.prod(widths))
    assert Entropy()(network, (x, y)) == pytest.approx(first + 8 * rest)
    assert effectiveness(longest(network, x[:1])) == pytest.approx(3 / math.prod(widths) ** (1 / 3))
    mlp = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3))
    assert Entropy(last=1)(mlp, (torch.randn(2, 6), y)) == pytest.approx(math.log(3) * math.log(6 * 20))
    body = [found.width for found in longest(Conv(), torch.randn(1, 2, 8, 8))]
    assert body == [18, 27]  # the body of the residual block, not its 1x1 shortcut
    up = nn.Sequential(nn.ConvTranspose2d(3, 4, 2, 2))
    assert Entropy(last=1)(up, (x, y)) == pytest.approx(math.log(32 * 32 * 4) * math.log(3 * 4))


def test_sizes_are_those_of_the_graph():
    network, (x, y) = Conv(), images()
    graph = trace(network.eval(), x[:1])
    assert Parameters()(network, (x, y)) == graph.parameters and MACs()(network, (x, y)) == graph.macs


def test_what_is_no_number_is_refused():
    network, batch = case("grad_norm")
    network.first.weight.data[0, 0, 0, 0] = math.nan
    for proxy in (GradNorm(), SNIP(), GraSP(), Fisher(), SynFlow()):
        with pytest.raises(NetwrightError, match=f"{proxy.name} of Conv is nan"):
            proxy(network, batch)


def test_what_cannot_be_copied_is_refused():
    network, batch = case("grad_norm")
    network.kept = network(batch[0])
    with pytest.raises(NetwrightError, match="Conv cannot be copied"):
        GradNorm()(network, batch)


def test_more_channels_score_higher():
    """Every proxy for images points to the wider of two networks of the same depth, but for those that are mostly noise."""
    x, y = torch.randn(16, 3, 8, 8, generator=DRAWN()), torch.arange(16) % 4

    def network(width):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))

    for name in ("snip", "synflow", "naswot", "zico", "gradsign", "entropy", "l2_norm", "parameters", "macs", "zen"):
        proxy = CATALOGUE[name]()
        assert score(proxy, network(32), (x, y)) > score(proxy, network(4), (x, y)), name


def test_published_values_are_judged_by_rank_or_by_the_proxy_s_own_noise():
    """A proxy that repeats itself is held to the table; a noisy one passes only where the table is as near as its second seed."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=100)

    def drawn(noise):
        return list(truth + noise * rng.normal(size=100))

    firm = agreement(drawn(0.1), drawn(0.1), drawn(0.1))
    assert firm.table > 0.95 and firm.own > 0.95 and firm.low <= firm.table - firm.own <= firm.high
    noisy = agreement(drawn(1.5), drawn(1.5), drawn(1.5))
    assert noisy.own < 0.6 and noisy.noise
    other = agreement(drawn(0.5), drawn(0.5), list(rng.normal(size=100)))
    assert other.own > 0.6 and not other.noise
    first, second, published = (list(rng.integers(5, size=30).astype(float)) for _ in range(3))
    found = agreement(first, second, published)
    assert found.own == pytest.approx(spearmanr(first, second).statistic)
    assert found.table == pytest.approx((spearmanr(first, published).statistic + spearmanr(second, published).statistic) / 2)
    same = agreement([-math.inf, 1.0, 2.0], [-math.inf, 1.0, 2.0], [0.0, 1.0, 2.0], rounds=10)
    assert same.table == pytest.approx(1) and same.own == pytest.approx(1)
