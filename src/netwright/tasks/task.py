"""Task: what a network is for. Data in three splits, classes, loss, metric, and how all of it came about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn import functional as F

from netwright.core.errors import DataError
from netwright.tasks.augment import Augmentation, augmentation


@dataclass(frozen=True)
class Normalisation:
    """x = (scale * raw - mean_c) / std_c per channel c; mean and std are those of scale * raw over the TRAIN split."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, raw: Tensor) -> Tensor:
        """raw [..., C, H, W] of any real dtype -> float32 of the same shape."""
        mean = torch.tensor(self.mean).view(-1, 1, 1)
        std = torch.tensor(self.std).view(-1, 1, 1)
        return raw.to(torch.float32).mul(self.scale).sub_(mean).div_(std)

    def __str__(self) -> str:
        mean, std = (", ".join(f"{v:.6g}" for v in values) for values in (self.mean, self.std))
        return f"x = ({self.scale:.6g} * raw - mean) / std per channel, mean = ({mean}), std = ({std})"


@dataclass(frozen=True, eq=False)
class Split:
    """Examples in memory: raw [N,C,H,W] uint8 or float32 as the source gives them, y [N] int64 in 0..K-1.

    `ids` [N] are the positions in the source, so that two splits can be shown to share no example.
    Values are normalised when asked for, so a split of uint8 images takes one byte a value.
    """

    raw: Tensor
    y: Tensor
    normalisation: Normalisation
    ids: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def tensor(self, index: Tensor | slice | None = None) -> Tensor:
        """Normalised float32 [n,C,H,W] of the examples at `index` (all of them when None)."""
        return self.normalisation(self.raw if index is None else self.raw[index])

    @property
    def x(self) -> Tensor:
        """The whole split, normalised: float32 [N,C,H,W]; computed anew on every access."""
        return self.tensor()

    def subset(self, index: Tensor) -> Split:
        return Split(self.raw[index], self.y[index], self.normalisation, self.ids[index])


@dataclass(frozen=True, eq=False)
class Task:
    """A classification task over images.

    Fields:
        classes: names, by label 0..K-1.
        how: how the three splits came about, in words.
        fingerprint: sha256 of the three splits as used (values, labels, class names); equal fingerprints mean equal data
            in equal splits, so a run may be resumed.
        background: per channel, the normalised median of the border pixels of the train images; fills what a shift uncovers.
        augment: names of the augmentations that suit this kind of data (a proposal; the recipe decides).
    """

    metric_name: ClassVar[str] = "accuracy"

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    normalisation: Normalisation
    how: str
    split_seed: int
    fingerprint: str
    background: tuple[float, ...]
    augment: tuple[str, ...] = ("shift",)
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        ids = torch.cat([s.ids for s in (self.train, self.validation, self.test)])
        if len(ids.unique()) != len(ids):
            raise DataError(f"Task {self.name!r}: an example lies in two splits.")
        if not 0 <= self.label_smoothing < 1:
            raise DataError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one input."""
        c, h, w = self.train.raw.shape[1:]
        return c, h, w

    @property
    def splits(self) -> dict[str, Split]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def split(self, name: str) -> Split:
        if name not in self.splits:
            raise DataError(f"There is no split named {name!r}. Known: train, validation, test.")
        return self.splits[name]

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross entropy with label smoothing, mean over the batch; logits [B,K], target [B] int64 or [B,K] probabilities."""
        return F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)

    def metric(self, logits: Tensor, target: Tensor) -> float:
        """Accuracy in 0..1; logits [B,K], target [B]."""
        return float((logits.argmax(1) == target).float().mean())

    def score(self, run: Callable[[Tensor], Tensor], split: str | Split = "validation", batch_size: int = 256) -> float:
        """Accuracy of `run` (x [B,C,H,W] -> logits [B,K]) over a split; no gradients, mode of the network untouched."""
        right, seen = 0, 0
        with torch.no_grad():
            for x, y in self.batches(split, batch_size):
                right += int((run(x).argmax(1) == y).sum())
                seen += len(y)
        return right / seen

    def normalise(self, raw: Tensor | NDArray[Any]) -> Tensor:
        """Bring images in the units of the source ([C,H,W] or [N,C,H,W], e.g. 0..255) to what the network takes.

        Raises:
            DataError: the shape is not that of this task.
        """
        tensor = torch.from_numpy(np.ascontiguousarray(raw)) if isinstance(raw, np.ndarray) else raw
        if tensor.ndim not in (3, 4) or tuple(tensor.shape[-3:]) != self.shape:
            raise DataError(f"Task {self.name!r} takes images of {self.shape} or (N, *{self.shape}), got {tuple(tensor.shape)}.")
        return self.normalisation(tensor)

    def batches(
        self,
        split: str | Split,
        batch_size: int,
        generator: Generator | None = None,
        augment: Augmentation | None = None,
        drop_last: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over a split: x float32 [B,C,H,W] normalised, y [B] int64.

        With a `generator` (CPU) the order is shuffled and `augment` drawn from it; without, the order is that of the split.
        """
        if batch_size < 1:
            raise DataError(f"batch_size must be at least 1, got {batch_size}.")
        if augment is not None and generator is None:
            raise DataError("Augmentation draws random numbers: pass a torch.Generator.")
        part = self.split(split) if isinstance(split, str) else split
        order = torch.arange(len(part)) if generator is None else torch.randperm(len(part), generator=generator)
        for index in order.split(batch_size):
            if drop_last and len(index) < batch_size:
                return
            x = part.tensor(index)
            yield (augment(x, generator) if augment is not None and generator is not None else x), part.y[index]

    def augmentation(self, names: Sequence[str] | None = None) -> Augmentation:
        """(x [B,C,H,W], generator) -> x, from names as in a recipe (``shift``, ``cutout:8``); None: those that suit the data.

        Raises:
            UnknownName, RecipeError: no such augmentation, or a parameter out of range.
        """
        return augmentation(self.augment if names is None else names, torch.tensor(self.background))

    @property
    def data(self) -> Fold:
        """What training may see: the train and the validation split, never the test split."""
        return Fold(self)

    def to_json(self) -> dict[str, Any]:
        """The facts for a report, without the data."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "classes": list(self.classes),
            "sizes": {name: len(split) for name, split in self.splits.items()},
            "metric": self.metric_name,
            "how": self.how,
            "split_seed": self.split_seed,
            "fingerprint": self.fingerprint,
            "normalisation": asdict(self.normalisation),
        }


@dataclass(frozen=True, eq=False)
class Fold:
    """The train and validation split of a task, in the form that a training loop asks for."""

    task: Task

    def batches(self, batch_size: int, generator: Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """One shuffled pass over train in batches of equal size; the rest that fills no batch waits for another pass."""
        return self.task.batches("train", min(batch_size, len(self.task.train)), generator, drop_last=True)

    @cached_property
    def validation(self) -> tuple[Tensor, Tensor]:
        """x float32 [N,C,H,W] normalised, y int64 [N]; kept, since it is asked for at every evaluation."""
        return self.task.validation.x, self.task.validation.y
