"""Read `.npz` archives: x_train, y_train, x_test, y_test; optionally x_val, y_val and classes (names by label)."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netwright.core.errors import DataError
from netwright.tasks.arrays import array_source, image_tensors
from netwright.tasks.labels import encode
from netwright.tasks.source import MAX_BYTES, Source

_REQUIRED = ("x_train", "y_train", "x_test", "y_test")
_KEYS = {"train": "train", "validation": "val", "test": "test"}


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of the archive that are asked for, none of them unpickled."""
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is not an .npz archive, or it is truncated. Write it again with numpy.savez_compressed.")
    found: dict[str, NDArray[Any]] = {}
    name = ""
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
        if total > MAX_BYTES:
            raise DataError(f"{path} unpacks to {total / 2**30:.1f} GiB; the most is {MAX_BYTES >> 30} GiB. Store fewer images.")
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files)
            missing = [n for n in _REQUIRED if n not in names]
            if missing:
                what = "has no test split: it lacks" if set(missing) <= {"x_test", "y_test"} else "lacks"
                held = ", ".join(names) or "nothing"
                raise DataError(f"{path} {what} {', '.join(missing)}; it holds {held}. Add the arrays, or rename them.")
            if ("x_val" in names) != ("y_val" in names):
                raise DataError(f"{path}: x_val and y_val go together; one of them is missing.")
            for name in (*_REQUIRED, "x_val", "y_val", "classes"):
                if name in names:
                    found[name] = np.asarray(archive[name])
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, MemoryError, RuntimeError) as error:
        where = f"{path}, array {name}" if name else str(path)
        if "allow_pickle" in str(error) or "pickled" in str(error).lower():
            raise DataError(
                f"{where} holds Python objects (a pickle), which is never loaded. Convert it first: "
                "images to uint8 or float32, labels to int64 or strings (numpy.array(labels, dtype=str))."
            ) from None
        raise DataError(f"{where} cannot be read ({error}). Damaged? Write it again with numpy.savez_compressed.") from None
    return found


def read_npz(path: Path, *, size: int | None = None) -> Source:
    """The data set in an `.npz` file; images [N,H,W], [N,H,W,C] or [N,C,H,W], labels [N] whole numbers or strings.

    Raises:
        DataError: naming the file or the array, and the cure.
    """
    found = _arrays(path)
    splits = {split: key for split, key in _KEYS.items() if f"x_{key}" in found}
    for key in splits.values():
        x, y = found[f"x_{key}"], found[f"y_{key}"]
        if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
            raise DataError(f"{path}: x_{key} has shape {x.shape}, y_{key} {y.shape}; each image needs one label. Cut or add.")
    where = {split: f"{path}, array x_{key}" for split, key in splits.items()}
    tensors = image_tensors({split: found[f"x_{key}"] for split, key in splits.items()}, where)
    labels, classes = encode(
        {split: found[f"y_{key}"] for split, key in splits.items()},
        {split: f"{path}, array y_{key}" for split, key in splits.items()},
        found.get("classes"),
    )
    return array_source(path.stem, f"arrays in {path.name}", tensors, labels, classes, where, size)
