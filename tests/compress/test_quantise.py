"""Quantisers of few bits: equations on grids, orders of errors, budgets against brute force, and the contract."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from netwright.compress.coded import weighted
from netwright.compress.codes import quantise_weights
from netwright.compress.quantise import CATALOGUE, NUPES, Int8, LSQInt, MixedPrecision, Uniform, stored_bits
from netwright.compress.quantise import nupes as power
from netwright.compress.quantise.lsq import LearnedStep
from netwright.compress.quantise.policy import Choice, LayerBits, Policy, choose, cost_of, sensitivities, space
from netwright.compress.quantise.storage import packed_bits
from netwright.compress.quantise.uniform import uniform_codes
from netwright.compress.trainee import float_plan
from netwright.core.errors import DataError, NetwrightError, UnknownName
from netwright.design.trace import trace
from netwright.testing.compress import ExampleNet, check_compressor

METHODS = [Uniform(), Uniform(bits=2), Uniform(bits=5, weights="percentile"), LSQInt(), LSQInt(bits=2), NUPES(steps=20, sweeps=1),
           NUPES(bits=2, steps=10), MixedPrecision(), MixedPrecision(cost="bops", keep_first_last=False, budget=0.4)]  # fmt: skip


@pytest.fixture
def example():
    """A network with batch statistics of its data, the data, and its planned graph."""
    net, x = ExampleNet(), torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for _ in range(30):
        net.train()(x)
    net.eval()
    return net, x, float_plan(trace(net, x[:1]), x).graph


def bell(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Weights as trained ones are: many small, few large."""
    return np.random.default_rng(seed).standard_t(5, shape).astype(np.float32)


def decoded(codes) -> np.ndarray:
    return codes.codes * codes.scale.reshape(-1, *[1] * (codes.codes.ndim - 1))


# --- the contract -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_contract(method, tmp_path):
    check_compressor(method, tmp_path)


def test_the_folder_has_a_catalogue():
    assert set(CATALOGUE) == {"int8", "uniform", "lsqint", "nupes", "mixed"}


# --- uniform ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bits", range(2, 9))
def test_uniform_codes_are_the_equation(bits):
    w, top = bell((6, 3, 3, 3)), 2 ** (bits - 1) - 1
    for rule in ("minmax", "percentile", "mse"):
        codes = uniform_codes(w, bits, rule)
        q = np.clip(np.rint(w / codes.scale[:, None, None, None]), -top, top)
        assert np.array_equal(codes.codes, q) and codes.codes.dtype == np.int8 and codes.bits == (2 if bits == 2 else 8)
    top_of = np.abs(w).reshape(6, -1).max(1)
    assert np.allclose(uniform_codes(w, bits, "minmax").scale, top_of / top)


@pytest.mark.parametrize("bits", range(2, 9))
def test_calibrators_in_their_order(bits):
    w = bell((16, 400))
    found = {rule: uniform_codes(w, bits, rule) for rule in ("mse", "minmax", "percentile")}
    error = {rule: ((decoded(codes) - w) ** 2).sum(1) for rule, codes in found.items()}
    assert (error["mse"] <= error["minmax"] * (1 + 1e-6)).all()
    top = found["minmax"].scale
    assert (found["percentile"].scale < top).all() and (found["mse"].scale <= top * (1 + 1e-6)).all()
    wider = uniform_codes(w, min(8, bits + 1))
    assert ((decoded(wider) - w) ** 2).sum() <= error["mse"].sum()


def test_a_channel_of_zeros_stays_zero():
    w = bell((3, 2, 3, 3))
    w[1] = 0
    assert not uniform_codes(w, 4).codes[1].any() and np.isfinite(uniform_codes(w, 4).scale).all()
    found = power.clipped(torch.from_numpy(w).flatten(1), 0.6, 4)
    assert not found.whole[1].any() and bool(torch.isfinite(found.weight).all())


