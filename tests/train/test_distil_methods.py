"""MEAL V2, ScaleKD and guidance: their equations as numbers, and that they train through `fit` as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from torch import nn
from torch.nn import functional as F

from netwright.core.errors import NetwrightError, UnknownName
from netwright.train import Recipe, Tensors, fit
from netwright.train.distil import CATALOGUE, MEAL, Distilled, Ensemble, FeatureDistillation, Guidance, ScaleKD
from netwright.train.distil.guidance import cka
from netwright.train.distil.meal import Similarity
from netwright.train.distil.role import frozen, look, sample, tapped
from netwright.train.distil.scalekd import Projector, distance, without_mean

RECIPE = Recipe(steps=60, batch_size=64, lr=1e-2, label_smoothing=0.0, evaluations=1)


def mlp(width: int, seed: int, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes))


def task(n: int = 192) -> Tensors:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n + 200, 6, generator=g)
    y = (x[:, :3] * x[:, 3:]).argmax(1)
    return Tensors(x[:n], y[:n], x[n:], y[n:])


class Vit(nn.Module):
    """A small vision transformer for [N, 1, 8, 8]: 16 tokens and one of the class."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.embed = nn.Conv2d(1, width, 2, 2)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=True) for _ in range(3)
        )
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(6, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 4),
    )


