"""A user's network and data: what is said before training, what comes out, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from netwright.compress import OTO, BitNet, Int8, Uniform
from netwright.core.errors import DataError, NetwrightError
from netwright.pipeline.fitting import TaskData
from netwright.pipeline.shrink import AccuracyLost, Budget, Shrink
from netwright.tasks import load_task
from netwright.train import Recipe, fit


class Own(nn.Module):
    """A convolution, a layer norm, which has no integer form, and a head."""

    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Conv2d(1, 12, 3, padding=1), nn.LayerNorm(12)
        self.b, self.head = nn.Conv2d(12, 16, 3, 2, 1), nn.Linear(16, 10)

    def forward(self, x):
        x = self.norm(F.relu(self.a(x)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(F.relu(self.b(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def digits():
    return load_task("digits", seed=0)


@pytest.fixture(scope="module")
def shrink(digits):
    torch.manual_seed(0)
    net = fit(Own(), TaskData(digits, None), Recipe(steps=150, evaluations=1)).module
    return Shrink(net, digits)


def test_what_stays_in_float_and_the_size_are_said_before_training(shrink):
    before = shrink.expected(Int8())
    assert (
        list(before.nodes.values()).count("It has no integer form.") == 1
        and "layer_norm" in before.kept["It has no integer form."]
    )
    network, point = shrink.run(Int8(), Budget(1))
    assert before.bytes == point.bytes and before.products == {8: shrink.graph.macs}
    assert abs(point.drop) <= 2 and point.seconds >= 0
    assert [n.op for n in network.graph].count("layer_norm") == 1


def test_four_bits_are_counted_as_four(shrink):
    eight, four = (shrink.run(m, Budget(1))[1].bytes[1] for m in (Int8(), Uniform(bits=4, keep_first_last=False)))
    assert four < 0.75 * eight


def test_a_method_that_trains_makes_a_bundle_that_runs(shrink, digits, tmp_path):
    network, point = shrink.run(BitNet(), Budget(steps=20))
    bundle = shrink.bundle(network, BitNet(), point, tmp_path / "b")
    x = digits.test.tensor(slice(0, 5))
    with torch.no_grad():
        assert (torch.from_numpy(bundle.run(x.numpy())).argmax(1) == network(x).argmax(1)).all()
    assert bundle.info["method"] == "bitnet" and bundle.form == "ternary"


def test_an_interrupted_run_goes_on(shrink, tmp_path, monkeypatch):
    whole, _ = shrink.run(BitNet(), Budget(steps=24))
    folder, steps = tmp_path / "t", []

    def stop(done, total, text):
        steps.append(done)
        if done == 12:
            raise KeyboardInterrupt

    monkeypatch.setattr(shrink, "progress", stop)
    monkeypatch.setattr("netwright.train.loop.fit.__kwdefaults__", {**fit.__kwdefaults__, "save_every_steps": 1}, raising=False)
    with pytest.raises(KeyboardInterrupt):
        shrink.run(BitNet(), Budget(steps=24), folder=folder)
    assert (folder / "asked.json").exists()
    monkeypatch.setattr(shrink, "progress", lambda done, total, text: steps.append(done))
    again, _ = shrink.run(BitNet(), Budget(steps=24), folder=folder)
    assert not folder.exists() and min(steps[steps.index(12) + 1 :]) >= 11, "it began anew"
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(x), whole(x))


def test_pruning_leaves_less_work(shrink):
    network, point = shrink.run(OTO(target=0.4), Budget(steps=30))
    assert network.graph.macs <= 0.6 * shrink.graph.macs and point.bytes[1] < point.bytes[0]


def test_losing_too_much_is_an_error_with_the_best_point(shrink):
    _, point = shrink.run(Uniform(bits=2, keep_first_last=False), Budget(1))
    shrink.check(point, None)
    with pytest.raises(AccuracyLost, match=r"loses .* points .*--max-drop allows -50.*Best point found: .* with [\d,]+ bytes"):
        shrink.check(point, -50.0)


def test_advice_is_the_cheapest_that_loses_little_and_errors_are_rows(shrink):
    points, best, why = shrink.advise([("int8", {}), ("uniform", {"bits": 4}), ("oto", {"target": 0.999})], Budget(steps=2), 5.0)
    assert [bool(p.error) for p in points] == [False, False, True] and "MACs were to be removed" in points[2].error
    assert best is not None and best.drop <= 5 and best.label in why
    assert shrink.advise([("int8", {})], Budget(1), -60.0)[1] is None


@pytest.mark.parametrize(("text", "budget"), [("2000", Budget(2000)), ("12 steps", Budget(12)), ("90s", Budget(seconds=90)),
                                              ("1.5m", Budget(seconds=90)), ("1h", Budget(seconds=3600))])  # fmt: skip
def test_budgets(text, budget):
    assert Budget.parse(text) == budget


@pytest.mark.parametrize("text", ["", "fast", "-3", "0", "3 weeks"])
def test_wrong_budgets(text):
    with pytest.raises(NetwrightError, match="neither steps nor time"):
        Budget.parse(text)


def test_a_budget_of_time_becomes_steps(shrink):
    few, many = (shrink.steps(BitNet(), Budget(seconds=s)) for s in (0.5, 50.0))
    assert 1 <= few < many


def test_a_network_for_other_data(digits):
    with pytest.raises(NetwrightError, match="does not run on an input"):
        Shrink(nn.Conv2d(3, 4, 3), digits)
    with pytest.raises(DataError, match=r"gives \[1, 7\].*must give \[1, 10\]"):
        Shrink(nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), digits)