def test_uniform_in_8_bits_with_minmax_is_int8(example):
    net, x, _ = example
    assert np.array_equal(uniform_codes(w := bell((4, 9)), 8, "minmax").codes, quantise_weights(w).codes)
    a, b = (m.compress(net, x[:1], x).graph for m in (Uniform(bits=8, weights="minmax"), Int8()))
    nodes = [n for n in a if "weight" in n.weights]
    assert len(nodes) == 7 and all(np.array_equal(a.value(n, "weight"), b.value(b[n.name], "weight")) for n in nodes)


def test_first_and_last_layers_keep_8_bits(example):
    net, x, _ = example
    for keep in (True, False):
        graph = Uniform(bits=3, keep_first_last=keep).compress(net, x[:1], x).graph
        tops = [int(np.abs(graph.value(n, "weight").astype(int)).max()) for n in graph if n.op in ("qconv2d", "qlinear")]
        assert max(tops[1:4]) <= 3 and (min(tops[0], tops[-1]) == 127) is keep


# --- storage ----------------------------------------------------------------------------------------------------------
def test_packed_bits_count_what_a_file_needs():
    rng = np.random.default_rng(0)
    assert packed_bits(rng.integers(-7, 8, 1000)) == 4000
    assert packed_bits(np.array([-1, 1] * 50)) == 100 and packed_bits(np.array([-1, 0, 1] * 50)) == 300
    sparse = np.array([-127, -40, 0, 40, 127])[rng.integers(0, 5, 1000)]  # 3 bits an index and five bytes of table
    assert packed_bits(sparse) == 3000 + 40
    assert packed_bits(np.arange(-127, 128)) == 255 * 8


def test_stored_bits_of_networks(example):
    net, x, graph = example
    int8 = Int8().compress(net, x[:1], x).graph
    assert stored_bits(int8) <= 8 * int8.weight_bytes
    narrow = sum(graph.value(graph[name], "weight").size for name in Uniform().narrow(graph))
    for bits in (2, 3, 4):
        uniform = Uniform(bits=bits).compress(net, x[:1], x).graph
        assert stored_bits(uniform) <= 8 * int8.weight_bytes - (8 - bits) * narrow
        nupes = NUPES(bits=bits, steps=20, sweeps=1).compress(net, x[:1], x).graph
        assert stored_bits(nupes) <= 8 * int8.weight_bytes - (8 - bits) * narrow + 4 * 8 * (2**bits - 1)


