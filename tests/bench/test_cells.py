"""A cell is made once, found again where the question is the same, and made anew where it is not."""

from __future__ import annotations

import torch

from netwright.bench.cells import Cells
from netwright.bench.gradients import GRID, largest_gradient_error, slope_of
from netwright.bench.language import LanguageModel, greedy
from netwright.bench.networks import small_resnet
from netwright.tasks.text import Text


def test_cells_are_kept_by_their_key(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return {"accuracy": 0.5 + len(calls)}

    cells = Cells(tmp_path)
    first = cells.get("a", {"lr": 0.1}, make)
    assert first["accuracy"] == 1.5 and first["seconds"] >= 0
    assert Cells(tmp_path).get("a", {"lr": 0.1}, make) == first and len(calls) == 1
    assert cells.get("a", {"lr": 0.2}, make)["accuracy"] == 2.5, "another question found an old answer"
    again = Cells(tmp_path, again=True)
    assert again.get("a", {"lr": 0.2}, make)["accuracy"] == 3.5
    assert again.get("a", {"lr": 0.2}, make)["accuracy"] == 3.5, "made anew twice in one run"


def test_every_estimator_has_the_derivative_that_it_states():
    worst, name, count = largest_gradient_error()
    assert worst <= 1e-6, name
    assert count >= 15 * len(GRID)
    wrong = slope_of(lambda v: v.clamp(-1, 1), GRID) - slope_of(torch.tanh, GRID)
    assert float(wrong.abs().max()) > 0.1, "the comparison sees a wrong gradient"


def test_a_language_model_reads_only_what_came_before(generator):
    text = Text.of("to be or not to be, that is the question. " * 40, context=12)
    model = LanguageModel(len(text.characters), 12, width=16, heads=2, layers=1).eval()
    x, _ = next(text.batches(2, generator))
    other = x.clone()
    other[:, 8:] = other[:, 8:].flip(2)
    with torch.no_grad():
        a, b = model(x), model(other)
    assert a.shape == (2, len(text.characters), 12)
    assert torch.equal(a[:, :, :8], b[:, :, :8]) and not torch.equal(a[:, :, 8:], b[:, :, 8:])
    written = greedy(model, text, "to", 5)
    assert len(written) == 5 and set(written) <= set(text.characters)


def test_the_small_resnet_has_a_shortcut_around_every_convolution():
    net = small_resnet(8)
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert sum(isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3) for m in net.modules()) == 7
