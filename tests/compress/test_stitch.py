"""Stitching: where graphs can be cut, how layers start, and that every way between two anchors is a network that works."""

from __future__ import annotations

import copy

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from netwright.compress.stitch import CATALOGUE, Instance, LearngenePool, Stitch, Stitchable, Stitched, cuts
from netwright.compress.stitch.stitched import least_squares, rows, windows
from netwright.core.errors import DataError, NetwrightError
from netwright.design.execute import GraphModule
from netwright.design.models.staged import Stage, Staged
from netwright.design.trace import trace
from netwright.train import Recipe, Tensors, accuracy, fit

RECIPE = Recipe(steps=120, batch_size=64, evaluations=1)


def net(width: int, depth: int = 2, norm: str = "batch") -> nn.Module:
    stages = Stage("convnext", depth, width, 3, 2), Stage("convnext", depth, 2 * width, 3, 2)
    return Staged(stages, channels=1, classes=10, norm=norm).build()


class Vit(nn.Module):
    """A small vision transformer for [N, 1, 8, 8], with a token of the class."""

    def __init__(self, width: int, depth: int):
        super().__init__()
        self.embed = nn.Conv2d(1, width, 2, 2)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v))
        return x + self.mlp(self.norm2(x))


@pytest.fixture(scope="module")
def digits() -> Tensors:
    bunch = load_digits()
    x, y = torch.tensor(bunch.images).float()[:, None] / 16, torch.tensor(bunch.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return Tensors(x[:900], y[:900], x[900:1500], y[900:1500])


@pytest.fixture(scope="module")
def anchors(digits) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    small, large = net(6), net(16)
    fit(small, digits, RECIPE)
    fit(large, digits, RECIPE)
    return small, large


# --- cuts


def test_residual_blocks_are_cut_between_and_never_inside():
    found = cuts(trace(net(4), torch.zeros(1, 1, 8, 8)))
    assert [c.places for c in found] == [(8, 8)] * 3 + [(4, 4)] * 2 + [()]
    assert [c.channels for c in found] == [4, 4, 4, 8, 8, 8]
    assert [c.node for c in found[:3]] == ["relu", "add", "add_1"]


def test_a_plain_chain_is_cut_before_each_layer_and_tokens_by_their_number():
    chain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU())
    assert [c.node for c in cuts(trace(chain, torch.zeros(1, 1, 8, 8)))] == ["relu"]
    vit = cuts(trace(Vit(8, 3), torch.zeros(1, 1, 8, 8)))
    assert [c.places for c in vit if c.places] == [(17,)] * 6  # the embedding, two sums a block; the last is cut as one vector
    assert all(c.axis == 2 for c in vit if c.places)


