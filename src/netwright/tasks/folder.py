"""Read a folder of images: train/<class>/*, test/<class>/*, optionally val/<class>/*; one folder above them is tolerated."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from netwright.core.errors import DataError
from netwright.tasks.images import MAX_FILE, decode_all
from netwright.tasks.listing import SPLITS, Entry, listing
from netwright.tasks.source import Source


def _bases(root: Path) -> list[Path]:
    """The folders that hold split folders: the root itself, else its direct children."""

    def splits(folder: Path) -> bool:
        return any(child.name.casefold() in SPLITS and child.is_dir() for child in folder.iterdir())

    if splits(root):
        return [root]
    return [c for c in sorted(root.iterdir()) if c.is_dir() and not c.name.startswith(".") and splits(c)]


def walk(root: Path) -> Iterator[tuple[str, bool]]:
    """(path relative to root with slashes, is a folder) of all that lies in a split; links to files are followed."""
    for base in _bases(root):
        for split in sorted(base.iterdir()):
            if split.name.casefold() not in SPLITS or not split.is_dir():
                continue
            for child in sorted(split.iterdir()):
                yield child.relative_to(root).as_posix(), child.is_dir()
                if child.is_dir():
                    for folder, _, names in os.walk(child):
                        yield from (((Path(folder) / n).relative_to(root).as_posix(), False) for n in names)


def read_folder(
    root: Path,
    *,
    seed: int,
    limit: int | None = None,
    size: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Source:
    """The data set in a folder of images; only the images that are used are decoded.

    Raises:
        DataError: naming the file or the folder, and the cure.
    """
    try:
        found = listing(str(root), walk(root), lambda path: tuple(path.split("/"))).limited(limit, seed)
    except OSError as error:
        raise DataError(f"{root} cannot be read ({error}). Check the permissions.") from None

    def contents() -> Iterator[tuple[Entry, bytes]]:
        for done, entry in enumerate(found.entries):
            path = root / entry.path
            try:
                if not path.is_file() or path.stat().st_size > MAX_FILE:
                    raise DataError(f"{path} is not a file, or larger than {MAX_FILE >> 20} MiB. Remove it.")
                data = path.read_bytes()
            except OSError as error:
                raise DataError(f"{path} cannot be read ({error}). Check the permissions or remove it.") from None
            if progress and done % 64 == 0:
                progress(done, len(found.entries), f"reading {root.name}")
            yield entry, data
        if progress:
            progress(len(found.entries), len(found.entries), f"reading {root.name}")

    return decode_all(root.resolve().name, f"images in the folder {root.resolve().name}", str(root), found, contents(), size)
