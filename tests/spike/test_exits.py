"""Exits over time: the rule as its formula says, its calibration, the compiled network that really stops, and health."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from netwright.core.decision import NEVER, Confident, Quiet, from_json, to_json
from netwright.core.errors import NetwrightError, Unsupported
from netwright.core.paper import Paper
from netwright.deploy.bundle import Bundle, write_bundle
from netwright.deploy.c99 import build, emit
from netwright.design.dynamic import outcome
from netwright.design.execute import GraphModule
from netwright.design.trace import trace
from netwright.spike import exits
from netwright.spike.convert import LocalThresholdBalancing
from netwright.spike.convert.lossless import Lossless
from netwright.spike.exits import CalibratedExit, DynamicConfidence, Quiescence, calibrate
from netwright.spike.unroll import counted_from, health, logits_over_time, output_over_time, spike_rates, steps_to_rest
from netwright.testing.spike import small_network


def block(channels: int, out: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()


@pytest.fixture(scope="module")
def digits():
    """A spiking network of 12 steps that counts from step 2, and 597 digits that it has not seen."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(labels)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(*block(1, 8, 1), *block(8, 16, 2), *block(16, 16, 2), nn.Flatten(), nn.Linear(64, 10))
        optimiser = torch.optim.AdamW(net.parameters(), 1e-2)
        for _ in range(8):
            for i in torch.randperm(1200).split(64):
                optimiser.zero_grad()
                nn.functional.cross_entropy(net(x[i]), y[i]).backward()
                optimiser.step()
    made = LocalThresholdBalancing(steps=12, iterations=16).convert(net.eval(), x[:1], x[:256])
    return counted_from(made.module, 2), x[1200:], y[1200:]


@pytest.mark.parametrize("name", exits.CATALOGUE)
def test_every_rule_is_a_paper_with_a_control_that_survives_json(name):
    rule = exits.CATALOGUE[name]()
    assert rule.name == name and isinstance(rule.paper, Paper)
    assert from_json(json.loads(json.dumps(to_json(rule.control)))) == rule.control


def test_the_rule_is_its_formula(digits):
    """C_t = max softmax(alpha * sum of the logits of steps start..t-1), written out input by input."""
    module, x, _ = digits
    rule = DynamicConfidence(0.8, 0.05)
    logits, steps = rule.exits(module, x[:40])
    totals, unit = output_over_time(module, x[:40])
    for i in range(40):
        for t in range(3, 13):
            total = (totals[t, i] - totals[2, i]) * unit
            if t == 12 or float((0.05 * total).softmax(0).max()) >= 0.8:
                break
        assert steps[i] == t
        torch.testing.assert_close(logits[i], (total / (t - 2)).float())
    assert len(steps.unique()) > 3


def test_the_ends_of_the_rule(digits):
    module, x, y = digits
    with torch.no_grad():
        final = module(x)
    never = DynamicConfidence(NEVER, 1.0)
    logits, steps = never.exits(module, x)
    assert set(steps.tolist()) == {12}
    torch.testing.assert_close(logits, final, rtol=1e-5, atol=1e-5)
    at_once = DynamicConfidence(0.01, 1.0).evaluate(module, (x, y))
    assert at_once.histogram == (0, 0, len(y), *[0] * 9) and at_once.mean_steps == 3.0
    right = int((final.argmax(1) == y).sum())
    assert never.evaluate(module, [(x[:300], y[:300]), (x[300:], y[300:])]).accuracy == right / len(y)


def test_surer_takes_longer(digits):
    module, x, _ = digits
    steps = [DynamicConfidence(c, 0.1).exits(module, x)[1] for c in (0.3, 0.6, 0.9, 0.99)]
    assert all(bool((a <= b).all()) for a, b in itertools.pairwise(steps))
    assert steps[0].sum() < steps[-1].sum()


def test_counting_from_another_step(digits):
    module, x, _ = digits
    totals, unit = output_over_time(module, x[:20])
    for start in (0, 5, 11):
        with torch.no_grad():
            got = counted_from(module, start)(x[:20])
        torch.testing.assert_close(got, ((totals[12] - totals[start]) * unit / (12 - start)).float(), rtol=1e-5, atol=1e-5)
    with pytest.raises(NetwrightError, match="steps 0 to 11"):
        counted_from(module, 12)


def test_calibration_keeps_the_accuracy_and_is_faster(digits):
    module, x, y = digits
    held, rest = (x[:400], y[:400]), (x[400:], y[400:])
    found = calibrate(module, held)
    assert found.steps == 12 and found.images == 400
    network = found.network(module)
    seen = found.rule.evaluate(network, held)
    assert seen.accuracy == pytest.approx(found.chosen.accuracy) and seen.accuracy >= found.full
    assert seen.mean_steps == pytest.approx(found.chosen.steps, abs=1e-6)
    assert found.speedup == pytest.approx(12 / found.chosen.steps) and found.speedup > 1.5
    assert found.rule.evaluate(network, rest).mean_steps < 8
    assert calibrate(module, held, starts=(2,)).chosen.steps >= found.chosen.steps  # an output that waits cannot stop early
    again = calibrate(module, [(held[0][:150], held[1][:150]), (held[0][150:], held[1][150:])])
    assert again == found


