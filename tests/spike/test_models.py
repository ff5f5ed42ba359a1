"""Families of spiking networks: weight-shared, streamed as trained, additions only where that is claimed."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.signal import cont2discrete
from torch import nn

from netwright.bench.spike.models import Models, recall
from netwright.core.errors import NetwrightError, UnknownName
from netwright.core.paper import Paper
from netwright.core.space import Space, choice, ints
from netwright.design import Supernet
from netwright.spike.layers import Spiking
from netwright.spike.models import (
    CATALOGUE,
    PHCSSM,
    VARIANTS,
    LifCnn,
    LifRnn,
    LMUFormer,
    MaskedReconstruction,
    MetaSpikeFormer,
    SpikeStage,
    SpikformerV2,
    products,
)
from netwright.spike.models.family import LIVELY
from netwright.spike.models.lmuformer import LegendreMemory, legendre

IMAGE, SEQUENCE = (4, 1, 8, 8), (4, 6, 5)
SPIKFORMER = SpikformerV2(16, 1, 8, 2, (1, 2), 1, 1, 10, 2, LIVELY)
STAGES = (SpikeStage("conv", 1, 8, 1, 3, 2), SpikeStage("transformer", 1, 16, 2, 3, 2, 8))
META = MetaSpikeFormer(STAGES, channels=1, classes=10, steps=2, neuron=LIVELY)

SPACES = {
    "spikformer-v2": (replace(SPIKFORMER, width=choice(8, 16), depth=ints(1, 2), expansion=choice(1, 2)), IMAGE),
    "meta-spikeformer": (
        replace(
            META,
            stages=(
                replace(STAGES[0], width=choice(8, 12), kernel=choice(3, 5), kind=choice("conv", "transformer"), head_width=4),
                replace(STAGES[1], width=choice(8, 16), depth=ints(1, 2)),
            ),
        ),
        IMAGE,
    ),
    "lif-cnn": (LifCnn((choice(4, 8), choice(8, 12)), steps=2), IMAGE),
    "lmuformer": (LMUFormer(choice(6, 8), ints(1, 2), choice(4, 6), 8.0, 2, 2, choice(2, 3), 5, 10, True), SEQUENCE),
    "phcssm": (PHCSSM(choice(5, 10), 3, ints(2, 3), choice("feedforward", "recurrent"), channels=5), SEQUENCE),
    "lif-rnn": (LifRnn(choice(6, 12), channels=5), SEQUENCE),
}


def lively(net: nn.Module, x: torch.Tensor) -> nn.Module:
    """In evaluation mode, with batch statistics of x and norms that are no identity."""
    for m in net.modules():
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(m.weight, 0.7, 1.5)
            nn.init.uniform_(m.bias, 0.0, 0.6)
            m.momentum = None
    with torch.no_grad():
        net.train()(x)
    return net.eval()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_the_catalogue_has_every_family_with_its_paper():
    assert set(CATALOGUE) == set(SPACES)
    for name, family in CATALOGUE.items():
        assert family.name == name and isinstance(family.paper, Paper)


@pytest.mark.parametrize("name", SPACES)
def test_families_are_searchable_and_share_weights(name):
    config, shape = SPACES[name]
    supernet, rng = Supernet(Space(name, config), seed=0), random.Random(0)
    x = torch.randn(shape)
    for arch in [supernet.space.largest(), supernet.space.smallest(), *(supernet.space.sample(rng) for _ in range(3))]:
        out = supernet.call(arch, x)
        assert torch.equal(out, supernet.subnet(arch).train()(x)) and out.shape == (4, 10)
    supernet.zero_grad()
    out.square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in supernet.parameters())


def parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in VARIANTS[name].build().parameters())


def test_published_variants_have_the_published_sizes():
    """Millions, against the papers' figures as we know them (from memory, not looked up)."""
    assert round(parameters("meta_spikeformer_8_384") / 1e6, 1) == 31.3
    assert round(parameters("meta_spikeformer_8_512") / 1e6, 1) == 55.3  # the paper prints 55.4
    assert round(parameters("lmuformer_speech_commands") / 1e6, 2) == 1.62


def test_small_variants_are_small():
    assert all(parameters(name) <= 1e6 for name in VARIANTS if name.startswith(("digits", "cifar", "rows")))
    assert parameters("rows_phcssm") <= 5000


