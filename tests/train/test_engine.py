"""The loop: it learns, it resumes exactly, it stops on NaN with a good state on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from netwright.core.errors import NetwrightError, RecipeError, TrainingDiverged
from netwright.train import Recipe, Tensors, accuracy, fit, load_weights
from netwright.train.checkpoint import Checkpoint


def blobs(n: int = 240, seed: int = 0) -> Tensors:
    """Three classes, told apart by the place of a bright spot in an 8x8 image."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=g)
    x = torch.randn(n, 1, 8, 8, generator=g)
    for i, c in enumerate(y.tolist()):
        x[i, 0, 2 * c : 2 * c + 2, 2 * c : 2 * c + 2] += 2.5
    return Tensors(x[: n * 2 // 3], y[: n * 2 // 3], x[n * 2 // 3 :], y[n * 2 // 3 :])


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
            nn.Linear(72, 3),
        )


def jitter(x: torch.Tensor, y: torch.Tensor, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    return x + 0.1 * torch.randn(x.shape, generator=g), y


RECIPE = Recipe(steps=60, batch_size=32, lr=1e-2, ema=0.9, evaluations=5, log_every=7, augment=("jitter",), seed=3)


class Killed(BaseException):
    pass


def kill_at(step: int):
    def hook(at: int, module: nn.Module) -> None:
        if at == step:
            raise Killed

    return hook


def test_learns_and_keeps_the_best():
    data, module = blobs(), network(seed=1)
    before = accuracy(module, data.validation)
    fitted = fit(module, data, RECIPE, augment=jitter)
    assert before < 0.6 < 0.9 <= fitted.best_accuracy
    assert accuracy(module, data.validation) == fitted.best_accuracy
    taken = [(r.step, r.accuracy) for r in fitted.history if r.accuracy is not None]
    assert [step for step, _ in taken] == [12, 24, 36, 48, 60]
    assert fitted.best_step == max(step for step, value in taken if value == fitted.best_accuracy), "a tie goes to the later"
    assert not module.training


def test_leaves_the_callers_generator_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    fit(network(), blobs(), RECIPE.with_(steps=3), augment=jitter)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("killed_at", [17, 41])
def test_a_killed_run_resumes_bit_exactly(tmp_path: Path, name, killed_at: int):
    recipe, data = RECIPE.with_(optimiser=name), blobs()
    whole = network()
    undisturbed = fit(whole, data, recipe, augment=jitter)
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        fit(network(), data, recipe, augment=jitter, checkpoint=path, save_every_steps=5, on_step=[kill_at(killed_at)])
    assert Checkpoint.load(path).facts["position"]["step"] == killed_at // 5 * 5
    resumed = network(seed=99)  # other initial weights: all must come from the file
    seen: list[int] = []
    again = fit(resumed, data, recipe, augment=jitter, checkpoint=path, on_step=[lambda step, _: seen.append(step)])
    assert seen[0] == killed_at // 5 * 5
    for (key, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    assert again.history == undisturbed.history
    # a finished run returns at once
    third = network(seed=98)
    fit(third, data, recipe, augment=jitter, checkpoint=path, on_step=[kill_at(0)])
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), third.state_dict().values(), strict=True))


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_nan_stops_with_a_good_state_on_disk(tmp_path: Path, clip: float):
    path = tmp_path / "state.safetensors"
    module, data = network(), blobs()

    def poison(step: int, module: nn.Module) -> None:
        if step == 33:
            with torch.no_grad():
                module.get_parameter("0.weight")[0] = float("inf")

    with pytest.raises(TrainingDiverged, match=r"at step 34 of 60 \(learning rate .*after step 30, is in .*state.safetensors"):
        fit(module, data, RECIPE.with_(clip_norm=clip), augment=jitter, checkpoint=path, save_every_steps=10, on_step=[poison])
    kept = load_weights(path, "weights")
    assert Checkpoint.load(path).facts["position"]["step"] == 30
    assert all(v.isfinite().all() for v in kept.values())
    module.load_state_dict(kept)
    assert accuracy(module, data.validation) > 0.5


def test_nan_without_a_checkpoint_puts_good_weights_back():
    module = network()
    with pytest.raises(TrainingDiverged, match="best weights so far again, those after step 0"):
        fit(module, blobs(), RECIPE, augment=jitter, loss=lambda logits, y: logits.sum() * float("nan"))
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), network().parameters(), strict=True))


def test_a_bad_state_never_replaces_a_good_file(tmp_path: Path):
    path = tmp_path / "state.safetensors"

    def poison(step: int, module: nn.Module) -> None:
        if step == 4:
            with torch.no_grad():
                module.get_parameter("6.bias").fill_(float("nan"))

    constant = RECIPE.with_(ema=0.0, clip_norm=0.0)
    with pytest.raises(TrainingDiverged):
        fit(network(), blobs(), constant, augment=jitter, checkpoint=path, save_every_steps=1, on_step=[poison])
    assert Checkpoint.load(path).facts["position"]["step"] == 4


def test_a_checkpoint_of_another_recipe_or_module_is_refused(tmp_path: Path):
    path = tmp_path / "state.safetensors"
    short = RECIPE.with_(steps=3)
    fit(network(), blobs(), short, augment=jitter, checkpoint=path)
    with pytest.raises(NetwrightError, match=r"another recipe: lr = 0.5, there 0.01"):
        fit(network(), blobs(), short.with_(lr=0.5), augment=jitter, checkpoint=path)
    with pytest.raises(NetwrightError, match="other weights"):
        fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), blobs(), short, augment=jitter, checkpoint=path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(NetwrightError, match="cannot be read"):
        fit(network(), blobs(), short, augment=jitter, checkpoint=path)


def test_channels_last_learns_the_same_and_leaves_no_trace():
    plain, other = network(seed=1), network(seed=1)
    a = fit(plain, blobs(), RECIPE, augment=jitter)
    b = fit(other, blobs(), RECIPE.with_(channels_last=True), augment=jitter)
    assert abs(a.history[-1].loss - b.history[-1].loss) < 0.02
    assert all(p.is_contiguous() for p in other.parameters())


def test_tied_weights_are_saved():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(64, 64)
            self.b = nn.Linear(64, 64)
            self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x.flatten(1)).relu())[:, :3]

    module = Tied()
    fitted = fit(module, blobs(), Recipe(steps=20, ema=0.9))
    assert fitted.module.a.weight is fitted.module.b.weight


def test_augmentations_without_a_callable_are_refused():
    with pytest.raises(RecipeError, match="asks for jitter"):
        fit(network(), blobs(), RECIPE)


def test_a_teacher_helps_where_labels_are_noise():
    data, teacher = blobs(), network()
    fit(teacher, data, Recipe(steps=80, lr=1e-2))
    wrong = Tensors(data.x, (data.y + 1) % 3, data.x_validation, data.y_validation)
    student = network(seed=1)
    teacher.train()
    fitted = fit(student, wrong, Recipe(steps=80, lr=1e-2, distil_weight=1.0), teacher=teacher)
    assert fitted.best_accuracy > 0.9
    assert teacher.training, "the teacher gets its mode back"
