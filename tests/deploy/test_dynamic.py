"""Networks whose Python branches on their data: every path gives what PyTorch gives, and computes only what it needs."""

import subprocess

import numpy as np
import pytest
import torch
from torch import nn

from netwright.compress import Int8
from netwright.core.decision import Confident, Decision, Exit, exits, from_json, taken, to_json
from netwright.core.errors import TraceError, Unsupported
from netwright.deploy.bundle import Bundle, write_bundle
from netwright.deploy.c99 import build, emit
from netwright.design import trace
from netwright.design.dynamic import outcome
from netwright.design.execute import GraphModule
from netwright.design.paths import trace_paths
from netwright.spike.convert import LocalThresholdBalancing
from netwright.testing.spike import small_network


class Early(nn.Module):
    """Two early exits, by confidence."""

    def __init__(self, threshold: float = 0.4):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(c, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()) for c in (2, 8, 8))
        self.heads = nn.ModuleList(nn.Linear(8, 5) for _ in range(3))
        for head, spread in zip(self.heads, (2.0, 20.0, 2.0), strict=True):
            nn.init.normal_(head.weight, std=spread)
        self.threshold = threshold

    def forward(self, x):
        for block, head in zip(self.blocks, self.heads, strict=True):
            x = block(x)
            y = head(x.mean((2, 3)))
            if head is self.heads[-1] or y.softmax(-1).max() > self.threshold:
                break
        return y