@pytest.mark.parametrize(
    "front,end,pairs",
    [
        (1, 1, {(0, 0)}),
        (3, 3, {(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2)}),
        (1, 3, {(0, 0), (0, 1), (0, 2)}),
        (4, 2, {(0, 0), (0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (3, 1)}),
    ],
)
def test_windows_of_two_hold_neighbours(front, end, pairs):
    found = [p for _, window in windows(front, end, 2, 1) for p in window]
    assert set(found) == pairs and len(found) == len(pairs)


# --- the layers' start


def test_least_squares_is_the_pseudo_inverse_and_exact_where_one_exists(generator):
    a = torch.randn(200, 5, generator=generator)
    weight, bias = torch.randn(7, 5, generator=generator), torch.randn(7, generator=generator)
    w, b = least_squares(a, a @ weight.T + bias)
    assert torch.allclose(w, weight, atol=1e-4) and torch.allclose(b, bias, atol=1e-4)
    target = torch.randn(200, 7, generator=generator)
    expected = torch.linalg.pinv(torch.cat([a, torch.ones(200, 1)], 1)) @ target
    w, b = least_squares(a, target)
    assert torch.allclose(torch.cat([w.T, b[None]]), expected, atol=1e-4)
    assert rows(torch.randn(2, 3, 4, 5), 1).shape == (40, 3)


def test_a_network_stitched_to_itself_is_itself():
    """Between equal anchors the best layer is the identity, and every way from a cut to the same cut computes the same."""
    torch.manual_seed(1)
    anchor, x = (
        nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.Tanh(), nn.Conv2d(4, 6, 3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(96, 3)),
        (torch.randn(64, 1, 8, 8)),
    )
    wider = nn.Sequential(nn.Conv2d(1, 4, 5, 1, 2), *copy.deepcopy(anchor)[1:])  # the same, with a larger kernel
    with torch.no_grad():
        wider[0].weight.zero_()[:, :, 1:4, 1:4] = anchor[0].weight
        wider[0].bias.copy_(anchor[0].bias)
    stitched = Stitchable(kernel=1).build([anchor, wider], x)
    assert len(stitched.stitches()) > 2
    for stitch in stitched.stitches():
        assert torch.allclose(stitched.network(stitch)(x), anchor(x), atol=1e-4)


def test_least_squares_starts_far_better_than_random_layers(anchors, digits):
    def random(seam):
        return torch.randn(seam.enters.channels, seam.leaves.channels) / seam.leaves.channels**0.5, torch.zeros(
            seam.enters.channels
        )

    x = digits.x[:256]
    fitted, drawn = Stitchable(kernel=1).build(anchors, x), Stitched(anchors, x, kernel=1, start=random)

    def mean(stitched):
        ways = [s for s in stitched.stitches() if s.layer]
        return sum(accuracy(stitched.network(s), digits.validation) for s in ways) / len(ways)

    assert mean(fitted) > mean(drawn) + 0.2


# --- ways


def test_ways_lie_between_the_anchors_and_are_ordered(anchors, digits):
    stitched = Stitchable().build(anchors[::-1], digits.x[:64])
    ways = stitched.stitches()
    macs = [stitched.macs(s) for s in ways]
    small, large = (trace(a, digits.x[:1]).macs for a in anchors)
    assert len(ways) >= 10
    assert macs == sorted(macs) and macs[0] == small and macs[-1] == large
    assert (ways[0], ways[-1]) == (Stitch(0, 0), Stitch(1, 1))
    for way in ways[1:-1]:
        assert (way.front, way.end) == (0, 1)
        assert stitched.network(way).graph.macs == stitched.macs(way) == trace(stitched.network(way)).macs


def test_all_networks_share_the_stores_parameters_and_own_their_statistics(anchors, digits):
    stitched = Stitchable().build(anchors, digits.x[:64])
    one, other = (stitched.network(s) for s in stitched.stitches()[3:5])
    store = {id(p) for p in stitched.parameters()}
    assert {id(p) for n in (one, other) for p in n.parameters()} <= store
    assert not {b.data_ptr() for b in one.buffers()} & {b.data_ptr() for b in other.buffers()}
    assert sum(p.numel() for p in stitched.parameters()) < 1.3 * sum(p.numel() for a in anchors for p in a.parameters())
    before = [p.clone() for a in anchors for p in a.parameters()]
    fit(stitched, digits, RECIPE.with_(steps=2))
    assert all(torch.equal(p, q) for p, q in zip(before, (p for a in anchors for p in a.parameters()), strict=True))


def test_a_step_trains_one_way_drawn_at_random(anchors, digits):
    stitched = Stitchable().build(anchors, digits.x[:64]).train()
    used = set()
    for _ in range(60):
        stitched.zero_grad(set_to_none=True)
        stitched(digits.x[:4]).sum().backward()
        used.add(frozenset(n for n, p in stitched.named_parameters() if p.grad is not None))
    assert len(used) >= 8
    stitched.eval()
    stitched.active = stitched.stitches()[-1]
    assert torch.equal(stitched(digits.x[:4]), stitched.network(stitched.active)(digits.x[:4]))


def test_joint_training_makes_every_way_work(anchors, digits):
    stitched = Stitchable().build(anchors, digits.x[:256])
    ways = stitched.stitches()
    before = [accuracy(stitched.network(s), digits.validation) for s in ways]
    fit(stitched, digits, RECIPE.with_(steps=300, lr=4e-3), teacher=anchors[1])
    after = [accuracy(stitched.network(s), digits.validation) for s in ways]
    middle = slice(1, -1)
    assert len(ways) >= 10 and min(after) > 0.9
    assert sum(after[middle]) > sum(before[middle]) + 3
    assert after[-1] > 0.97
    larger, smaller = after[len(ways) // 2 :], after[: len(ways) // 2]
    assert sum(larger) / len(larger) > sum(smaller) / len(smaller)


def test_transformers_are_stitched_by_tokens():
    torch.manual_seed(0)
    x = torch.randn(16, 1, 8, 8)
    stitched = Stitchable().build([Vit(8, 2), Vit(16, 3), Vit(24, 3)], x)
    ways = stitched.stitches()
    assert {(s.front, s.end) for s in ways} == {(0, 0), (1, 1), (2, 2), (0, 1), (1, 2)}  # neighbours only
    assert len(ways) >= 20
    for way in ways[::5]:
        network = stitched.network(way)
        assert network(x[:3]).shape == (3, 10)
        assert torch.allclose(GraphModule(trace(network))(x), network(x), atol=1e-5)
    assert stitched(x).shape == (16, 10)


def test_channels_first_meets_channels_last():
    torch.manual_seed(0)

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 6, 3, 1, 1), nn.Linear(6, 3)
            self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 6)

        def forward(self, x):
            x = self.conv(x).permute(0, 2, 3, 1)
            return self.head((x + self.b(self.a(x).relu())).mean((1, 2)))

    first = nn.Sequential(
        nn.Conv2d(1, 2, 3, 1, 1), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)
    )
    stitched = Stitchable().build([first, Last()], torch.randn(16, 1, 6, 6))
    assert any("stitch_turned" in stitched.network(s).graph.by_name for s in stitched.stitches())
    assert all(stitched.network(s)(torch.randn(2, 1, 6, 6)).shape == (2, 3) for s in stitched.stitches())


