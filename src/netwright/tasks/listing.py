"""Where an image stands decides what it is: [top/]split/class/.../file, in folders and archives alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from netwright.core.errors import DataError
from netwright.tasks.source import check_classes, limited

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm")


@dataclass(frozen=True)
class Entry:
    """One image: its split, its class and its path, relative to the source."""

    split: str
    label: str
    path: str


def is_image(name: str) -> bool:
    """By suffix; hidden files (and the `._` twins that macOS adds) are not images."""
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


def place(parts: Sequence[str]) -> tuple[str, str, tuple[str, ...]] | None:
    """Path components -> (top folder or "", split, what follows); None when the path lies in no split."""
    for depth in (0, 1):
        if len(parts) > depth and parts[depth].casefold() in SPLITS:
            return "/".join(parts[:depth]), SPLITS[parts[depth].casefold()], tuple(parts[depth + 1 :])
    return None


@dataclass(frozen=True, eq=False)
class Listing:
    """All images of a source, before any of them is decoded, in the order of their paths; `y` [N] int64 by class."""

    entries: tuple[Entry, ...]
    classes: tuple[str, ...]
    y: Tensor
    ids: Tensor
    cut: str = ""

    def positions(self, split: str) -> Tensor:
        return torch.tensor([i for i, e in enumerate(self.entries) if e.split == split], dtype=torch.int64)

    def limited(self, limit: int | None, seed: int) -> Listing:
        """With at most `limit` entries in train, stratified, so that the others need not be decoded."""
        train = self.positions("train")
        if limit is None or limit >= len(train):
            return self
        least = 1 if len(self.positions("validation")) else 2
        index, cut = limited(self.y[train], len(self.classes), limit, seed, least)
        keep = torch.cat([train[index], self.positions("validation"), self.positions("test")]).sort().values
        return Listing(tuple(self.entries[i] for i in keep.tolist()), self.classes, self.y[keep], self.ids[keep], cut)


def listing(where: str, files: Iterator[tuple[str, bool]], split_name: Callable[[str], tuple[str, ...]]) -> Listing:
    """Sort the (path, is a folder) pairs of a source into splits and classes, and check that these make a data set.

    Raises:
        DataError: no train or test split, an image outside a class, an empty class, one class only, a class that train
            has not, too few examples of a class, a path that occurs twice.
    """
    entries: list[Entry] = []
    folders: dict[tuple[str, str], None] = {}
    tops: dict[str, str] = {}
    for path, is_folder in files:
        spot = place(parts := split_name(path))
        if spot is None or parts[0] == "__MACOSX" or any(p.startswith(".") for p in parts):
            continue
        top, split, rest = spot
        if is_folder:
            if rest:
                folders[split, rest[0]] = None
        elif is_image(parts[-1]):
            if len(rest) < 2:
                raise DataError(f"{where}: the image {path} lies outside a class folder. Move it to {parts[-2]}/<class>/.")
            entries.append(Entry(split, rest[0], path))
            tops.setdefault(top, path)
    if len(tops) > 1:
        shown = " and ".join(list(tops.values())[:2])
        raise DataError(f"{where} holds more than one data set: {shown} lie under different top folders. Keep one.")
    _check(where, entries, list(folders))
    entries.sort(key=lambda e: (("train", "validation", "test").index(e.split), e.label, e.path))
    classes = tuple(sorted({e.label for e in entries if e.split == "train"}))
    code = {label: k for k, label in enumerate(classes)}
    y = torch.tensor([code[e.label] for e in entries], dtype=torch.int64)
    found = Listing(tuple(entries), classes, y, torch.arange(len(entries)))
    least = 1 if len(found.positions("validation")) else 2
    check_classes(y[found.positions("train")], classes, f"{where}, train", least)
    return found


def _check(where: str, entries: list[Entry], folders: list[tuple[str, str]]) -> None:
    full = {(e.split, e.label) for e in entries}
    if not entries and not folders:
        raise DataError(
            f"{where}: no images found in train/<class>/ and test/<class>/. Arrange the files so; "
            f"images end in {', '.join(SUFFIXES)}."
        )
    for split in ("train", "test"):
        if split not in {s for s, _ in full} | {s for s, _ in folders}:
            raise DataError(f"{where} has no {split} split: there is no folder {split}/<class>/ with images in it. Add one.")
    for split, label in folders:
        if (split, label) not in full:
            raise DataError(f"{where}: the class folder {split}/{label} holds no image. Add images or remove the folder.")
    train = {label for split, label in full if split == "train"}
    for split, label in sorted(full):
        if label not in train:
            raise DataError(f"{where}: {split}/{label} is a class that train has not. Add train/{label} or correct the name.")
        try:
            label.encode()
        except UnicodeEncodeError:
            raise DataError(f"{where}: the class name {label!r} is not UTF-8 text. Rename the folder.") from None
    twice = [path for path, n in Counter(e.path for e in entries).items() if n > 1]
    if twice:
        raise DataError(f"{where}: {twice[0]} occurs more than once. Keep one file of each name.")
