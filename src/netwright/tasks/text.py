"""Text: the next character from those before it, as one-hot vectors, so that any network of float inputs can read it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from netwright.core.errors import DataError
from netwright.tasks.load import expand


@dataclass(frozen=True, eq=False)
class Text:
    """A text cut in two: the first part for training, the last for validation.

    Attributes:
        characters: the alphabet, sorted; a character's place is its code.
        train, held_out: codes, int64.
        context: characters that a network sees, T.
    """

    characters: str
    train: Tensor
    held_out: Tensor
    context: int

    @classmethod
    def load(cls, path: str | Path, context: int = 64, held_out: float = 0.1) -> Text:
        """Read a UTF-8 file.

        Raises:
            DataError: no such file, not text, or too short for one window of each part.
        """
        found = expand(path)
        try:
            text = found.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise DataError(f"There is no text at {found}.") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{found} is not UTF-8 text: {error.reason} at byte {error.start}.") from error
        return cls.of(text, context, held_out, str(found))

    @classmethod
    def of(cls, text: str, context: int = 64, held_out: float = 0.1, name: str = "The text") -> Text:
        """A text given as a string; see `load`."""
        characters = "".join(sorted(set(text)))
        place = {c: i for i, c in enumerate(characters)}
        codes = torch.tensor([place[c] for c in text], dtype=torch.int64)
        cut = len(codes) - round(held_out * len(codes))
        if min(cut, len(codes) - cut) <= context:
            raise DataError(f"{name} has {len(codes)} characters; each part needs more than the context of {context}.")
        return cls(characters, codes[:cut], codes[cut:], context)

    def one_hot(self, codes: Tensor) -> Tensor:
        """[N, T] -> float [N, T, characters]."""
        return F.one_hot(codes, len(self.characters)).to(torch.float32)

    def windows(self, codes: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """One-hot inputs [n, T, V] and the characters that follow each position [n, T]."""
        at = starts[:, None] + torch.arange(self.context)
        return self.one_hot(codes[at]), codes[at + 1]

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Windows at random places, as many as cover the training part once."""
        last = len(self.train) - self.context
        for _ in range(max(1, len(self.train) // (batch_size * self.context))):
            yield self.windows(self.train, torch.randint(last, (batch_size,), generator=generator))

    @cached_property
    def validation(self) -> tuple[Tensor, Tensor]:
        """All windows of the held-out part, side by side."""
        return self.windows(self.held_out, torch.arange(0, len(self.held_out) - self.context, self.context))

    @cached_property
    def bigram_loss(self) -> float:
        """Cross-entropy in nats a character, on the windows of `validation`, of counted pairs of characters, each plus one."""
        v = len(self.characters)
        counts = torch.ones(v, v)
        counts.index_put_((self.train[:-1], self.train[1:]), torch.ones(len(self.train) - 1), accumulate=True)
        x, y = self.validation
        return float(F.nll_loss((counts / counts.sum(1, keepdim=True)).log()[x.argmax(2).flatten()], y.flatten()))