def test_wrong_anchors_are_named(anchors, digits):
    with pytest.raises(NetwrightError, match="at least two"):
        Stitchable().build(anchors[:1], digits.x[:8])
    with pytest.raises(DataError, match="too few"):
        Stitchable().build(anchors, digits.x[:1])
    with pytest.raises(NetwrightError, match="kernel 0"):
        Stitchable(kernel=0).build(anchors, digits.x[:8])
    with pytest.raises(NetwrightError, match="outputs of one shape"):
        Stitchable().build([anchors[0], nn.Sequential(nn.Flatten(), nn.Linear(64, 3))], digits.x[:8])
    with pytest.raises(NetwrightError, match="at 1x1 in the one and at 17, one vector in the other"):
        whole = nn.Sequential(nn.Conv2d(1, 4, 8), nn.ReLU(), nn.Conv2d(4, 10, 1), nn.Flatten())
        Stitchable().build([whole, Vit(8, 1)], digits.x[:8])
    with pytest.raises(NetwrightError, match="There is no way"):
        Stitchable().build(anchors, digits.x[:8]).network(Stitch(0, 5))


# --- learngene pool


def test_a_pool_is_distilled_and_stitched_by_way_of_the_large_networks_features(anchors, digits):
    large, pool = anchors[1], LearngenePool()
    assert set(CATALOGUE) == {"snnet", "learngene_pool"} and LearngenePool.paper.id == "S236"
    instances = []
    for width in (4, 6):
        torch.manual_seed(width)
        instance = pool.instance(net(width, 1), large, digits.x[:1])
        assert [b.channels for _, b in instance.pairs] == [16, 16, 32, 32]

        def gap(instance=instance):
            instance.train()
            with torch.no_grad():
                instance(digits.x_validation)
            return instance._seen[1].item()

        before = gap()
        fitted = fit(instance, digits, RECIPE.with_(steps=200), loss=instance.loss)
        assert gap() < 0.75 * before and fitted.best_accuracy > 0.7
        instances.append(instance.eval())
    stitched = pool.build(instances, digits.x[:64])
    assert len(stitched.stitches()) >= 6
    way = next(s for s in stitched.stitches() if s.layer and stitched.network(s).graph["stitch"].op == "linear")
    a, b = instances[0].transforms[way.leaves], instances[1].transforms[way.enters]
    layer = stitched.network(way).weights(stitched.network(way).graph["stitch"])
    assert torch.allclose(layer["weight"], torch.linalg.pinv(b.weight) @ a.weight, atol=1e-5)
    assert torch.allclose(layer["bias"], torch.linalg.pinv(b.weight) @ (a.bias - b.bias), atol=1e-5)
    macs = [stitched.macs(s) for s in stitched.stitches()]
    assert macs == sorted(macs) and macs[-1] < trace(large, digits.x[:1]).macs  # smaller than what they were distilled from


def test_a_pool_takes_instances_of_one_large_network(anchors, digits):
    pool, x = LearngenePool(), digits.x[:4]
    with pytest.raises(NetwrightError, match="built of instances"):
        pool.build(anchors, x)
    two = [pool.instance(net(4, 1), net(8), x[:1]), pool.instance(net(6, 1), net(10), x[:1])]
    with pytest.raises(NetwrightError, match="from one large network"):
        pool.build(two, x)
    with pytest.raises(NetwrightError, match="no cut at the same"):
        Instance(Vit(8, 1), nn.Sequential(nn.Conv2d(1, 4, 8), nn.ReLU(), nn.Conv2d(4, 10, 1), nn.Flatten()), x[:1], pool)
    with pytest.raises(NetwrightError, match="training mode first"):
        two[0].loss(torch.zeros(4, 10), digits.y[:4])
