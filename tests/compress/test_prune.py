"""Pruning: what goes together goes together, and each method does on scikit-learn's digits what its paper says."""

from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from netwright.compress.prune import FTWT, OPTIN, OTO, LayerDrop, Lottery, RandomTicket
from netwright.compress.prune.dropping import branches, importance
from netwright.compress.prune.ftwt import active, active_macs, largest
from netwright.compress.prune.lottery import Ticket
from netwright.compress.prune.oto import HalfSpace
from netwright.compress.prune.pruner import Masked, choose
from netwright.compress.prune.random_ticket import erk
from netwright.core.errors import NetwrightError
from netwright.core.graph import Graph
from netwright.design.channels import Channels, groups, remove
from netwright.design.execute import GraphModule
from netwright.design.trace import trace
from netwright.design.zoo import timm_model
from netwright.testing.compress import ExampleNet, few_steps


def timm_vit() -> nn.Module:
    if find_spec("timm") is None:
        pytest.skip("timm is not installed (pip install 'netwright[zoo]')")
    return timm_model("test_vit")


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


class Residual(nn.Module):
    def __init__(self, i: int, o: int, stride: int = 1):
        super().__init__()
        self.f = nn.Sequential(
            nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(),
            nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o),
        )  # fmt: skip
        same = i == o and stride == 1
        self.short = nn.Sequential() if same else nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x):
        return F.relu(self.short(x) + self.f(x))


def resnet(c: int = 8) -> nn.Module:
    """ResNet-8: three residual blocks of two convolutions."""
    return nn.Sequential(
        nn.Conv2d(1, c, 3, 1, 1, bias=False), nn.BatchNorm2d(c), nn.ReLU(),
        Residual(c, c), Residual(c, 2 * c, 2), Residual(2 * c, 4 * c, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * c, 10),
    )  # fmt: skip


class Dense(nn.Module):
    """Concatenations, and a flattened picture before the last layer."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 6, 3, padding=1)
        self.b = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1))
        self.c = nn.Sequential(nn.BatchNorm2d(10), nn.ReLU(), nn.Conv2d(10, 5, 3, padding=1))
        self.head = nn.Linear(15 * 16, 10)

    def forward(self, x):
        x = self.a(x)
        x = torch.cat([x, self.b(x)], 1)
        x = torch.cat([x, self.c(x)], 1)
        return self.head(F.max_pool2d(x, 2).flatten(1))


def unit(i: int, o: int, k: int = 1, g: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(i, o, k, 1, k // 2, groups=g, bias=False), nn.BatchNorm2d(o), nn.ReLU6())


class Mobile(nn.Module):
    """An inverted residual with squeeze and excitation, whose gate is not zero for a zero channel."""

    def __init__(self):
        super().__init__()
        self.stem, self.up, self.deep = unit(1, 6, 3), unit(6, 18), unit(18, 18, 3, 18)
        self.squeeze, self.excite = nn.Conv2d(18, 4, 1), nn.Conv2d(4, 18, 1)
        self.down, self.head = nn.Sequential(nn.Conv2d(18, 6, 1, bias=False), nn.BatchNorm2d(6)), nn.Linear(6, 10)

    def forward(self, x):
        x = self.stem(x)
        y = self.deep(self.up(x))
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return self.head((x + self.down(y)).mean((2, 3)))


class Shuffled(nn.Module):
    """Halves of the channels, of which one goes on; a grouped convolution, which cannot lose channels; a transposed one."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.c, self.grouped = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.wide, self.head = nn.ConvTranspose2d(8, 6, 2, 2), nn.Linear(6, 10)

    def forward(self, x):
        left, right = self.a(x).chunk(2, 1)
        x = self.c(torch.cat([left, F.relu(self.b(right))], 1))
        return self.head(F.relu(self.wide(self.grouped(x))).mean((2, 3)))