class Skip(nn.Module):
    """Gates decide whether a block runs; also a choice between two, on a number taken out of its tensor."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.gates = nn.ModuleList(nn.Linear(6, 1) for _ in range(3))
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.left, self.right = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x):
        for gate, layer in zip(self.gates, self.layers, strict=True):
            if gate(x) > 0 and not x.amax() > 3:
                x = x + torch.tanh(layer(x))
        y = self.left(x) if x.mean().item() > 0.05 else self.right(x)
        return y, x


def both(module, xs, tmp_path, isa=None):
    """Outputs of PyTorch, one example after another, and of the C file, with the exits that it took."""
    module = module.eval()
    graph, tree = trace_paths(module, torch.from_numpy(xs[:1]))
    with torch.no_grad():
        want = [module(torch.from_numpy(xs[i : i + 1])) for i in range(len(xs))]
    got, at = build(graph, tmp_path, tree=tree, isa=isa).run_exits(xs)
    return want, got, at, tree


@pytest.mark.parametrize("isa", ["native", "portable"])
def test_early_exits(tmp_path, isa):
    xs = (
        np.random.default_rng(0).standard_normal((40, 2, 9, 7), dtype=np.float32)
        * np.linspace(0.2, 4, 40, dtype=np.float32)[:, None, None, None]
    )
    want, got, at, tree = both(Early(0.65), xs, tmp_path, isa)
    assert len(list(exits(tree))) == 3 and set(at) == {0, 1, 2}, "each exit is taken by some input"
    np.testing.assert_allclose(got, torch.cat(want).numpy(), atol=1e-5)


def test_skipped_blocks(tmp_path):
    xs = np.random.default_rng(1).standard_normal((60, 6), dtype=np.float32) * 1.5
    want, got, at, _ = both(Skip(), xs, tmp_path)
    assert len(set(at)) > 5, "many of the paths are taken"
    for i in range(2):
        np.testing.assert_allclose(got[i], torch.cat([w[i] for w in want]).numpy(), atol=1e-5)


def test_early_exits_of_codes_are_those_of_the_reference(tmp_path):
    xs = torch.from_numpy(np.random.default_rng(2).standard_normal((48, 2, 9, 7), dtype=np.float32))
    xs *= torch.linspace(0.2, 4, 48)[:, None, None, None]
    graph, tree = trace_paths(Early(0.65).eval(), xs[:1])
    integer = Int8().compress(GraphModule(graph).eval(), xs[:1], xs)
    got, at = build(integer.to_graph(), tmp_path, tree=tree).run_exits(xs.numpy())
    assert set(at) == {0, 1, 2}
    for i in range(len(xs)):
        with torch.no_grad():
            outputs = integer(xs[i : i + 1])
        number, end = taken(tree, lambda k, outputs=outputs: bool(outputs[k]))
        assert number == at[i]
        np.testing.assert_array_equal(got[i : i + 1], outputs[end.outputs[0]].numpy())


@pytest.mark.parametrize("isa", ["native", "portable"])
def test_a_spiking_network_stops_when_it_is_sure(tmp_path, isa):
    xs = torch.from_numpy(np.random.default_rng(3).standard_normal((40, 1, 8, 8), dtype=np.float32))
    graph = LocalThresholdBalancing(steps=12, iterations=4).convert(small_network(0), xs[:1], xs).module.to_graph()
    control = Confident(0.3, 0.5)
    got, at = build(graph, tmp_path, tree=control, isa=isa).run_exits(xs.numpy())
    want = [outcome(graph, control, x[None]) for x in xs]
    assert list(at) == [steps for _, steps in want] and len(set(at)) > 2
    np.testing.assert_allclose(got, torch.cat([y for (y,), _ in want]).numpy(), rtol=1e-5, atol=1e-6)
    never = Confident(1.0, 0.01)
    got, at = build(graph, tmp_path / "never", tree=never, isa=isa).run_exits(xs.numpy())
    assert set(at) == {12}
    np.testing.assert_array_equal(got, GraphModule(graph).eval()(xs).detach().numpy())


def test_an_exit_over_time_needs_time():
    graph = trace(nn.Linear(3, 2), torch.zeros(1, 3))
    with pytest.raises(Unsupported, match="readout"):
        emit(graph, tree=Confident(0.5))


def test_the_bundle_of_a_dynamic_network(tmp_path):
    module = Early(0.65).eval()
    graph, tree = trace_paths(module, torch.zeros(1, 2, 9, 7))
    bundle = Bundle.load(write_bundle(graph, tmp_path / "b", form="float", tree=tree).path)
    assert bundle.tree == tree and bundle.output_shape == (1, 5)
    xs = np.random.default_rng(0).standard_normal((6, 2, 9, 7), dtype=np.float32)
    got, at = bundle.run_exits(xs)
    np.testing.assert_array_equal(got, bundle.run(xs))
    assert len(at) == 6
    library, test = tmp_path / "model.o", tmp_path / "test"
    subprocess.run(["cc", "-std=c99", "-O1", "-c", bundle.path / "model.c", "-o", library], check=True)
    subprocess.run(["cc", "-std=c99", bundle.path / "test_model.c", library, "-o", test, "-lm"], check=True)
    subprocess.run([test], check=True)  # the exits and outputs that are stored


def test_a_later_section_is_not_run_before_its_decision():
    graph, tree = trace_paths(Early(), torch.zeros(1, 2, 9, 7))
    body = emit(graph, tree=tree).c.partition("(void)in;")[2]
    first = body.index("return 0;")
    convolutions = [i for i in range(len(body)) if body.startswith("step0(", i)]
    assert sum(i < first for i in convolutions) == 1 and body.count("if (*(const float *)") == 2


def test_a_network_without_decisions_is_one_path():
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()
    graph, tree = trace_paths(module, torch.zeros(1, 4))
    assert tree == Exit((0,))
    assert [(n.op, dict(n.weights)) for n in graph] == [(n.op, dict(n.weights)) for n in trace(module, torch.zeros(1, 4))]


def test_the_users_module_is_left_as_it_was():
    module = Early().train()
    truth = torch.Tensor.__bool__
    trace_paths(module, torch.zeros(1, 2, 9, 7))
    assert module.training and torch.Tensor.__bool__ is truth


class Endless(nn.Module):
    def forward(self, x):
        while x.sum() > 0:
            x = x - 1
        return x


class Unequal(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else x[:, :2]


def test_nothing_is_printed_on_the_way(capfd):
    with pytest.raises(TraceError):
        trace(Early(), torch.zeros(1, 2, 9, 7))
    trace_paths(Skip(), torch.zeros(1, 6))
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_compiled_is_said():
    with pytest.raises(TraceError, match="without a bound"):
        trace_paths(Endless(), torch.zeros(1, 3))
    with pytest.raises(TraceError, match="different shapes"):
        trace_paths(Unequal(), torch.zeros(1, 3))
    with pytest.raises(TraceError, match="trace_paths"):
        trace(Early(), torch.zeros(1, 2, 9, 7))


def test_trees_survive_json():
    tree = Decision(1, Exit((0,)), Decision(3, Exit((2,)), Exit((4,))))
    assert from_json(to_json(tree)) == tree
    assert taken(tree, lambda i: i == 3) == (1, Exit((2,)))
    for wrong in ([1, {"outputs": [0]}], {"outputs": ["a"]}, 3, [True, {"outputs": []}, {"outputs": []}]):
        with pytest.raises(ValueError, match="no tree"):
            from_json(wrong)
