"""digits, splits, statistics, batches: what every task promises."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from netwright.core.errors import DataError
from netwright.tasks import Normalisation, load_task
from netwright.tasks.load import border, statistics
from netwright.tasks.split import Draw, shares, stratified


@pytest.fixture(scope="module")
def digits():
    return load_task("digits", seed=0)


def test_digits_has_the_sizes_of_a_60_20_20_split(digits):
    assert {name: len(split) for name, split in digits.splits.items()} == {"train": 1078, "validation": 359, "test": 360}
    assert digits.shape == (1, 8, 8) and digits.classes == tuple("0123456789")
    assert digits.train.raw.dtype == torch.uint8 and digits.train.y.dtype == torch.int64
    assert digits.train.x.dtype == torch.float32 and digits.train.x.shape == (1078, 1, 8, 8)


def test_no_example_lies_in_two_splits(digits):
    ids = torch.cat([split.ids for split in digits.splits.values()])
    assert sorted(ids.tolist()) == list(range(1797))
    with pytest.raises(DataError, match="in two splits"):
        from dataclasses import replace

        replace(digits, test=digits.train)


def test_every_split_has_the_class_shares_of_the_whole(digits):
    whole = torch.cat([split.y for split in digits.splits.values()])
    share = torch.bincount(whole) / len(whole)
    for split in digits.splits.values():
        assert (torch.bincount(split.y) - share * len(split)).abs().max() <= 1.5


def test_the_seed_decides_the_split_and_nothing_else_does(digits):
    torch.manual_seed(5)
    np.random.seed(5)
    again, other = load_task("digits", seed=0), load_task("digits", seed=1)
    assert all(torch.equal(again.splits[s].ids, digits.splits[s].ids) for s in digits.splits)
    assert again.fingerprint == digits.fingerprint and len(digits.fingerprint) == 64
    assert not torch.equal(other.test.ids, digits.test.ids) and other.fingerprint != digits.fingerprint


def test_a_limit_or_a_share_leaves_test_as_it_is(digits):
    small = load_task("digits", seed=0, limit=200, validation=0.1)
    assert (len(small.train), len(small.validation)) == (180, 20)
    assert torch.equal(small.test.ids, digits.test.ids)
    assert "Limit: 200 of 1437" in small.how and "Validation: 20 of 200" in small.how


def test_statistics_come_from_train_alone(digits):
    raw = digits.train.raw.double() / 16
    assert digits.normalisation.mean == pytest.approx([raw.mean().item()])
    assert digits.normalisation.std == pytest.approx([raw.std(correction=0).item()])
    assert digits.train.x.mean().abs() < 1e-5 and abs(digits.train.x.std(correction=0) - 1) < 1e-5
    everything = torch.cat([split.raw for split in digits.splits.values()]).double() / 16
    assert digits.normalisation.mean[0] != pytest.approx(everything.mean().item(), abs=1e-6)


def test_statistics_per_channel_and_of_a_constant_channel():
    x = torch.stack([torch.full((50, 4, 4), 7.0), torch.arange(800.0).view(50, 4, 4) + 1e4], dim=1)
    n = statistics(x, 0.5)
    assert n.mean == pytest.approx([3.5, 0.5 * (1e4 + 399.5)]) and n.std == pytest.approx(
        [1.0, 0.5 * math.sqrt((800**2 - 1) / 12)]
    )
    assert torch.isfinite(n(x)).all() and n(x)[:, 0].abs().max() == 0


def test_normalise_takes_what_a_user_has(digits):
    raw = digits.test.raw[3]
    expected = digits.test.tensor(slice(3, 4))
    assert torch.equal(digits.normalise(raw)[None], expected)
    assert torch.equal(digits.normalise(raw[None].numpy().astype(np.float64)), expected)
    with pytest.raises(DataError, match=r"takes images of \(1, 8, 8\)"):
        digits.normalise(np.zeros((8, 8)))
    assert "mean = (" in str(digits.normalisation)


def test_background_is_the_median_of_the_border():
    x = torch.full((9, 2, 6, 6), 100, dtype=torch.uint8)
    x[:, :, 1:-1, 1:-1] = 3
    x[:, 1] = 50
    assert border(x, Normalisation(1.0, (0.0, 10.0), (2.0, 1.0))) == pytest.approx((50.0, 40.0))


def test_batches_in_order_and_shuffled(digits):
    x, y = map(torch.cat, zip(*digits.batches("test", 100), strict=True))
    assert torch.equal(x, digits.test.x) and torch.equal(y, digits.test.y)
    runs = [torch.cat([y for _, y in digits.batches("train", 64, torch.Generator().manual_seed(s))]) for s in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert torch.equal(runs[0].sort().values, digits.train.y.sort().values)
    assert {len(y) for _, y in digits.batches("train", 100, drop_last=True)} == {100}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "tset", "batch_size": 8}, "no split named 'tset'"),
        ({"split": "test", "batch_size": 0}, "at least 1"),
        ({"split": "test", "batch_size": 8, "augment": lambda x, g: x}, "pass a torch.Generator"),
    ],
)
def test_batches_refuses(digits, arguments, message):
    with pytest.raises(DataError, match=message):
        next(digits.batches(**arguments))


def test_data_is_what_training_may_see(digits, generator):
    batches = list(digits.data.batches(64, generator))
    assert len(batches) == 1078 // 64 and all(x.shape == (64, 1, 8, 8) for x, _ in batches)
    x, y = digits.data.validation
    assert torch.equal(x, digits.validation.x) and torch.equal(y, digits.validation.y)
    assert sum(len(y) for _, y in digits.data.batches(5000, generator)) == 1078


def test_loss_metric_and_score(digits):
    logits, y = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    log_p = logits.log_softmax(1)
    hard = -log_p[range(6), y].mean()
    smooth = load_task("digits", seed=0, label_smoothing=0.2)
    assert digits.loss(logits, y) == pytest.approx(hard.item())
    assert smooth.loss(logits, y) == pytest.approx((0.8 * hard - 0.2 * log_p.mean()).item(), rel=1e-5)
    assert digits.metric(torch.eye(10)[:4], torch.tensor([0, 1, 2, 9])) == 0.75
    constant = nn.Linear(64, 10)
    nn.init.zeros_(constant.weight)
    with torch.no_grad():
        constant.bias.copy_(torch.eye(10)[3])
    score = digits.score(lambda x: constant(x.flatten(1)), "test", batch_size=77)
    assert score == pytest.approx((digits.test.y == 3).float().mean().item())


def test_facts_are_json(digits):
    facts = json.loads(json.dumps(digits.to_json()))
    assert (
        facts["sizes"]["test"] == 360 and facts["normalisation"]["scale"] == 1 / 16 and "training examples alone" in facts["how"]
    )


@pytest.mark.parametrize("seed", range(20))
def test_stratified_cuts_exactly_and_evenly(seed):
    random = np.random.default_rng(seed)
    y = random.integers(0, 7, size=random.integers(60, 300))
    y = np.concatenate([y, np.repeat(np.arange(7), 2)])
    count = int(random.integers(7, len(y) // 2))
    rest, chosen = stratified(y, count, seed, Draw.VALIDATION)
    assert len(chosen) == count and sorted([*rest, *chosen]) == list(range(len(y)))
    sizes, given = np.bincount(y), np.bincount(y[chosen])
    assert given.min() >= 1 and (sizes - given).min() >= 1
    ample = (count * sizes / len(y) >= 1) & (sizes > 2)
    assert np.abs(given - count * sizes / len(y))[ample].max() <= 1.5


def test_shares_of_rare_classes():
    assert shares(np.array([1000, 2, 2]), 100, keep=1).tolist() == [98, 1, 1]
    assert shares(np.array([5, 5, 5]), 1, keep=1).tolist() == [1, 1, 1]
    assert shares(np.array([30, 30, 40]), 10, keep=0).sum() == 10
    with pytest.raises(DataError, match=r"Label 1 has 1 example"):
        stratified(np.array([0, 0, 1]), 1, 0, Draw.VALIDATION)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 2}, "size must lie in 4"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"limit": 19}, "limit=19 leaves too few examples to 10 classes; use 20"),
        ({"validation": 0.9}, "validation is the share"),
        ({"seed": -1}, "0 or more"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
    ],
)
def test_load_task_refuses_arguments_out_of_range(arguments, message):
    with pytest.raises(DataError, match=message):
        load_task("digits", **arguments)


def test_size_resizes_on_request():
    task = load_task("digits", seed=0, size=16)
    assert task.shape == (1, 16, 16) and task.train.raw.dtype == torch.uint8 and task.train.raw.max() <= 16
