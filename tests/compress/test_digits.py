"""The three forms of a small residual network on scikit-learn's digits, a few seconds of training each."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from netwright.compress import FDA, LSQ, STE, TBT, TWN, XNOR, BiPer, BiReal, BitNet, Int8, IRNet, ReCU, ReSTE
from netwright.compress.trainee import Trainee


class Block(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.f = nn.Sequential(
            nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c), nn.ReLU(),
            nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.f(x))


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            Block(16), Block(16), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10),
        )  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    bunch = load_digits()
    x, y = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16, torch.tensor(bunch.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order[:1300]], y[order[:1300]], x[order[1300:]], y[order[1300:]]


def trainer(digits, epochs: int, teacher: nn.Module | None = None):
    x, y = digits[:2]

    def fit(net: nn.Module, share: float = 1.0, lr: float = 4e-3, **_: object) -> nn.Module:
        generator = torch.Generator().manual_seed(0)
        optimiser = torch.optim.Adam(net.parameters(), lr)
        total = max(1, round(epochs * share)) * math.ceil(len(x) / 64)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, total)
        net.train()
        while schedule.last_epoch < total:
            for i in torch.randperm(len(x), generator=generator).split(64):
                if isinstance(net, Trainee):
                    net.follow(schedule.last_epoch / total)
                out = net(x[i])
                loss = F.cross_entropy(out, y[i])
                if teacher is not None:
                    with torch.no_grad():
                        soft = F.softmax(teacher(x[i]) / 2, 1)
                    loss = 4 * F.kl_div(F.log_softmax(out / 2, 1), soft, reduction="batchmean")
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
        return net.eval()

    return fit


@pytest.fixture(scope="module")
def trained(digits):
    return trainer(digits, 8)(network())


@torch.no_grad()
def accuracy(net: nn.Module, digits) -> float:
    return float((net(digits[2]).argmax(1) == digits[3]).float().mean())


def test_int8_is_within_a_point_of_float(digits, trained):
    reference = accuracy(trained, digits)
    network = Int8().compress(trained, digits[0][:1], digits[0])
    assert reference > 0.95
    assert abs(accuracy(network, digits) - reference) <= 0.01
    floats = 4 * sum(p.numel() for p in trained.parameters())
    assert network.graph.weight_bytes <= 0.32 * floats + 2048


def simulate_and_finish(compressor, fit, trained, digits):
    """The trained simulation and the integer network it becomes."""
    trainee = compressor.prepare(trained, digits[0][:1], digits[0])
    for stage in compressor.stages:
        trainee = fit(compressor.begin(trainee, stage), share=stage.share, lr=stage.lr)
    return trainee.eval(), compressor.finish(trainee, digits[0])


TERNARY = [(m(), 4, 0.95, 0.16) for m in (BitNet, TWN, TBT, LSQ)]
BINARY = [(m(), 8, 0.90 if m is BiPer else 0.85, 0.14) for m in (BiPer, STE, XNOR, BiReal, FDA, ReSTE, IRNet, ReCU)]


@pytest.mark.parametrize(("compressor", "epochs", "floor", "share"), [*TERNARY, *BINARY])
def test_trained_forms(compressor, epochs, floor, share, digits, trained):
    trainee, network = simulate_and_finish(compressor, trainer(digits, epochs, trained), trained, digits)
    assert isinstance(trainee, Trainee)
    assert accuracy(network, digits) >= floor
    with torch.no_grad():
        simulated, integer = trainee(digits[2]), network(digits[2])
    agree = float((simulated.argmax(1) == integer.argmax(1)).float().mean())
    assert agree >= 0.98, f"what was trained and what runs agree on {agree:.3f} of the predictions only"
    floats = 4 * sum(p.numel() for p in trained.parameters())
    assert network.graph.weight_bytes <= share * floats + 4096
    weighted = [n for n in network.graph if n.op in ("qconv2d", "bconv2d", "qlinear", "blinear")]
    bits = [n.attrs["bits"] for n in weighted]
    assert bits == [8, *[2 if compressor.form == "ternary" else 1] * 4, *([8] if len(bits) == 6 else [8, 8])]