def lively(net: nn.Module) -> nn.Module:
    """Batch norms with statistics and factors of their own, so that nothing is zero or one by chance."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            for value, low, high in ((m.running_mean, -1, 1), (m.running_var, 0.5, 2), (m.weight, -1, 1), (m.bias, -1, 1)):
                nn.init.uniform_(value, low, high)
    return net.eval()


NETWORKS = {
    "example": (ExampleNet, (1, 8, 8)), "resnet": (resnet, (1, 8, 8)), "dense": (Dense, (1, 8, 8)),
    "mobile": (Mobile, (1, 8, 8)), "shuffled": (Shuffled, (1, 8, 8)), "vit": (timm_vit, (3, 160, 160)),
}  # fmt: skip


@pytest.fixture(scope="module")
def vit() -> Graph:
    return trace(seeded(timm_vit).eval(), torch.zeros(1, 3, 160, 160))


@pytest.fixture(params=NETWORKS)
def traced(request):
    make, shape = NETWORKS[request.param]
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    graph = request.getfixturevalue("vit") if request.param == "vit" else trace(seeded(lambda: lively(make())), x[:1])
    return graph, x


@torch.no_grad()
def test_removing_channels_that_nothing_reads_changes_no_output(traced):
    graph, x = traced
    found = [g for g in groups(graph) if g.exact]
    removed = {g.name: range(0, g.size - 1, 2) for g in found}
    values = {k: np.array(v) for k, v in graph.values.items()}
    for g in found:
        for part in g.parts:
            if part.does == "reads":
                np.moveaxis(values[part.key], part.axis, 0)[np.isin(part.unit, list(removed[g.name]))] = 0
    masked = GraphModule(graph.replace(graph.nodes, values=values)).eval()(x)
    small = remove(graph, removed)
    shapes = {}
    GraphModule(small).eval()(x[:1], visit=lambda node, out: shapes.update({node.name: tuple(out.shape)}))
    torch.testing.assert_close(GraphModule(small).eval()(x), masked, rtol=1e-4, atol=1e-5)
    assert shapes == {n.name: n.spec.shape for n in small}
    assert all(small.params[k].shape == v.shape for k, v in small.values.items())
    assert small.macs < 0.8 * graph.macs and small.parameters < 0.9 * graph.parameters
    assert Channels(graph).macs(removed) == small.macs


def test_macs_of_the_smaller_graph_are_those_of_a_smaller_module():
    graph = trace(lively(resnet(8)), torch.zeros(1, 1, 8, 8))
    half = remove(graph, {g.name: range(g.size // 2) for g in groups(graph)})
    assert half.macs == trace(resnet(4), torch.zeros(1, 1, 8, 8)).macs
    assert half.parameters == trace(resnet(4), torch.zeros(1, 1, 8, 8)).parameters


def test_groups_of_a_transformer(vit):
    found = {g.name: g for g in groups(vit)}
    heads, neurons = found["blocks.0.attn.qkv.weight"], found["blocks.0.mlp.fc1.weight"]
    assert (heads.size, neurons.size) == (2, 192)
    rows = next(p for p in heads.parts if p.key == heads.name)
    assert np.bincount(rows.unit).tolist() == [96, 96]  # 32 rows each of query, key and value
    assert [g.size for g in found.values() if not g.exact] == [64]  # layer norm runs over the width
    small = GraphModule(remove(vit, {heads.name: [0], "patch_embed.proj.weight": range(16)})).eval()
    assert small(torch.zeros(2, 3, 160, 160)).shape == (2, 1000)
    assert next(n for n in small.graph if n.op == "sdpa").spec.shape == (1, 1, 101, 32)


def test_what_cannot_be_removed_is_refused():
    graph = trace(resnet(), torch.zeros(1, 1, 8, 8))
    with pytest.raises(NetwrightError, match=r"no group of channels named 'stem'.*3.f.0.weight"):
        remove(graph, {"stem": [0]})
    with pytest.raises(NetwrightError, match="Keep at least one"):
        remove(graph, {"0.weight": range(8)})
    with pytest.raises(NetwrightError, match="channels 0 to 7"):
        remove(graph, {"0.weight": [8]})
    assert "8.weight" not in {g.name for g in groups(graph)}  # the classes stay


# digits


@pytest.fixture(scope="module")
def digits():
    bunch = load_digits()
    x, y = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16, torch.tensor(bunch.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order[:1300]], y[order[:1300]], x[order[1300:]], y[order[1300:]]


def trainer(digits, epochs: int):
    x, y = digits[:2]

    def fit(net: nn.Module, share: float = 1.0, lr: float = 2e-3, **_: object) -> nn.Module:
        generator = torch.Generator().manual_seed(0)
        optimiser = torch.optim.Adam(net.parameters(), lr)
        total = max(1, round(epochs * share)) * math.ceil(len(x) / 64)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, total)
        net.train()
        while schedule.last_epoch < total:
            for i in torch.randperm(len(x), generator=generator).split(64):
                if isinstance(net, Masked):
                    net.follow(schedule.last_epoch / total)
                loss = F.cross_entropy(net(x[i]), y[i])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
        return net.eval()

    return fit


@torch.no_grad()
def accuracy(net: nn.Module, digits) -> float:
    return float((net(digits[2]).argmax(1) == digits[3]).float().mean())


@pytest.fixture(scope="module")
def trained(digits):
    net = trainer(digits, 8)(seeded(resnet))
    assert accuracy(net, digits) > 0.96
    return net


def zeros(network: GraphModule) -> tuple[float, list[float]]:
    """Share of zeros in all weights of layers, and in each."""
    weights = [network.graph.value(n, "weight") for n in network.graph if n.op in ("conv2d", "linear")]
    return sum((w == 0).sum() for w in weights) / sum(w.size for w in weights), [float((w == 0).mean()) for w in weights]


def test_oto_halves_the_macs_in_one_training_and_erasing_changes_nothing(digits):
    method = OTO(target=0.5)
    trainee = method.prepare(seeded(resnet), digits[0][:1], digits[0])
    before = trainee.graph
    trainer(digits, 8)(trainee)
    assert isinstance(trainee, HalfSpace) and bool((trainee.zero == trainee.redundant).all())
    network = method.finish(trainee, digits[0])
    with torch.no_grad():
        torch.testing.assert_close(network(digits[2]), trainee(digits[2]), rtol=1e-4, atol=1e-4)
    assert 0.4 * before.macs < network.graph.macs <= 0.5 * before.macs
    assert network.graph.parameters < 0.9 * before.parameters
    assert accuracy(network, digits) > 0.94


def test_oto_goes_on_from_its_state(digits):
    method = OTO(target=0.5, end=0.6)
    first, second = (method.prepare(seeded(resnet), digits[0][:1], digits[0]) for _ in range(2))
    for progress in (0.0, 0.05, 0.2, 0.4):
        few_steps(first, digits[0][:32], digits[1][:32], 1)
        first.follow(progress)
    second.load_state_dict(first.state_dict())
    for progress in (0.5, 0.9):
        for trainee in (first, second):
            trainee.follow(progress)
            few_steps(trainee, digits[0][:32], digits[1][:32], 1)
    assert first.removed() == second.removed()
    with torch.no_grad():
        assert torch.equal(first(digits[2]), second(digits[2]))


def test_oto_shrinks_redundant_groups_along_a_line_and_leaves_the_others(digits):
    trainee = OTO(target=0.5, start=0.0, end=0.8).prepare(seeded(resnet), digits[0][:1], digits[0])
    norm = lambda: trainee._sums(lambda k: trainee.value(k).detach() ** 2).sqrt()
    whole = norm()
    trainee.follow(0.0)
    trainee.follow(0.4)
    redundant = trainee.redundant
    torch.testing.assert_close(norm()[redundant], 0.5 * whole[redundant])
    torch.testing.assert_close(norm()[~redundant], whole[~redundant])
    trainee.follow(0.8)
    assert not norm()[redundant].any()


def test_the_half_space_projection_zeroes_what_a_step_turns_around(digits):
    trainee = OTO(target=0.5, start=0.0, end=0.9).prepare(seeded(resnet), digits[0][:1], digits[0])
    trainee.follow(0.0)
    chosen = int(trainee.redundant.nonzero()[0])
    group = next(g for g in trainee.groups if trainee.first[g.name] <= chosen < trainee.first[g.name] + g.size)
    with torch.no_grad():  # a trial step that turns one group around
        for part in group.parts:
            if part.does == "writes":
                at = torch.from_numpy(np.flatnonzero(part.unit == chosen - trainee.first[group.name]))
                trainee.value(part.key).data.movedim(part.axis, 0)[at] *= -0.1
    trainee.follow(0.1)
    assert trainee.zero.nonzero().flatten().tolist() == [chosen]


def test_an_early_end_of_the_training_still_meets_the_budget(digits):
    network = OTO(target=0.5).compress(seeded(resnet), digits[0][:1], digits[0], trainer((digits[0][:64], digits[1][:64]), 1))
    assert network.graph.macs <= 0.5 * trace(resnet(), digits[0][:1]).macs


def test_a_lottery_ticket_of_a_fifth_of_the_weights_trains_as_well(digits):
    network = Lottery(sparsity=0.8).compress(seeded(resnet), digits[0][:1], digits[0], trainer(digits, 16))
    assert zeros(network)[0] == pytest.approx(0.8, abs=1e-3)
    assert accuracy(network, digits) > 0.95


def test_tickets_rewind_to_the_early_weights_and_lose_the_same_share_each_round():
    method = Lottery(sparsity=0.75, rounds=2)
    assert [s.name for s in method.stages] == ["rewind", "dense", "round 1", "round 2"]
    assert sum(s.share for s in method.stages) == pytest.approx(1)
    x = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    target, sparsities, early = torch.arange(32) % 10, [], {}
    trainee = method.prepare(seeded(resnet), x[:1], x)
    assert isinstance(trainee, Ticket)
    for stage in method.stages:
        method.begin(trainee, stage)
        if stage.name == "dense":
            early = {k: trainee.value(k).detach().clone() for k in trainee.masked}
        elif early:
            assert all(torch.equal(trainee.value(k), v) for k, v in early.items())
        sparsities.append(trainee.sparsity)
        few_steps(trainee, x, target, lr=1e-2)
    assert sparsities == pytest.approx([0, 0, 0.5, 0.75], abs=1e-3)
    assert any(not torch.equal(trainee.value(k), v) for k, v in early.items())


def test_random_tickets_keep_their_mask_and_their_share(digits):
    fit, scores = trainer(digits, 8), {}
    for ratios in ("erk", "uniform"):
        network = RandomTicket(0.8, ratios).compress(seeded(resnet), digits[0][:1], digits[0], fit)
        whole, each = zeros(network)
        scores[ratios] = accuracy(network, digits)
        assert whole == pytest.approx(0.8, abs=2e-3)
        assert (max(each) - min(each) < 0.02) == (ratios == "uniform")
    assert min(scores.values()) > 0.9


def test_erdos_renyi_kernel_ratios():
    shapes = [(16, 1, 3, 3), (32, 16, 3, 3), (64, 32, 3, 3), (10, 64)]
    found = erk(shapes, 0.2)
    sizes = [math.prod(s) for s in shapes]
    assert sum(f * n for f, n in zip(found, sizes, strict=True)) == pytest.approx(0.2 * sum(sizes))
    assert found[0] == 1 and max(found) <= 1
    scale = [f / (sum(s) / n) for f, s, n in zip(found, shapes, sizes, strict=True) if f < 1]
    assert max(scale) == pytest.approx(min(scale))
    assert erk(shapes, 1.0) == pytest.approx([1, 1, 1, 1])


def test_optin_keeps_what_random_choice_loses(digits, trained):
    network = OPTIN(target=0.3, samples=64).compress(trained, digits[0][:1], digits[0])
    channels = Channels(trace(trained, digits[0][:1]))
    random = []
    for seed in range(5):
        draw = np.random.default_rng(seed)
        chosen = choose(channels, {g.name: draw.random(g.size) for g in channels.groups}, 0.3)
        random.append(accuracy(GraphModule(channels.remove(chosen)).eval(), digits))
    assert network.graph.macs <= 0.7 * channels.graph.macs
    assert accuracy(network, digits) > max(0.8, np.mean(random) + 0.2)


class Mixer(nn.Module):
    """A transformer's feed-forward layer in which neurons 0, 2, 4, ... of the hidden 16 do almost nothing."""

    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down, self.head = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 10)
        self.down.weight.data[:, ::2] *= 1e-3

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        return self.head((x + self.down(F.gelu(self.up(self.norm(x))))).mean(1))