def test_the_legendre_memory_is_discretised_by_zero_order_hold():
    d, w = 6, 20.0
    i, j = np.meshgrid(np.arange(d), np.arange(d), indexing="ij")
    a = (2 * i + 1) / w * np.where(i < j, -1.0, (-1.0) ** (i - j + 1))
    b = ((2 * np.arange(d) + 1) / w * (-1.0) ** np.arange(d))[:, None]
    ad, bd, *_ = cont2discrete((a, b, np.eye(d), np.zeros((d, 1))), 1.0, "zoh")
    assert np.allclose(legendre(d, w)[0], ad) and np.allclose(legendre(d, w)[1], bd[:, 0])


def test_the_legendre_memory_holds_its_window():
    """Shifted Legendre polynomials at r weigh the coefficients to the input r windows ago."""
    w, t = 64.0, torch.arange(256, dtype=torch.float64)
    u = torch.sin(t / 15)
    m = LegendreMemory(8, w)(u[:, None, None])[-1, 0]
    for ago in (0, 16, 48, 64):
        decoded = np.polynomial.legendre.legval(2 * ago / w - 1, m.numpy())
        assert abs(decoded - float(u[255 - ago])) < 0.05


def test_the_memory_in_parallel_equals_the_recurrence():
    memory, u, m = LegendreMemory(16, 100.0), torch.randn(160, 3, 1), None
    parallel = memory(u)
    for t in range(160):
        y, m = memory.step(u[t], m)
        assert (y - parallel[t]).abs().max() <= 1e-4


@pytest.mark.parametrize("spiking", [False, True])
def test_lmuformer_streams_what_it_was_trained_as(spiking):
    x = torch.randn(4, 40, 5, dtype=torch.float64)
    net = lively(LMUFormer(8, 2, 6, 20.0, 2, 2, channels=5, classes=10, spiking=spiking).build().double(), x)
    with torch.no_grad():
        state = None
        for t in range(40):
            logits, state = net.step(x[:, t], state)
            if t in (0, 7, 39):
                assert (logits - net(x[:, : t + 1])).abs().max() < 1e-12
        assert logits.std() > 0.01


def phcssm(**fields):
    net = PHCSSM(10, 3, channels=5, **fields).build().double()
    with torch.no_grad():
        for u in net.of_input:
            u.weight *= 2
    return net


def stepped(net, x):
    state, spikes = None, []
    for t in range(x.shape[1]):
        s, state = net.step(x[:, t], state)
        spikes.append(s)
    return torch.stack(spikes)


@pytest.mark.parametrize("connectome", ["feedforward", "recurrent"])
@pytest.mark.parametrize("adapt,delay", [(False, True), (True, True), (False, False)])
def test_phcssm_steps_as_it_scans(connectome, adapt, delay):
    net, x = phcssm(connectome=connectome, adapt=adapt, delay=delay), torch.randn(4, 50, 5, dtype=torch.float64)
    with torch.no_grad():
        spikes = net.spikes(x)
        assert 0.01 < spikes.mean() < 0.9 and all(spikes[:, :, r].sum() > 0 for r in range(3))
        assert torch.equal(spikes, stepped(net, x))


def test_one_state_a_neuron_is_exact_without_loops_and_not_with_them():
    x = torch.randn(4, 50, 5, dtype=torch.float64)
    assert phcssm(connectome="feedforward", loops=3).disagreement(x) == 0
    assert phcssm(connectome="recurrent", loops=3).disagreement(x) > 0


def test_dales_law_fixes_the_sign_of_a_sender():
    net = phcssm(dale=True)
    with torch.no_grad():
        for synapse in net.synapses.values():
            synapse.weight.normal_()
            effect = synapse(torch.eye(10, dtype=torch.float64))  # row = sender
            assert (effect[[4, 9]] <= 0).all() and (effect[[i for i in range(10) if i % 5 != 4]] >= 0).all()


def test_attention_is_the_product_of_spikes_without_softmax():
    attention = SPIKFORMER.build().blocks[0].attention
    x = (torch.rand(2, 3, 16, 4, 4) < 0.4).float()
    lively(attention, x)
    seen = {}
    attention.fire.register_forward_pre_hook(lambda m, args: seen.update(y=args[0]))
    with torch.no_grad():
        attention(x)
        q, k, v = (part(x).flatten(3) for part in (attention.q, attention.k, attention.v))
    assert all(set(s.unique().tolist()) == {0.0, 1.0} for s in (q, k, v))
    for head in range(2):
        rows = slice(8 * head, 8 * head + 8)
        wanted = 0.125 * torch.einsum("tncq,tnck,tndk->tndq", q[:, :, rows], k[:, :, rows], v[:, :, rows])
        assert torch.equal(seen["y"].flatten(3)[:, :, rows], wanted)