def bars(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[n, 1, 8, 8] with a bright row or column in one half; four classes."""
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(n, 1, 8, 8, generator=g) * 0.5, torch.arange(n) % 4
    for i in range(n):
        at = int(torch.randint(4, (), generator=g)) + 4 * int(y[i] >= 2)
        (x[i, 0] if y[i] % 2 else x[i, 0].T)[at] += 1.5
    return x, y


def test_the_methods_are_listed_with_their_papers():
    assert {"kd", "meal_v2", "scalekd", "guidance"} == set(CATALOGUE)
    assert {m.paper.id for m in CATALOGUE.values() if issubclass(m, FeatureDistillation)} == {"S210", "S151", "S018"}


# --- the role


def test_the_wrapper_is_the_student_alone_in_eval_mode_and_holds_no_teacher():
    student, teacher, x = mlp(8, 0), mlp(16, 1), torch.randn(5, 6)
    wrapped = Guidance((("0", "0"),)).wrap(student, teacher, x)
    assert not any(p is q for p in wrapped.parameters() for q in teacher.parameters())
    assert all(name.startswith("student.") for name in wrapped.state_dict())
    assert torch.equal(wrapped.eval()(x), student.eval()(x))
    before = [p.clone() for p in teacher.parameters()]
    fit(wrapped, task(), RECIPE, loss=wrapped.loss)
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    assert wrapped.student is student


def test_a_batch_loss_is_hard_plus_between_and_is_used_once():
    student, teacher, x, y = mlp(8, 0), mlp(16, 1), torch.randn(5, 6), torch.tensor([0, 1, 2, 0, 1])
    wrapped = Distilled(student, frozen(teacher), lambda own, target, x: own.logits.sum() + target.logits.sum(), hard_weight=0.5)
    logits = wrapped(x)
    expected = 0.5 * F.cross_entropy(student(x), y) + student(x).sum() + teacher(x).sum()
    assert wrapped.loss(logits, y).item() == pytest.approx(expected.item(), rel=1e-5)
    with pytest.raises(NetwrightError, match="training mode first"):
        wrapped.loss(logits, y)


def test_layers_are_found_by_name_and_hooks_do_not_stay():
    module, x = mlp(8, 0), torch.randn(2, 6)
    with pytest.raises(UnknownName, match="layer of Sequential"):
        look(module, ("7",), x)
    with tapped(module, ("0",), {"0": torch.zeros(2, 8)}) as seen:
        replaced = module(x)
    assert torch.equal(replaced, module[1:](torch.zeros(2, 8))) and torch.equal(seen["0"], torch.zeros(2, 8))
    assert not any(m._forward_hooks for m in module.modules())
    lstm = nn.Sequential(nn.LSTM(6, 4))
    with pytest.raises(NetwrightError, match="tuple, not a tensor"):
        look(lstm, ("0",), x)
    assert not lstm[0]._forward_hooks


# --- MEAL V2


def test_an_ensembles_softmax_is_the_mean_of_the_teachers():
    teachers, x = [mlp(8, i) for i in range(3)], torch.randn(7, 6)
    mean = torch.stack([t(x).softmax(1) for t in teachers]).mean(0)
    assert torch.allclose(Ensemble(teachers)(x).softmax(1), mean, atol=1e-6)
    with pytest.raises(NetwrightError, match="at least one"):
        Ensemble([])
    with pytest.raises(NetwrightError, match="same classes"):
        Ensemble([mlp(4, 0), mlp(4, 0, classes=2)])(x)
    with pytest.raises(NetwrightError, match="same classes"):
        MEAL().wrap(mlp(4, 0, classes=2), mlp(4, 0), x)


def test_meal_without_its_discriminator_is_the_kl_to_the_mean_and_ignores_labels():
    student, ensemble, x = mlp(8, 0), Ensemble([mlp(8, 1), mlp(8, 2)]), torch.randn(7, 6)
    wrapped = MEAL(discriminator=0.0).wrap(student, ensemble, x)
    losses = [wrapped.loss(wrapped(x), y).item() for y in (torch.zeros(7, dtype=torch.long), torch.ones(7, dtype=torch.long))]
    p, q = ensemble(x).softmax(1), student(x).softmax(1)
    assert losses == pytest.approx([(p * (p / q).log()).sum(1).mean().item()] * 2, rel=1e-4)


def test_meals_players_pull_in_opposite_directions():
    torch.manual_seed(0)
    match = Similarity(8, 1.0)
    own, theirs = torch.randn(32, 8, requires_grad=True), torch.randn(32, 8)
    loss = match.game(own, theirs)
    loss.backward()

    def after(student_step: float, discriminator_step: float) -> float:
        moved = Similarity(8, 1.0)
        moved.load_state_dict(match.state_dict())
        with torch.no_grad():
            for p, q in zip(moved.parameters(), match.parameters(), strict=True):
                p -= discriminator_step * q.grad
            return moved.game(own - student_step * own.grad / own.grad.norm(), theirs).item()

    assert after(0.0, 0.1) < loss.item() < after(5.0, 0.0)


def test_meal_trains_through_fit_and_comes_near_the_ensemble():
    data = task()
    teachers = [fit(mlp(24, i), data, RECIPE.with_(seed=i)).module for i in (1, 2)]
    ensemble, student = Ensemble(teachers).eval(), mlp(12, 7)

    def gap() -> float:
        p = ensemble(data.x_validation).softmax(1)
        return (p - student(data.x_validation).softmax(1)).abs().sum(1).mean().item()

    before = gap()
    wrapped = MEAL().wrap(student, ensemble, data.x[:2])
    fit(wrapped, data, RECIPE.with_(steps=120), loss=wrapped.loss)
    assert gap() < 0.5 * before


# --- guidance


def test_cka_is_one_for_rotated_scaled_features_and_low_for_others():
    g = torch.Generator().manual_seed(0)
    x, other = torch.randn(200, 10, generator=g), torch.randn(200, 10, generator=g)
    rotation = torch.linalg.qr(torch.randn(10, 10, generator=g))[0]
    assert cka(x, 3 * x @ rotation + 1).item() == pytest.approx(1, abs=1e-5)
    assert cka(x, other).item() < 0.15
    assert cka(x, torch.ones(200, 4)).item() == 0
    xc, yc = x - x.mean(0), other - other.mean(0)
    expected = (yc.T @ xc).square().sum() / ((xc.T @ xc).norm() * (yc.T @ yc).norm())
    assert cka(x, other).item() == pytest.approx(expected.item(), rel=1e-4)
    with pytest.raises(NetwrightError, match="two or more"):
        cka(x[:1], x[:1])


@pytest.mark.parametrize("trained", [True, False])
def test_guidance_raises_the_similarity_to_a_trained_and_to_an_untrained_guide(trained):
    data = task()
    guide = mlp(24, 1)
    if trained:
        fit(guide, data, RECIPE)
    pairs, similarity = (("1", "1"), ("3", "3")), {}
    for weight in (0.0, 3.0):
        student = mlp(16, 5)
        method = Guidance(pairs, weight)
        wrapped = method.wrap(student, guide, data.x[:2])
        fitted = fit(wrapped, data, RECIPE.with_(steps=120), loss=wrapped.loss)
        x = data.x_validation
        similarity[weight] = method.similarity(sample(student, ("1", "3"), x), sample(guide, ("1", "3"), x)).item()
        assert fitted.best_accuracy > 0.5  # chance is 1/3
    assert similarity[3.0] > similarity[0.0] + 0.05


def test_guidance_says_what_is_missing():
    with pytest.raises(NetwrightError, match="got none"):
        Guidance(()).wrap(mlp(4, 0), mlp(4, 0), torch.zeros(1, 6))
    with pytest.raises(UnknownName):
        Guidance((("0", "9"),)).wrap(mlp(4, 0), mlp(4, 0), torch.zeros(1, 6))


# --- ScaleKD


def test_removing_the_zero_frequency_is_taking_away_the_mean():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    spectrum = dctn(x, axes=(2, 3), norm="ortho")
    spectrum[:, :, 0, 0] = 0
    expected = torch.from_numpy(idctn(spectrum, axes=(2, 3), norm="ortho")).flatten(2).transpose(1, 2)
    assert torch.allclose(without_mean(torch.from_numpy(x).flatten(2).transpose(1, 2)), expected, atol=1e-5)


def test_the_frequency_view_sees_what_the_mean_hides():
    g = torch.Generator().manual_seed(0)
    detail, other = torch.randn(4, 16, 8, generator=g), torch.randn(4, 16, 8, generator=g)
    x, y = detail + 20, other + 20
    assert distance(x, y) < 0.02 * distance(without_mean(x), without_mean(y))
    assert distance(x, 5 * x).item() == pytest.approx(0, abs=1e-9)


def test_the_projector_turns_a_map_into_the_teachers_tokens():
    student, teacher = torch.randn(2, 16, 6), torch.randn(2, 17, 8)
    assert Projector(student, teacher, 4)(student).shape == teacher.shape
    with pytest.raises(NetwrightError, match="divisor"):
        Projector(student, teacher, 3)


@pytest.fixture(scope="module")
def taught() -> tuple[Tensors, Vit]:
    torch.manual_seed(0)
    x, y = bars(512)
    data = Tensors(x[:256], y[:256], x[256:], y[256:])
    teacher = Vit()
    fit(teacher, data, RECIPE.with_(steps=100))
    return data, teacher


METHOD = ScaleKD(("0", "1"), ("blocks.1", "blocks.2"), heads=2)


def test_the_students_features_pass_the_teachers_own_last_stage(taught):
    _, teacher = taught
    x = torch.randn(3, 1, 8, 8)
    wrapped = METHOD.wrap(cnn(), teacher, x)
    early = sample(teacher, ("blocks.1",), x).features["blocks.1"]
    given = torch.randn_like(early)
    with torch.no_grad():
        assert torch.allclose(wrapped.match.through(given, early, x), wrapped.teacher.blocks[2](given), atol=1e-5)


def test_scalekd_trains_a_cnn_towards_a_transformer_and_leaves_nothing_behind(taught):
    data, teacher = taught
    torch.manual_seed(3)
    student = cnn()
    keys = set(student.state_dict())
    wrapped = METHOD.wrap(student, teacher, data.x[:2])
    assert not any("teacher" in name for name in wrapped.state_dict())

    def between() -> float:
        wrapped.eval()
        own, target = sample(student, METHOD.student_layers, data.x), sample(wrapped.teacher, METHOD.teacher_layers, data.x)
        with torch.no_grad():
            return float(wrapped.match(own, target, data.x))

    before = between()
    fitted = fit(wrapped, data, RECIPE.with_(steps=100, lr=5e-3), loss=wrapped.loss)
    assert between() < 0.6 * before
    assert fitted.best_accuracy > 0.5
    assert set(student.state_dict()) == keys and not any(m._forward_hooks for m in student.modules())


def test_scalekd_refuses_a_layer_without_places(taught):
    with pytest.raises(NetwrightError, match=r"feature maps \[N, C, H, W\] or tokens"):
        METHOD.wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), taught[1], torch.zeros(1, 1, 8, 8))