# --- learned step size ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("qn", "qp"), [(1, 1), (7, 7), (8, 7), (127, 127)])
def test_lsq_gradients_are_the_formula(qn, qp):
    w = torch.linspace(-1.5, 1.5, 602, dtype=torch.float64).reshape(2, 301) * 0.3 * qp
    s = torch.tensor([[0.21], [0.34]], dtype=torch.float64)
    w.requires_grad_()
    s.requires_grad_()
    g = torch.randn(2, 301, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    out = LearnedStep.apply(w, s, qn, qp)
    out.backward(g)
    v = (w / s).detach()
    assert torch.allclose(out.detach(), torch.round(v.clamp(-qn, qp)) * s.detach(), atol=1e-12)
    for o in range(2):
        total = 0.0
        for k in range(301):
            at = float(v[o, k])
            slope = -qn if at < -qn else qp if at > qp else round(at) - at
            total += float(g[o, k]) * slope
            assert float(w.grad[o, k]) == (float(g[o, k]) if -qn <= at <= qp else 0.0)
        assert float(s.grad[o]) == pytest.approx(total / math.sqrt(301 * qp), abs=1e-6)


def test_lsq_for_one_step_is_the_ternary_one():
    from netwright.compress.ternarise.lsq import LearnedStep as Ternary

    w, g = torch.randn(2, 50), torch.randn(2, 50)
    found = []
    for function in (lambda w, s: LearnedStep.apply(w, s, 1, 1), Ternary.apply):
        a, s = w.clone().requires_grad_(), torch.tensor(0.7, requires_grad=True)
        function(a, s).backward(g)
        found.append((a.grad, s.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.allclose(found[0][1], found[1][1], atol=1e-6)


def test_a_learnt_step_approaches_the_best_one():
    """Weights alone to fit: descent on the step ends near the step of least squared error."""
    w = torch.from_numpy(bell((1, 500)))
    log_step = torch.tensor([[float(w.abs().max())]]).log().requires_grad_()
    optimiser = torch.optim.Adam([log_step], 0.02)
    for _ in range(400):
        optimiser.zero_grad()
        (LearnedStep.apply(w, log_step.exp(), 7, 7) - w).square().mean().backward()
        optimiser.step()
    learnt = float((LearnedStep.apply(w, log_step.detach().exp(), 7, 7) - w).square().mean())
    assert learnt <= 1.1 * float(np.mean((decoded(uniform_codes(w.numpy(), 4)) - w.numpy()) ** 2))


def test_what_lsq_trains_is_what_runs(example):
    net, x, _ = example
    for bits in (2, 4):
        method = LSQInt(bits=bits)
        trainee = method.prepare(net, x[:1], x).eval()
        network = method.finish(trainee, x)
        with torch.no_grad():
            a, b = trainee(x), network(x)
        assert float((a - b).abs().max()) <= 0.05 * float(a.std())


# --- power exponents --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_table_of_exponent_one_is_uniform(bits):
    top = 2 ** (bits - 1) - 1
    assert power.table(1.0, bits).tolist() == list(range(top + 1))
    for a in power.EXPONENTS:
        table = power.table(a, bits)
        assert table[0] == 0 and 1 <= table[-1] <= 127 and bool((table.diff() >= 0).all())
        real = (torch.arange(top + 1, dtype=torch.float64) / top) ** (1 / a)
        assert float((table - table[-1] * real).abs().max()) <= 0.5 + 1e-9


def test_power_codes_are_the_equation():
    w, peak, a = torch.from_numpy(bell((3, 40))), torch.tensor([1.0, 2.0, 0.5]), 0.6
    found = power.power_codes(w, peak, a, 4)
    for o, k in itertools.product(range(3), range(40)):
        q = math.copysign(round(7 * min(1.0, abs(float(w[o, k])) / float(peak[o])) ** a), float(w[o, k]))
        assert float(found.q[o, k]) == q
        assert float(found.weight[o, k]) == pytest.approx(
            math.copysign(float(peak[o]) * (abs(q) / 7) ** (1 / a), q), abs=float(peak[o]) * 0.5 / 64
        )


def test_gradient_of_the_exponent():
    u, peak = torch.from_numpy(bell((4, 60))).double(), torch.tensor([[1.0], [2.0], [0.5], [3.0]], dtype=torch.float64)
    g = torch.randn(4, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    u.requires_grad_()
    power.PowerRound.apply(u, peak, a, 7).backward(g)
    with torch.no_grad():
        q = torch.round(7 * (u.abs() / peak).clamp(max=1) ** a)

        def value(e: float) -> torch.Tensor:
            return peak * u.sign() * (q / 7) ** (1 / e)

        numeric = (g * (value(0.7 + 1e-6) - value(0.7 - 1e-6))).sum() / 2e-6
    assert float(a.grad) == pytest.approx(float(numeric), rel=1e-6)
    assert torch.equal(u.grad, g * (u.abs() <= peak))


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_the_search_without_data_beats_uniform_weights(bits):
    for seed in range(3):
        w = bell((8, 90), seed)
        x = torch.from_numpy(w)
        found = power.search(x, bits, lambda d: d.square().sum())
        uniform = ((decoded(uniform_codes(w, bits)) - w) ** 2).sum()
        error = float((found.weight - x).square().sum())
        assert error <= uniform * (1 + 1e-6)
        if bits == 4:
            assert error < 0.9 * uniform and found.exponent < 1


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 3, padding=1, bias=False),
        nn.Conv2d(4, 8, (3, 1), stride=2, padding=(2, 1), dilation=(2, 1), groups=2, bias=False),
        nn.Conv2d(4, 4, 3, groups=4, bias=False),
        nn.Linear(4, 5, bias=False),
    ],
)
def test_output_error_is_the_mean_squared_change_of_the_outputs(conv):
    x = torch.randn(5, 4, 7, 8) if isinstance(conv, nn.Conv2d) else torch.randn(5, 4)
    graph = trace(nn.Sequential(conv), x[:1])
    node = next(n for n in graph if n.weights)
    h = power.moments(graph, [node.name], x, batch=2)[node.name]
    d = torch.randn_like(conv.weight)
    with torch.no_grad():
        out = weighted(node, x, d, None)
    expected = out.square().sum(1).mean()
    assert float(power.output_error(d.flatten(1), h)) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_no_part_of_nupes_makes_the_outputs_worse(bits, example):
    _, x, graph = example
    for name, h in power.moments(graph, NUPES().narrow(graph), x).items():
        value = graph.value(graph[name], "weight")
        w = torch.from_numpy(value.copy()).flatten(1)
        uniform = torch.from_numpy(decoded(uniform_codes(value, bits))).float().flatten(1)
        start = power.search(w, bits, lambda d, h=h: power.output_error(d, h))
        learnt = power.learn(start, w, h, 50)
        end = power.settle(learnt, w, h, 2)
        errors = [float(power.output_error(v - w, h)) for v in (uniform, start.weight, learnt.weight, end.weight)]
        assert all(after <= before * (1 + 1e-5) for before, after in itertools.pairwise(errors)), (name, errors)
        assert len(end.whole.unique()) <= 2**bits - 1
        if w.shape[1] > 9:
            assert errors[-1] < 0.8 * errors[0], "learning gains nothing over uniform codes"


def test_settling_finds_the_best_code_of_each_column():
    """With H diagonal columns are independent: each code is the nearest value."""
    w = torch.from_numpy(bell((4, 12)))
    start = power.clipped(w, 0.7, 3)
    found = power.settle(start, w, torch.diag(torch.rand(12) + 0.5)[None], 1)
    values = torch.cat([-power.table(0.7, 3), power.table(0.7, 3)]).float()
    nearest = (values[None, None] * start.unit[:, None, None] - w[..., None]).abs().amin(-1)
    assert torch.allclose((found.weight - w).abs(), nearest, atol=1e-6)


# --- policies ---------------------------------------------------------------------------------------------------------
def random_table(layers: int, seed: int) -> dict[str, dict[int, Choice]]:
    rng = random.Random(seed)
    sizes = [rng.randint(1, 40) for _ in range(layers)]
    return {
        f"l{i}": {b: Choice(rng.random() * 4.0**-b, size * b / 8, size * b * 800.0 * (i + 1)) for b in (8, 4, 3, 2)}
        for i, size in enumerate(sizes)
    }


@pytest.mark.parametrize("cost", ["bytes", "bops"])
def test_the_choice_is_that_of_brute_force(cost):
    for seed in range(12):
        table = random_table(1 + seed % 5, seed)
        widest = cost_of(table, dict.fromkeys(table, 8), cost)
        for share in (0.25, 0.3, 0.47, 0.8, 1.0):
            found = choose(table, share * widest, cost)
            assert list(found) == list(table) and cost_of(table, found, cost) <= share * widest
            loss = sum(table[name][b].loss for name, b in found.items())
            every = (dict(zip(table, bits, strict=True)) for bits in itertools.product((8, 4, 3, 2), repeat=len(table)))
            best = min(
                sum(table[n][b].loss for n, b in bits.items()) for bits in every if cost_of(table, bits, cost) <= share * widest
            )
            assert loss == pytest.approx(best, rel=1e-12)


def test_a_larger_budget_never_loses_more():
    table = random_table(40, 3)
    widest = cost_of(table, dict.fromkeys(table, 8))
    losses = [sum(table[n][b].loss for n, b in choose(table, s * widest).items()) for s in (0.25, 0.3, 0.4, 0.5, 0.7, 1.0)]
    assert losses == sorted(losses, reverse=True)


def test_a_budget_that_cannot_be_kept():
    table = random_table(3, 0)
    with pytest.raises(NetwrightError, match=r"1 bytes .* need .* larger budget"):
        choose(table, 1.0)


def test_sensitivities(example):
    _, x, graph = example
    table = sensitivities(graph, x, (8, 3))
    weighted_nodes = [n for n in graph if n.op in ("conv2d", "linear")]
    assert list(table) == [n.name for n in weighted_nodes]
    for node in weighted_nodes:
        row = table[node.name]
        assert list(row) == [8, 3] and 0 <= row[8].loss <= row[3].loss
        size = graph.value(node, "weight").size
        assert (row[8].bytes, row[3].bytes) == (size, size * 3 / 8)
        assert (row[8].bops, row[3].bops) == (node.macs * 64, node.macs * 24)
    one = list(table)[2]
    assert sensitivities(graph, x, (3,), [one])[one][3] == table[one][3]


def test_mixed_precision_keeps_its_budget(example):
    net, x, graph = example
    method = MixedPrecision(budget=0.5)
    bits = method.choose(graph, x)
    table = method.table(graph, x)
    assert cost_of(table, bits) <= 0.5 * sum(graph.value(graph[n], "weight").size for n in table)
    network = method.compress(net, x[:1], x)
    for node in network.graph:
        if node.op in ("qconv2d", "qlinear") and node.name in bits:
            assert np.abs(network.graph.value(node, "weight").astype(int)).max() <= 2 ** (bits[node.name] - 1) - 1
    assert list(bits) == method.narrow(graph)


def test_a_search_goes_on_from_the_table(example):
    net, x, graph = example
    table = MixedPrecision().table(graph, x)
    widest = space(table, 0.0)
    assert isinstance(widest.config, Policy)
    everything = space(table, math.inf)
    assert everything.size == 4 ** len(table)
    arch = everything.sample(random.Random(0))
    policy = everything.fill(arch)
    assert set(policy.bits) == set(table) and all(b in table[n] for n, b in policy.bits.items())
    between = space(table, sorted(c.loss for row in table.values() for c in row.values())[len(table) * 2])
    assert widest.size <= between.size <= everything.size
    network = MixedPrecision(policy=policy).compress(net, x[:1], x)
    for node in network.graph:
        if node.op == "qconv2d" and policy.bits.get(node.name, 8) == 2:
            assert node.attrs["bits"] == 2
    assert hash(MixedPrecision(policy=policy)) == hash(MixedPrecision(policy=policy))


# --- wrong input ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bits", [0, 1, 9, 3.5])
def test_widths_out_of_range(bits):
    for make in (
        lambda: Uniform(bits=bits),
        lambda: LSQInt(bits=bits),
        lambda: NUPES(bits=bits),
        lambda: MixedPrecision(widths=(8, bits)),
        lambda: uniform_codes(bell((2, 2)), bits),
        lambda: MixedPrecision(policy=Policy((LayerBits("conv2d", 11),))),
    ):
        with pytest.raises(NetwrightError, match="whole number from 2 to 8"):
            make()


def test_other_wrong_input(example):
    net, x, graph = example
    with pytest.raises(NetwrightError, match=r"budget of 1\.5.*from 0\.25 .* to 1"):
        MixedPrecision(budget=1.5)
    with pytest.raises(NetwrightError, match="at least one width"):
        MixedPrecision(widths=())
    with pytest.raises(NetwrightError, match="-1 steps"):
        NUPES(steps=-1)
    with pytest.raises(NetwrightError, match="no bit widths"):
        sensitivities(graph, x, ())
    with pytest.raises(DataError, match="empty"):
        sensitivities(graph, x[:0])
    with pytest.raises(UnknownName, match="Did you mean 'conv2d"):
        sensitivities(graph, x, (4,), ["conv2d_9"])
    with pytest.raises(UnknownName, match="conv2d"):
        MixedPrecision(policy=Policy((LayerBits("convolution", 4),))).compress(net, x[:1], x)
    regression = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1)).eval()
    with pytest.raises(NetwrightError, match=r"C >= 2.*\[64, 1\]"):
        sensitivities(float_plan(trace(regression, x[:1]), x).graph, x)
