"""Text as a task: windows, the alphabet, and the bigram model that every language model must beat."""

from __future__ import annotations

import math

import pytest
import torch

from netwright.core.errors import DataError
from netwright.tasks.text import Text


def test_windows_are_shifted_by_one():
    text = Text.of("abcdefgh" * 20, context=5)
    x, y = text.validation
    assert x.shape[1:] == (5, 8) and bool((x.sum(2) == 1).all())
    assert torch.equal(x.argmax(2)[:, 1:], y[:, :-1]), "the target is the next character"
    generator = torch.Generator().manual_seed(0)
    assert next(text.batches(4, generator))[0].shape == (4, 5, 8)


def test_a_bigram_model_knows_an_alternating_text():
    assert Text.of("ab" * 500, context=8).bigram_loss < 0.01
    generator = torch.Generator().manual_seed(0)
    noise = "".join("abcd"[i] for i in torch.randint(4, (4000,), generator=generator).tolist())
    assert Text.of(noise, context=8).bigram_loss == pytest.approx(math.log(4), abs=0.02)


def test_bad_texts(tmp_path):
    with pytest.raises(DataError, match="There is no text"):
        Text.load(tmp_path / "none.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(DataError, match="not UTF-8"):
        Text.load(tmp_path / "binary")
    with pytest.raises(DataError, match="needs more than the context of 64"):
        Text.of("short")