def test_the_front_is_a_front_and_the_choice_follows_epsilon_and_guard(digits):
    module, x, y = digits
    found = calibrate(module, (x, y), guard=0.0)
    front = found.front
    assert all(a.steps < b.steps and a.accuracy < b.accuracy for a, b in itertools.pairwise(front)) and len(front) > 3
    assert found.chosen in front and found.chosen.accuracy >= found.full
    assert not any(p.steps < found.chosen.steps and p.accuracy >= found.full for p in front)
    looser, careful = calibrate(module, (x, y), epsilon=0.05, guard=0.0), calibrate(module, (x, y), guard=2.0)
    assert looser.chosen.steps < found.chosen.steps <= careful.chosen.steps
    assert looser.chosen.accuracy >= found.full - 0.05


def test_a_network_that_no_exit_suits_takes_all_steps(digits):
    module, x, y = digits
    found = calibrate(module, (x[:60], y[:60]), epsilon=-1.0)  # asks for more right answers than there are
    assert found.chosen.confidence == NEVER and found.speedup == 1.0
    assert set(found.rule.exits(found.network(module), x[:8])[1].tolist()) == {12}


def test_the_calibrated_exit_lives_in_the_bundle_and_in_the_compiled_network(digits, tmp_path):
    """Same class at the same step as PyTorch on every image; what to expect stands in the manifest."""
    module, x, y = digits
    found = calibrate(module, (x[:400], y[:400]))
    network = found.network(module)
    write_bundle(network.to_graph(), tmp_path / "b", form="spiking", tree=found.rule.control, info={"exit": found.to_json()})
    bundle = Bundle.load(tmp_path / "b")
    assert CalibratedExit.from_json(bundle.info["exit"]) == found
    assert bundle.tree == Confident(found.chosen.confidence, found.chosen.alpha) and bundle.time_steps == 12
    logits, steps = found.rule.exits(network, x[400:])
    got, at = bundle.run_exits(x[400:].numpy())
    np.testing.assert_array_equal(at, steps.numpy())
    np.testing.assert_array_equal(got.argmax(1), logits.argmax(1).numpy())
    np.testing.assert_allclose(got, logits.numpy(), rtol=1e-5, atol=1e-5)
    assert len(set(at)) > 3


def test_the_reference_of_the_back_ends_agrees(digits):
    module, x, _ = digits
    rule = DynamicConfidence(0.8, 0.05)
    logits, steps = rule.exits(module, x[:12])
    for i in range(12):
        (want,), at = outcome(module.to_graph(), rule.control, x[i : i + 1])
        assert at == steps[i]
        torch.testing.assert_close(logits[i : i + 1], want, rtol=1e-5, atol=1e-5)


def test_health_against_a_simulation_by_hand(digits):
    module, x, _ = digits
    found, rates = health(module, x[:50]), spike_rates(module, x[:50])
    assert {n: h.rate for n, h in found.items()} == pytest.approx(rates)
    node = next(n for n in module.graph if n.op == "integrate")
    kept = {}
    with torch.no_grad():
        module(x[:50], visit=lambda n, out: kept.__setitem__(n.name, out))
    w = module.weights(node)
    theta, v0 = (w[k].long().reshape(-1, 1, 1) for k in ("theta", "v0"))
    current, v, fired = kept[node.inputs[0]].long(), v0, torch.zeros(50, *node.spec.shape[1:], dtype=torch.long)
    for _ in range(12):
        v = v + current
        s = (v >= theta).long()
        v, fired = v - theta * s, fired + s
    h = found[node.name]
    assert h.potential == pytest.approx(float((v.abs() / theta).max())) and h.above == pytest.approx(float((v / theta).max()))
    assert h.never == pytest.approx(float((fired.sum(0) == 0).double().mean())) and 0 <= h.never < 1
    assert h.every == pytest.approx(float((fired == 12).all(0).double().mean()))


def test_dead_saturated_and_exploding_layers_are_named(digits):
    module, x, _ = digits
    graph = module.to_graph()
    first = next(n for n in graph if n.op == "integrate")

    def with_threshold(value: int) -> GraphModule:
        key = first.weights["theta"]
        return GraphModule(
            graph.replace(graph.nodes, values={**graph.values, key: np.full_like(graph.values[key], value)})
        ).eval()

    well = health(module, x[:20])[first.name]
    assert not any("ever fires" in a for a in well.ailments)
    dead = health(with_threshold(2**30), x[:20])
    assert dead[first.name].never == 1.0 and dead[first.name].ailments == ("no neuron ever fires",)
    hot = health(with_threshold(1), x[:1])[first.name]
    assert hot.every > 0.1 and hot.potential >= hot.above > 100
    assert "fire in every step" in hot.ailments[0] and "thresholds" in hot.ailments[-1]