def test_optin_removes_the_idle_neurons(generator):
    net, x = seeded(Mixer).eval(), torch.randn(8, 8, 4, 4, generator=generator)
    share = 8 * 16 * 16 / trace(net, x[:1]).macs  # of the up and down projections, half
    network = OPTIN(target=share).compress(net, x[:1], x)
    torch.testing.assert_close(network.graph.values["up.weight"], net.up.weight.detach().numpy()[1::2])
    with torch.no_grad():
        torch.testing.assert_close(network(x), net(x), atol=1e-2, rtol=0)


def test_optin_takes_heads_and_neurons_of_a_vit(vit, generator):
    x = torch.randn(1, 3, 160, 160, generator=generator)
    channels, method = Channels(vit), OPTIN(target=0.2, samples=1)
    few = Graph(vit.nodes, vit.outputs, vit.params, vit.values)
    network = method.finish(GraphModule(few).eval(), x)
    assert network(x).shape == (1, 1000) and network.graph.macs <= 0.8 * channels.graph.macs
    assert [n.spec.shape[2] for n in network.graph if n.op == "gelu"] != [192] * 6


class Blocks(nn.Module):
    """Four residual blocks, of which the third does next to nothing."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 10)
        self.layers = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(4))
        self.layers[2][0].weight.data *= 1e-3
        self.layers[2][0].bias.data *= 1e-3

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x.mean((2, 3)))


@torch.no_grad()
def test_the_branch_that_does_least_is_dropped(generator):
    net, x = seeded(Blocks).eval(), torch.rand(16, 1, 8, 8, generator=generator)
    graph = trace(net, x[:1])
    found = branches(graph)
    scores = list(importance(graph, found, x).values())
    assert len(found) == 4 and np.argmin(scores) == 2 and 0 <= min(scores) < 1e-4
    network = LayerDrop(count=1).compress(net, x[:1], x)
    torch.testing.assert_close(network(x), net(x), atol=1e-2, rtol=0)
    assert network.graph.parameters == graph.parameters - (8 * 8 * 9 + 8)
    assert all(".2." not in k for k in network.graph.params)


@torch.no_grad()
def test_attention_layers_of_a_vit_are_dropped(vit, generator):
    x = torch.randn(2, 3, 160, 160, generator=generator)
    found = branches(vit)
    assert [b.attention for b in found] == [True, False] * 6
    network = LayerDrop(count=2, kind="attention").finish(GraphModule(vit).eval(), x)
    assert [n.op for n in network.graph].count("sdpa") == 4
    scores = importance(vit, found, x)
    attention = sorted((b for b in found if b.attention), key=lambda b: scores[b.total])
    assert {b.total for b in found} - {n.name for n in network.graph} == {b.total for b in attention[:2]}
    with pytest.raises(NetwrightError, match=r"erase 7 .*'attention'; the network has 6. Give count=6"):
        LayerDrop(count=7, kind="attention").finish(GraphModule(vit).eval(), x)


def test_ftwt_switches_channels_off_input_by_input(digits, trained):
    method = FTWT(tau=0.8)
    trainee = trainer(digits, 6)(method.prepare(trained, digits[0][:1], digits[0]))
    network = method.finish(trainee, digits[0])
    with torch.no_grad():
        assert torch.equal(network(digits[2]), trainee(digits[2]))
    shares = active(network, digits[2])
    assert accuracy(network, digits) > 0.94
    assert len(shares) == 8 and min(shares.values()) < 0.7  # all convolutions but the first
    macs = {n.name: n.macs for n in network.graph}
    left = macs | {name: share * macs[name] for name, share in shares.items()}
    assert active_macs(network, digits[2]) == pytest.approx(sum(left.values()), rel=1e-5)
    assert active_macs(network, digits[2]) < active_macs(network, digits[2], block=16) <= network.graph.macs
    gates = {}
    network(digits[2], visit=lambda node, out: gates.update({node.name: out}) if node.name.endswith(".gate") else None)
    assert any(len(torch.unique(g.flatten(1), dim=0)) > 1 for g in gates.values())  # dynamic


def test_the_target_is_the_fewest_channels_with_the_mass():
    y = torch.tensor([5.0, 1.0, -3.0, 1.0])[None, :, None, None]
    assert largest(y, 0.5).tolist() == [[1, 0, 0, 0]]
    assert largest(y, 0.8).tolist() == [[1, 0, 1, 0]]
    assert largest(y, 1.0).tolist() == [[1, 1, 1, 1]]


def test_predictors_learn_without_touching_the_network(digits, trained):
    trainee = FTWT(weight=2.0).prepare(trained, digits[0][:1], digits[0]).train()
    trainee(digits[0][:64]).sum().mul(0).backward()  # a loss of the task without a gradient
    assert all(p.grad.abs().sum() > 0 for p in trainee.predictors.parameters())
    assert all(not p.grad.any() for name, p in trainee.named_parameters() if name.startswith("w_") and p.grad is not None)


# the contract of a float compressor


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OTO(target=1.0), "oto was asked for target = 1.0.*target=0.5"),
        (lambda: OTO(start=0.7), "shrink channels from 0.7 to 0.35"),
        (lambda: OTO(multiple=0), "multiple = 0"),
        (lambda: OPTIN(target=-0.1), "target = -0.1"),
        (lambda: OPTIN(samples=0), "at least one sample"),
        (lambda: Lottery(sparsity=1.5), "lottery was asked for sparsity = 1.5"),
        (lambda: Lottery(rounds=0), "rounds = 0"),
        (lambda: RandomTicket(sparsity=1.0), "sparsity = 1.0"),
        (lambda: RandomTicket(ratios="erkk"), "Did you mean 'erk'"),
        (lambda: LayerDrop(part=1.0), "part = 1.0"),
        (lambda: LayerDrop(kind="attn"), "no kind of branch named 'attn'"),
        (lambda: FTWT(tau=0.0), "tau = 0.0"),
    ],
)
def test_wrong_fields_say_what_to_do(make, message):
    with pytest.raises(NetwrightError, match=message):
        make()


def test_what_is_left_of_a_large_group_is_a_multiple(digits):
    """16, 32 and 64 channels: the first group is too small for a multiple of 16 and goes channel by channel."""
    channels = Channels(trace(resnet(16), digits[0][:1]))
    draw = np.random.default_rng(0)
    saliency = {g.name: draw.random(g.size) for g in channels.groups}
    sizes = {g.name: g.size for g in channels.groups}
    chosen = choose(channels, saliency, 0.5, multiple=16)
    assert channels.macs(chosen) <= 0.5 * channels.graph.macs
    left = {name: sizes[name] - len(units) for name, units in chosen.items()}
    assert all(n % 16 == 0 and n > 0 for name, n in left.items() if sizes[name] >= 32) and left
    for name, units in chosen.items():
        removed, rest = saliency[name][units], np.delete(saliency[name], units)
        assert len(set(units)) == len(units) and removed.max() < rest.min(), "the least salient go"


def test_a_budget_out_of_reach_is_said_before_training(digits):
    with pytest.raises(NetwrightError, match=r"99% of .* MACs were to be removed.*Give a target of at most 0.9"):
        OTO(target=0.99).prepare(resnet(), digits[0][:1], digits[0])
    with pytest.raises(NetwrightError, match="this network has none"):
        FTWT().prepare(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), digits[0][:1], digits[0])
