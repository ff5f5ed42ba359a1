import pytest
import torch

from netwright.core.errors import RecipeError, UnknownName
from netwright.tasks import load_task
from netwright.tasks.augment import CATALOGUE, Affine, Cutout, Flip, Shift, augmentation, parse

BACKGROUND = torch.tensor([-7.0, -8.0])


@pytest.fixture
def x():
    return torch.arange(500 * 2 * 8 * 8, dtype=torch.float32).view(500, 2, 8, 8) + 1


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_contract(name, x):
    augment = CATALOGUE[name]()
    before = x.clone()
    one, two, other = (augment.apply(x, BACKGROUND, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert one.shape == x.shape and one.dtype == x.dtype
    assert torch.equal(x, before), "the batch itself must not change"
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert augment.paper.title


def test_shift_moves_whole_images_and_fills_with_the_background(x, generator):
    y = Shift(2).apply(x, BACKGROUND, generator)
    padded = BACKGROUND.view(1, 2, 1, 1).expand(500, 2, 12, 12).clone()
    padded[:, :, 2:10, 2:10] = x
    moves = [
        next((u, v) for u in range(5) for v in range(5) if torch.equal(y[b], padded[b, :, u : u + 8, v : v + 8]))
        for b in range(500)
    ]
    assert len(set(moves)) == 25 and sum(m == (2, 2) for m in moves) < 50


def test_shift_grows_with_the_image(generator):
    for side, k in ((8, 1), (28, 3), (32, 4)):
        x = torch.zeros(300, 1, side, side)
        x[:, :, side // 2, side // 2] = 1
        at = Shift().apply(x, torch.zeros(1), generator).flatten(1).argmax(1)
        assert (at // side - side // 2).abs().max() == k == (at % side - side // 2).abs().max()


def test_flip_mirrors_half_of_the_images(x, generator):
    y = Flip().apply(x, BACKGROUND, generator)
    mirrored = torch.tensor([torch.equal(a, b.flip(-1)) for a, b in zip(y, x, strict=True)])
    assert torch.equal(y[~mirrored], x[~mirrored]) and 0.4 < mirrored.float().mean() < 0.6
    assert torch.equal(Flip(0.0).apply(x, BACKGROUND, generator), x)


def test_cutout_blanks_a_square_with_the_mean(x, generator):
    y = Cutout(4).apply(x, BACKGROUND, generator)
    gone = y != x
    assert (y[gone] == 0).all() and torch.equal(gone[:, 0], gone[:, 1])
    area = gone[:, 0].sum((1, 2))
    assert area.max() == 16 and area.min() >= 4 and len(area.unique()) > 3


def test_affine_keeps_the_background_and_at_zero_the_image(x, generator):
    assert torch.allclose(Affine(0, 0, 0).apply(x, BACKGROUND, generator), x, rtol=1e-4)
    plain = BACKGROUND.view(1, 2, 1, 1).expand(50, 2, 8, 8)
    assert torch.allclose(Affine(30, 0.2, 0.3).apply(plain, BACKGROUND, generator), plain, atol=1e-5)


def test_affine_turns_without_shearing(generator):
    x = torch.zeros(200, 1, 8, 24)
    x[:, 0, 3:5, 11:13] = 1  # a square at the centre keeps its area and its centre whatever the angle
    y = Affine(180, 0, 0).apply(x, torch.zeros(1), generator)[:, 0]
    assert (y.sum((1, 2)) - 4).abs().max() < 0.5
    columns = torch.arange(24) - 11.5
    assert ((y * columns).sum((1, 2)) / y.sum((1, 2))).abs().max() < 1e-3


def test_names_with_values():
    assert parse("shift:2") == Shift(2) and parse("flip") == Flip() and parse("flip:0.25") == Flip(0.25)
    with pytest.raises(UnknownName, match="'shift'"):
        parse("shfit")
    for text, message in (
        ("shift:two", "not a number"),
        ("flip:nan", "not a number"),
        ("shift:inf", "not a number"),
        ("shift:-1", "from 0 on"),
        ("shift:1.5", "whole"),
        ("flip:2", "probability"),
    ):
        with pytest.raises(RecipeError, match=message):
            parse(text)


def test_chain_of_a_task(generator):
    task = load_task("digits", seed=0)
    assert "flip" not in task.augment
    x, _ = next(task.batches("train", 256, generator, task.augmentation(["shift", "cutout:2"])))
    assert x.shape == (256, 1, 8, 8) and (x == 0).any() and (x == task.background[0]).any()
    assert torch.equal(augmentation([], torch.zeros(1))(x, generator), x)