def test_what_a_rule_cannot_do_is_said(digits):
    module, x, _ = digits
    plain = GraphModule(trace(small_network(0), x[:1])).eval()
    with pytest.raises(NetwrightError, match="not a spiking network"):
        DynamicConfidence().exits(plain, x[:2])
    with pytest.raises(NetwrightError, match="on no data"):
        calibrate(module, [])
    with pytest.raises(NetwrightError, match="no data"):
        DynamicConfidence().evaluate(module, [])
    with pytest.raises(NetwrightError, match="confidence > 0"):
        DynamicConfidence(alpha=0.0)
    with pytest.raises(NetwrightError, match="no calibrated exit"):
        CalibratedExit.from_json({"chosen": {}})
    with pytest.raises(NetwrightError, match="in every time step"):
        Quiescence().exits(module, x[:2])


def test_a_mean_decides_later_than_a_sum(digits):
    """Why the evidence is a sum: at the same accuracy the mean of the logits needs more steps."""
    module, x, y = digits
    totals, unit = output_over_time(module, x)
    sums = (totals[1:] - totals[0]) * unit
    means = sums / torch.arange(1, 13)[:, None, None]
    right, full = sums.argmax(2) == y, float((logits_over_time(module, x)[-1].argmax(1) == y).float().mean())

    def fastest(evidence: torch.Tensor) -> float:
        best = 12.0
        for alpha in (0.25, 0.5, 1.0, 2.0, 4.0):
            c = (alpha * evidence).softmax(2).amax(2)
            for level in c.flatten().sort().values[::100].unique()[:-1]:
                hit = c >= level
                hit[-1] = True
                at = hit.int().argmax(0)
                if float(right.gather(0, at[None]).float().mean()) >= full:
                    best = min(best, float((at + 1).float().mean()))
        return best

    assert fastest(sums / 12) < 0.9 * fastest(means)


@pytest.fixture(scope="module")
def resting():
    """A residual network with max pooling, converted without loss, more steps than it needs, and inputs it has not seen."""
    x = torch.rand(72, 1, 8, 8, generator=torch.Generator().manual_seed(3)) * torch.linspace(0, 2, 72)[:, None, None, None]
    return Lossless(bits=2, margin=4).convert(small_network(0), x[:1], x[1::2]).module, x[::2]


def test_nothing_changes_after_the_step_without_spikes(resting):
    module, x = resting
    logits, steps = Quiescence().exits(module, x)
    with torch.no_grad():
        assert torch.equal(logits, module(x))
    last = steps_to_rest(module, x)
    totals, _ = output_over_time(module, x)
    spikes = {}
    with torch.no_grad():
        module(x, visit=lambda n, out: spikes.__setitem__(n.name, out) if n.op == "integrate" else None)
    fired = torch.stack([s.reshape(len(totals) - 1, len(x), -1).any(2) for s in spikes.values()]).any(0)
    for i, t in enumerate(last.tolist()):
        assert not fired[t:, i].any() and (t == 0 or bool(fired[t - 1, i]))
        assert bool((totals[t + 1 :, i] == totals[-1, i]).all())
    assert torch.equal(steps, last + 1) and len(steps.unique()) > 2 and int(steps.max()) < len(totals) - 1


@pytest.mark.parametrize("isa", ["native", "portable"])
def test_the_compiled_network_stops_at_rest(resting, tmp_path, monkeypatch, isa):
    monkeypatch.setenv("CFLAGS", "-O1 -Wall -Wextra -Werror")
    module, x = resting
    graph = module.to_graph()
    logits, steps = Quiescence().exits(module, x)
    got, at = build(graph, tmp_path, tree=Quiet(), isa=isa).run_exits(x.numpy())
    np.testing.assert_array_equal(at, steps.numpy())
    np.testing.assert_array_equal(got, logits.numpy())
    (want,), end = outcome(graph, Quiet(), x[30:31])
    assert end == steps[30] and torch.equal(want, logits[30:31])


def test_a_resting_network_in_a_bundle(resting, tmp_path):
    module, x = resting
    write_bundle(module.to_graph(), tmp_path / "b", form="spiking", tree=Quiet())
    bundle = Bundle.load(tmp_path / "b")
    assert bundle.tree == Quiet()
    np.testing.assert_array_equal(bundle.run_exits(x[:9].numpy())[1], Quiescence().exits(module, x[:9])[1].numpy())


def test_a_network_that_is_driven_on_cannot_stop_at_rest(digits):
    with pytest.raises(Unsupported, match="flow once"):
        emit(digits[0].to_graph(), tree=Quiet())


def test_quiet_is_a_control_of_its_own():
    assert to_json(Quiet()) == {"quiet": True} and from_json({"quiet": True}) == Quiet()
    with pytest.raises(ValueError, match="no tree"):
        from_json({"quiet": False})
    assert replace(Confident(0.5), alpha=2.0) == Confident(0.5, 2.0)