def test_masked_reconstruction_never_sees_hidden_pixels():
    masked, x = MaskedReconstruction(SPIKFORMER.build(), (1, 8, 8)), torch.randn(4, 1, 8, 8)
    lively(masked.encoder, x)
    visible = masked.visible(4, torch.Generator().manual_seed(0))
    assert visible.shape == (4, 8)
    hidden = torch.ones(4, 16).scatter(1, visible, 0.0).reshape(4, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    with torch.no_grad():
        before, after = (masked.encoder.features(y, visible) for y in (x, x + 3 * hidden))
        assert torch.equal(before, after) and before.sum() > 0
        assert not torch.equal(before, masked.encoder.features(x + 3 * (1 - hidden), visible))


def test_masked_reconstruction_learns():
    masked = MaskedReconstruction(SPIKFORMER.build(), (1, 8, 8), width=16)
    x = torch.linspace(-1, 1, 8).expand(16, 1, 8, 8) * torch.randn(16, 1, 1, 1)
    before = masked.encoder.input.conv.weight.detach().clone()
    optimiser, losses = torch.optim.Adam(masked.parameters(), 1e-2), []
    for _ in range(40):
        optimiser.zero_grad()
        loss = masked(x).mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    assert not torch.equal(before, masked.encoder.input.conv.weight)


def test_a_merged_meta_spikeformer_is_the_same_function():
    x = torch.randn(8, 1, 8, 8, dtype=torch.float64)
    net = lively(META.build().double(), x)
    merged = net.merged(x[:1])
    with torch.no_grad():
        assert (net(x) - merged(x)).abs().max() < 1e-9 and net(x).std() > 0.01
    assert not any(isinstance(m, nn.BatchNorm2d) for m in merged.modules())
    with pytest.raises(NetwrightError, match="merged for"):
        merged(torch.randn(1, 1, 10, 10, dtype=torch.float64))
    with pytest.raises(NetwrightError, match="eval"):
        net.train().merged(x[:1])


def test_a_merged_meta_spikeformer_only_adds():
    """Every product but those of the image has a spike for a factor, or a count of spikes before the classifier."""
    x = torch.randn(8, 1, 8, 8)
    net = lively(META.build(), x)
    merged, rates = net.merged(x[:1]), []
    for m in merged.modules():
        if isinstance(m, Spiking):
            m.register_forward_hook(lambda m, args, out: rates.append(float(out.mean())))
    found = products(merged, x[:1])
    assert min(rates) > 0, "a silent layer proves nothing"
    assert dict(found.analog) == {"input": 9 * 8 * 64}
    assert found.counts == 16 * 10 and found.largest <= 2 * 16
    assert found.spikes > 1e5 and found.neurons > 0
    before = products(net, x[:1])
    assert {"head", "input.conv"} < set(before.analog) and any("point_b" in name for name in before.analog)


def test_what_cannot_be_built_says_why():
    with pytest.raises(NetwrightError, match="heads of 8"):
        replace(SPIKFORMER, width=12).build()
    with pytest.raises(NetwrightError, match="heads of 8"):
        replace(META, stages=(STAGES[0], replace(STAGES[1], width=12))).build()
    with pytest.raises(UnknownName, match="transformer"):
        replace(META, stages=(replace(STAGES[0], kind="transfomer"),)).build()
    with pytest.raises(UnknownName, match="recurrent"):
        PHCSSM(connectome="recurent").build()
    with pytest.raises(NetwrightError, match="patches of 2"):
        MaskedReconstruction(SPIKFORMER.build(), (1, 7, 8))
    with pytest.raises(NetwrightError, match="sequence"):
        PHCSSM().build()(torch.randn(3, 8))


def test_contests_are_between_equals():
    for contest in (make() for make in Models.contests.values()):
        assert len(contest.ours.trials) == len(contest.theirs.trials)
        with pytest.raises(NetwrightError, match="no fair contest"):
            replace(contest, theirs=replace(contest.theirs, trials=contest.theirs.trials[:1]))


def test_recall_needs_the_first_steps():
    x, y = recall(64, 0)
    assert x.shape == (64, 128, 9) and torch.equal(x[:, :4].sum(1)[:, :8].argmax(1), y) and len(y.unique()) == 8
    assert torch.equal(recall(64, 0)[0], x) and not torch.equal(recall(64, 1)[0], x)
    assert not x[:, :-4, 8].any() and x[:, -4:, 8].all()
