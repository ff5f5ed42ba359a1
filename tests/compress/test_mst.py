"""MST-compression: the loss is its equation, trees get shorter and files smaller, and the integers stay what they were."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from netwright.compress import MST, BiReal
from netwright.compress.binarise.bireal import BiRealLayer
from netwright.compress.binarise.mst import MSTLayer, nearest, recentred
from netwright.compress.trainee import WithLoss
from netwright.core.errors import NetwrightError
from netwright.deploy import mst
from netwright.deploy.packed import pack, unpack
from netwright.design.execute import GraphModule
from netwright.testing.compress import ExampleNet, check_compressor, few_steps


def unit(i: int, o: int) -> list[nn.Module]:
    return [nn.Conv2d(i, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]


def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            *unit(1, 32), *unit(32, 64), nn.MaxPool2d(2), *unit(64, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
        )


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(y)


def trainer(digits, steps: int):
    x, y = digits

    def fit(net: nn.Module, lr: float = 2e-3, **_: object) -> nn.Module:
        generator = torch.Generator().manual_seed(0)
        optimiser = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        net.train()
        for _ in range(steps):
            i = torch.randint(0, len(x), (64,), generator=generator)
            optimiser.zero_grad()
            F.cross_entropy(net(x[i]), y[i]).backward()
            optimiser.step()
            schedule.step()
        return net.eval()

    return fit


@pytest.fixture(scope="module")
def trained(digits):
    return trainer(digits, 100)(small())


@pytest.fixture(scope="module")
def networks(digits, trained):
    """Bi-Real Net and MST-compression after the same steps."""
    fit = trainer(digits, 120)
    return [m.compress(trained, digits[0][:1], digits[0][:128], fit) for m in (BiReal(), MST(weight=2e-3))]


@torch.no_grad()
def accuracy(net: nn.Module, digits) -> float:
    return float((net(digits[0][:600]).argmax(1) == digits[1][:600]).float().mean())


def test_trees_are_less_than_half_as_long_for_little_accuracy(networks, digits):
    plain, pulled = networks
    trees, short = mst.layers(plain.graph), mst.layers(pulled.graph)
    assert [t.name for t in trees] == [t.name for t in short] and len(trees) == 2
    assert sum(t.length for t in short) < 0.5 * sum(t.length for t in trees)
    assert all(a.length < b.length and a.tree_bytes < b.tree_bytes for a, b in zip(short, trees, strict=True))
    assert sum(t.tree_operations for t in short) < 0.6 * sum(t.tree_operations for t in trees)
    assert accuracy(plain, digits) > 0.97 and accuracy(pulled, digits) > accuracy(plain, digits) - 0.035


def test_the_file_is_smaller_and_gives_the_same_integers(networks, digits):
    plain, pulled = networks
    before, after = (sum(min(t.plain_bytes, t.tree_bytes) for t in mst.layers(n.graph)) for n in networks)
    data = pack(pulled.graph)
    assert after < 0.75 * sum(t.plain_bytes for t in mst.layers(pulled.graph))
    assert len(pack(plain.graph)) - len(data) == pytest.approx(before - after, abs=64)
    values = unpack(data)
    assert all(np.array_equal(values[k], v) and values[k].dtype == v.dtype for k, v in pulled.graph.values.items())
    again = GraphModule(pulled.graph.replace(pulled.graph.nodes, values=dict(values))).eval()
    assert torch.equal(again(digits[0][:64]), pulled(digits[0][:64]))


def test_the_report_counts_what_the_scheme_does(networks):
    """Sums of all filters along the tree, each from its parent's, are those of all filters; the counted bits suffice."""
    for layer in mst.layers(networks[1].graph):
        node = networks[1].graph[layer.name]
        signs = networks[1].graph.value(node, "weight").reshape(layer.filters, -1).astype(np.int64)
        x = np.where(np.random.default_rng(0).random(layer.bits) < 0.5, -1, 1)
        tree = mst.spanning_tree(signs < 0)
        sums, used = {int(tree.order[0]): int(signs[tree.order[0]] @ x)}, layer.bits
        for o in tree.order[1:]:
            parent = signs[tree.parents[o]] * (-1 if tree.turned[o] else 1)
            differ = parent != signs[o]
            sums[int(o)] = sums[int(tree.parents[o])] * (-1 if tree.turned[o] else 1) + 2 * int(signs[o][differ] @ x[differ])
            used += int(differ.sum())
        assert [sums[o] for o in range(layer.filters)] == (signs @ x).tolist()
        positions = node.spec.shape[2] * node.spec.shape[3]
        assert (layer.operations, layer.tree_operations) == (signs.size * positions, used * positions)
        assert layer.length == used - layer.bits and 0 < layer.depth < layer.filters


