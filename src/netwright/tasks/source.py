"""What a reader of a file format hands over: labelled images in the splits that the source itself gives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from netwright.core.errors import DataError
from netwright.tasks.split import Draw, stratified

MIN_SIDE = 4
MAX_SIDE = 4096
MAX_BYTES = 8 << 30


@dataclass(frozen=True, eq=False)
class Part:
    """One split as the source gives it: x [N,C,H,W] uint8 or float32, y [N] int64, ids [N] = positions in the source."""

    where: str
    x: Tensor
    y: Tensor
    ids: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: Tensor) -> Part:
        return Part(self.where, self.x[index], self.y[index], self.ids[index])


@dataclass(frozen=True, eq=False)
class Source:
    """A data set as found.

    `scale` brings raw values to about 0..1; `held_out` is the share of train that is cut for validation where the source
    has none; `augment` names what suits such data; `how_test` says where test comes from, if not from the source itself.
    """

    name: str
    kind: str
    classes: tuple[str, ...]
    scale: float
    train: Part
    test: Part
    validation: Part | None = None
    augment: tuple[str, ...] = ("shift",)
    notes: tuple[str, ...] = ()
    held_out: float = 0.1
    how_test: str = ""

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(p for p in (self.train, self.validation, self.test) if p is not None)


def check_side(height: int, width: int, where: str) -> None:
    """Raises DataError when an image of height x width pixels is too small or too large to be one."""
    if min(height, width) < MIN_SIDE:
        raise DataError(
            f"{where}: {width}x{height} pixels is too small; at least {MIN_SIDE}x{MIN_SIDE} is needed. "
            "Remove it, or enlarge the images with size=N."
        )
    if max(height, width) > MAX_SIDE:
        raise DataError(f"{where}: {width}x{height} pixels; the most is {MAX_SIDE} a side. Ask for smaller images with size=N.")


def check_bytes(count: int, shape: tuple[int, ...], itemsize: int, where: str) -> None:
    """Raises DataError when `count` images of `shape` would not fit in the memory set aside for data."""
    total = count * itemsize * int(torch.tensor(shape).prod())
    if total > MAX_BYTES:
        raise DataError(
            f"{where}: {count} images of {'x'.join(map(str, shape))} take {total / 2**30:.1f} GiB; the most is "
            f"{MAX_BYTES >> 30} GiB. Ask for smaller images with size=N or for fewer with limit=N."
        )


def check_classes(train: Tensor, classes: tuple[str, ...], where: str, least: int) -> None:
    """Raises DataError unless there are two classes or more, each with `least` or more training examples."""
    if len(classes) < 2:
        raise DataError(f"{where}: only one class ({classes[0]!r}); a classifier needs at least two.")
    sizes = torch.bincount(train, minlength=len(classes))
    rare = [f"{classes[c]!r} ({int(sizes[c])})" for c in range(len(classes)) if sizes[c] < least]
    if rare:
        shown = ", ".join(rare[:5]) + (f" and {len(rare) - 5} more" if len(rare) > 5 else "")
        raise DataError(
            f"{where}: too few examples of {shown}; every class needs at least {least} so that training and validation "
            "both see it. Add examples, or remove the class (is the label a typing error?)."
        )


def check_source(source: Source, least: int) -> None:
    """What holds whatever the file format. Raises DataError naming the file or the array and the cure."""
    for part in source.parts:
        if len(part) == 0:
            raise DataError(f"{part.where}: empty; at least one example is needed.")
        if part.x.shape[1:] != source.train.x.shape[1:]:
            raise DataError(
                f"{part.where} holds images of {tuple(part.x.shape[1:])} (channels, height, width), {source.train.where} of "
                f"{tuple(source.train.x.shape[1:])}. Bring them to one shape."
            )
    check_side(source.train.x.shape[2], source.train.x.shape[3], source.train.where)
    check_classes(source.train.y, source.classes, source.train.where, least)
    if bool((source.train.x.amin((0, 2, 3)) == source.train.x.amax((0, 2, 3))).all()):
        raise DataError(f"{source.train.where}: every pixel of every image has the same value; there is nothing to learn.")


def limited(y: Tensor, classes: int, limit: int, seed: int, least: int) -> tuple[Tensor, str]:
    """Positions of `limit` of the training labels y [N], stratified, and the sentence that says so.

    Raises:
        DataError: the limit leaves fewer than `least` examples to a class.
    """
    if limit < least * classes:
        raise DataError(f"limit={limit} leaves too few examples to {classes} classes; use {least * classes} or more.")
    chosen = torch.from_numpy(stratified(y.numpy(), limit, seed, Draw.LIMIT, keep=0, least=least)[1])
    return chosen, f"Limit: {len(chosen)} of {len(y)} training examples, stratified by class, seed {seed}."
