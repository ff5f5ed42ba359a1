"""Decode image files with Pillow: greyscale files to one channel, all others to three; 8 bits a value."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from netwright.core.errors import DataError
from netwright.tasks.listing import Entry, Listing
from netwright.tasks.source import Part, Source, check_bytes, check_side

# The formats behind listing.SUFFIXES. Pillow knows more, some of which start other programs (EPS starts Ghostscript).
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
MAX_FILE = 256 << 20
MAX_PIXELS = 1 << 27
_DAMAGE: tuple[type[Exception], ...] = (
    Image.DecompressionBombError, OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError,
    MemoryError, struct.error, zlib.error,
)  # fmt: skip


def decode(data: bytes, where: str, size: int | None) -> NDArray[np.uint8]:
    """One image file -> uint8 [H,W] (greyscale) or [H,W,3]; turned as its EXIF orientation says, alpha left out.

    16-bit greyscale is brought to 8 bits. With `size` the image is resized to size x size (bilinear, anti-aliased).

    Raises:
        DataError: unreadable or truncated image, too small, too large, or of a mode without a meaning as pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise DataError(f"{where}: {width}x{height} pixels; the most is {MAX_PIXELS >> 20} million. Remove it.")
            if size is None:
                check_side(height, width, where)
            else:
                image.draft(None, (2 * size, 2 * size))  # JPEG: decode at a fraction of a large size
            ImageOps.exif_transpose(image, in_place=True)
            return _pixels(image, where, size)
    except _DAMAGE as error:
        reason = str(error) if not isinstance(error, Image.UnidentifiedImageError) else "not an image of a known format"
        raise DataError(f"{where}: unreadable image ({reason or type(error).__name__}). Replace or remove the file.") from None


def _pixels(image: Image.Image, where: str, size: int | None) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise DataError(f"{where}: pixels of 32 bits (mode {image.mode}) have no fixed range. Save the image with 8 or 16 bits.")
    elif image.mode in ("1", "L", "LA", "La"):
        image = image.convert("L")
    else:
        image = image.convert("RGB")
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8)


def decode_all(
    name: str, kind: str, where: str, found: Listing, contents: Iterator[tuple[Entry, bytes]], size: int | None
) -> Source:
    """Decode the contents of the listed files, in any order, into one array [N,C,H,W] and cut it into splits.

    Raises:
        DataError: from `decode`; mixed sizes (names two files); more data than fits in memory.
    """
    position = {entry.path: i for i, entry in enumerate(found.entries)}
    images: list[NDArray[np.uint8] | None] = [None] * len(position)
    first: Entry | None = None
    height = width = 0
    channels = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow only warns of is either harmless or checked here
        for entry, image in _decoded(where, contents, size):
            if first is None:
                first, (height, width) = entry, image.shape[:2]
                check_bytes(len(images), image.shape, 1, where)
            elif image.shape[:2] != (height, width):
                raise DataError(
                    f"{where}: images of different sizes, {first.path} is {width}x{height} and {entry.path} "
                    f"{image.shape[1]}x{image.shape[0]} pixels. Ask for one size, for example size={_common(height, width)}."
                )
            if image.ndim == 3 and channels == 1:
                channels = 3
                check_bytes(len(images), image.shape, 1, where)
            images[position[entry.path]] = image
    x = np.empty((len(images), channels, height, width), dtype=np.uint8)
    grey = 0
    for i, array in enumerate(images):
        if array is None:
            raise DataError(f"{where}: {found.entries[i].path} vanished while the data was read. Try again.")
        grey += array.ndim == 2
        x[i] = array if array.ndim == 2 else np.moveaxis(array, 2, 0)
        images[i] = None
    pixels, parts = torch.from_numpy(x), {}
    for split in ("train", "validation", "test"):
        index = found.positions(split)
        if len(index):  # entries are sorted by split: a slice is a view, not a copy
            cut = slice(int(index[0]), int(index[-1]) + 1)
            parts[split] = Part(f"{where}, {split}", pixels[cut], found.y[cut], found.ids[cut])
    notes = [found.cut] if found.cut else []
    if channels == 3 and grey:
        notes.append(f"{grey} greyscale images were given three equal channels.")
    if size is not None:
        notes.append(f"Images resized to {size}x{size}.")
    return Source(
        name, kind, found.classes, 1 / 255, parts["train"], parts["test"], parts.get("validation"),
        augment=("shift", "flip") if channels == 3 else ("shift",), notes=tuple(notes),
    )  # fmt: skip


def _common(height: int, width: int) -> int:
    """A usual size near that of an image: a power of two from 8 to 256."""
    return min((8, 16, 32, 64, 128, 256), key=lambda s: abs(s - min(height, width)))


def _chunks(contents: Iterator[tuple[Entry, bytes]], count: int, size: int) -> Iterator[list[tuple[Entry, bytes]]]:
    """Files in groups of at most `count`, closed as soon as they hold `size` bytes."""
    chunk: list[tuple[Entry, bytes]] = []
    held = 0
    for item in contents:
        chunk.append(item)
        held += len(item[1])
        if len(chunk) == count or held >= size:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def _decoded(where: str, contents: Iterator[tuple[Entry, bytes]], size: int | None) -> Iterator[tuple[Entry, NDArray[np.uint8]]]:
    """Decode in threads (Pillow releases the interpreter while it decodes) with a bounded number of files in memory."""
    workers = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)

    def decoded(chunk: list[tuple[Entry, bytes]]) -> list[tuple[Entry, NDArray[np.uint8]]]:
        return [(entry, decode(data, str(PurePosixPath(where) / entry.path), size)) for entry, data in chunk]

    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[list[tuple[Entry, NDArray[np.uint8]]]]] = deque()
        for chunk in _chunks(contents, 64, 4 << 20):
            waiting.append(pool.submit(decoded, chunk))
            if len(waiting) > 2 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
