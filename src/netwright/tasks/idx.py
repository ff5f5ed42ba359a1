"""Read MNIST-style idx files: a big-endian header (magic number, sizes) followed by the values.

Magic number: 0, 0, type, rank. Types: 8 uint8, 9 int8, 11 int16, 12 int32, 13 float32, 14 float64.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from netwright.core.errors import DataError
from netwright.tasks.arrays import array_source, image_tensors
from netwright.tasks.labels import encode
from netwright.tasks.source import MAX_BYTES, Source

_NAME = re.compile(r"(?:.*-)?(train|t10k|test|val|validation)-(images|labels)[.-]idx\d-\w+?(\.gz)?", re.IGNORECASE)
_SPLIT = {"train": "train", "t10k": "test", "test": "test", "val": "validation", "validation": "validation"}
_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def idx_files(folder: Path) -> dict[tuple[str, str], Path]:
    """(split, "images" or "labels") -> file, for the idx files of a folder; a plain file is preferred to its .gz twin."""
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.name)
        if not match or not path.is_file():
            continue
        key = _SPLIT[match[1].lower()], match[2].lower()
        if key in found and path.name != f"{found[key].name}.gz":
            both = f"{found[key].name} and {path.name}"
            raise DataError(f"{folder} holds {both}, both {key[0]} {key[1]}. Keep one data set a folder.")
        found.setdefault(key, path)
    return found


def read_idx_file(path: Path, ranks: tuple[int, ...]) -> NDArray[Any]:
    """The array in one idx file, gzip-compressed or not.

    Raises:
        DataError: wrong magic number, a rank not in `ranks`, truncated or overlong file, damaged compression.
    """
    try:
        with open(path, "rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
        with cast(BinaryIO, gzip.open(path, "rb")) if packed else open(path, "rb") as stream:
            return _parse(stream, path, ranks)
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path} cannot be read ({error}). The file is damaged or truncated; fetch it again.") from None


def _parse(stream: BinaryIO, path: Path, ranks: tuple[int, ...]) -> NDArray[Any]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES:
        raise DataError(f"{path} is no idx file: it starts with {magic.hex(' ') or 'nothing'}, expected 00 00 08 0{ranks[0]}.")
    rank = magic[3]
    if rank not in ranks:
        raise DataError(
            f"{path} holds an array of rank {rank}, expected {' or '.join(map(str, ranks))}. "
            "Images have rank 3 or 4, labels rank 1; have two files been swapped?"
        )
    header = stream.read(4 * rank)
    if len(header) < 4 * rank:
        raise DataError(f"{path} is truncated inside its header. Fetch it again.")
    shape = struct.unpack(f">{rank}I", header)
    dtype = np.dtype(_TYPES[magic[2]])
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_BYTES:
        raise DataError(f"{path} announces {size / 2**30:.1f} GiB; the most is {MAX_BYTES >> 30} GiB. Is its header damaged?")
    body = stream.read(size + 1)
    if len(body) != size:
        found = "more" if len(body) > size else f"{len(body)}"
        raise DataError(f"{path} announces {'x'.join(map(str, shape))} values, {size} bytes, but holds {found}. Fetch it again.")
    return np.frombuffer(body, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def read_idx(folder: Path, *, size: int | None = None) -> Source:
    """The data set in a folder of idx files (train-images-idx3-ubyte[.gz], train-labels-idx1-ubyte[.gz], t10k-...).

    Raises:
        DataError: naming the file and the cure.
    """
    files = idx_files(folder)
    splits = [s for s in ("train", "validation", "test") if (s, "images") in files or (s, "labels") in files]
    for split in ("train", "test"):
        if split not in splits:
            prefix = {"train": "train", "test": "t10k"}[split]
            files_needed = f"{prefix}-images-idx3-ubyte[.gz] and {prefix}-labels-idx1-ubyte[.gz]"
            raise DataError(f"{folder} has no {split} split: add {files_needed}.")
    for split in splits:
        for what in ("images", "labels"):
            if (split, what) not in files:
                other = files[split, "labels" if what == "images" else "images"].name
                raise DataError(f"{folder}: {other} is there, but the {split} {what} are missing. Add the file.")
    images = {split: read_idx_file(files[split, "images"], (3, 4)) for split in splits}
    labels = {split: read_idx_file(files[split, "labels"], (1,)) for split in splits}
    for split in splits:
        if len(images[split]) != len(labels[split]):
            raise DataError(
                f"{files[split, 'images']} holds {len(images[split])} images, {files[split, 'labels'].name} "
                f"{len(labels[split])} labels; one label for each image is needed. Fetch both again."
            )
    where = {split: str(files[split, "images"]) for split in splits}
    tensors = image_tensors(images, where)
    codes, classes = encode(labels, {split: str(files[split, "labels"]) for split in splits})
    return array_source(folder.resolve().name, f"idx files in {folder.resolve().name}", tensors, codes, classes, where, size)