def layer(trained, pull: float = 0.3, count: int = 3) -> MSTLayer:
    """The second convolution, as the binariser simulates it."""
    trainee = MST(weight=pull, centres=count).prepare(trained, torch.zeros(1, 1, 8, 8), torch.rand(8, 1, 8, 8))
    return next(m for m in trainee.modules() if isinstance(m, MSTLayer))


def test_the_gradient_of_the_loss_is_its_formula(trained):
    """On a grid of weights between -2 and 2, and as differences of the loss where no sign, centre or scale changes."""
    found = layer(trained)
    shape = found.weight.shape
    with torch.no_grad():
        grid = torch.linspace(-2, 2, found.weight.numel())
        found.weight.copy_(grid[torch.randperm(len(grid), generator=torch.Generator().manual_seed(0))].reshape(shape))
    w = found.weight.detach().flatten(1)
    c, s = found.centres, w.abs().mean(1, keepdim=True)
    each = torch.stack([(w - t * s * c[k]).square().sum(1) / 2 for k, t in itertools.product(range(len(c)), (1, -1))])
    choice = each.argmin(0)
    target = s * torch.where(choice % 2 == 0, 1.0, -1.0)[:, None] * c[choice // 2]
    loss = found.distance()
    loss.backward()
    torch.testing.assert_close(loss, each.min(0).values.sum(), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.weight.grad.flatten(1), w - target, rtol=0, atol=1e-6)


def test_the_loss_is_added_in_training_and_only_there(trained):
    found, x = layer(trained), torch.randn(4, 32, 4, 4, generator=torch.Generator().manual_seed(0))
    found.train()
    out = found(x)
    assert torch.equal(out, BiRealLayer.forward(found, x))
    (out * 0).sum().backward()
    w, s = found.weight.detach().flatten(1), found.mean_size()[:, None]
    k, t = nearest(w, found.centres)
    torch.testing.assert_close(found.weight.grad.flatten(1), 0.3 * (w - s * t * found.centres[k]), rtol=0, atol=1e-6)
    found.weight.grad = None
    found.eval()
    (found(x) * 0).sum().backward()
    assert not found.weight.grad.any()


def test_every_step_of_the_centres_lowers_the_loss(trained):
    found = layer(trained, count=5)
    w, s, losses = found.weight.detach().flatten(1), found.mean_size()[:, None], []
    for _ in range(5):
        losses.append(float(found.distance().detach()))
        found.centres.copy_(recentred(w, s, found.centres))
        assert set(found.centres.unique().tolist()) == {-1.0, 1.0}
    assert all(b <= a for a, b in itertools.pairwise(losses)) and losses[-1] < losses[0]


def test_without_weight_it_is_bireal(trained, digits):
    x, y = digits[0][:64], digits[1][:64]
    fit = lambda net, **_: few_steps(net, x, y)
    first, second = (m.compress(trained, x[:1], x, fit) for m in (BiReal(), MST(weight=0)))
    assert torch.equal(first(x), second(x))


def test_contract_and_limits(tmp_path):
    network = check_compressor(MST(), tmp_path)
    assert [t.filters for t in mst.layers(network.graph)]
    with pytest.raises(NetwrightError, match="at least one centre"):
        MST(centres=0)
    with pytest.raises(NetwrightError, match="weight of at least 0"):
        MST(weight=-1)
    trainee = MST(centres=100).prepare(ExampleNet().eval(), torch.zeros(1, 1, 8, 8), torch.rand(8, 1, 8, 8))
    assert {len(m.centres) for m in trainee.modules() if isinstance(m, MSTLayer)} == {4, 6}


def test_a_loss_beside_the_output_gets_the_gradient_one():
    x, w = torch.ones(3, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    WithLoss.apply(2 * x, w**2).sum().backward()
    assert x.grad.tolist() == [2, 2, 2] and float(w.grad) == 4
