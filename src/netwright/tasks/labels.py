"""Labels as found in files -> 0..K-1, with the names of the classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netwright.core.errors import DataError


def _plain(y: NDArray[Any], where: str) -> NDArray[Any]:
    """[N] or [N,1] labels -> [N] of int64 or str. Raises DataError for anything that is not a label."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise DataError(f"{where} has shape {y.shape}; one label per example is needed, [N]. One-hot? y.argmax(axis=1).")
    if len(y) == 0:
        raise DataError(f"{where}: empty; at least one example is needed.")
    kind = y.dtype.kind
    if kind == "U":
        return y
    if kind == "S":
        try:
            return np.char.decode(y, "utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{where}: a label is not UTF-8 text. Store the labels as a numpy string array.") from None
    if kind == "b":
        return y.astype(np.int64)
    if kind == "f":
        y = y.astype(np.float64)
        bad = ~np.isfinite(y) | (y != np.trunc(y))
        if bad.any():
            at = int(bad.argmax())
            raise DataError(f"{where}[{at}] = {y[at]}: labels must be whole numbers or strings. Round or name the classes.")
    elif kind not in "iu":
        raise DataError(f"{where} has dtype {y.dtype}; labels must be whole numbers or strings.")
    if (y < 0).any():
        at = int((y < 0).argmax())
        raise DataError(f"{where}[{at}] = {y[at]}: a label is negative. Remove examples without a label (often marked -1).")
    if (y > 2**31).any():
        at = int((y > 2**31).argmax())
        raise DataError(f"{where}[{at}] = {y[at]}: the label is out of range. Use the names of the classes or small numbers.")
    return y.astype(np.int64)


def encode(
    labels: Mapping[str, NDArray[Any]], where: Mapping[str, str], names: NDArray[Any] | None = None
) -> tuple[dict[str, NDArray[np.int64]], tuple[str, ...]]:
    """Labels by split -> labels in 0..K-1 by split, and the names of the classes.

    Classes are the sorted distinct labels of the train split; a numeric label is named by its digits, so labels
    1..10 become 0..9 named "1".."10". With `names` [K], labels must be 0..K-1 and index them.

    Raises:
        DataError: labels that are no labels, that are out of range, or that the train split has not.
    """
    plain = {split: _plain(y, where[split]) for split, y in labels.items()}
    kinds = {split: y.dtype.kind for split, y in plain.items()}
    if len(set(kinds.values())) > 1:
        texts = ", ".join(f"{where[s]}: {'strings' if k == 'U' else 'numbers'}" for s, k in kinds.items())
        raise DataError(f"Labels must be of one kind in all splits, found {texts}.")
    if names is not None:
        if names.ndim != 1 or names.dtype.kind != "U" or len(set(names.tolist())) != len(names):
            raise DataError("The array 'classes' must hold one distinct string per class.")
        if kinds["train"] == "U":
            known = np.sort(names)
        else:
            known = np.arange(len(names))
    else:
        known = np.unique(plain["train"])
    codes: dict[str, NDArray[np.int64]] = {}
    for split, y in plain.items():
        code = np.searchsorted(known, y).clip(max=len(known) - 1)
        unseen = known[code] != y
        if unseen.any():
            at = int(unseen.argmax())
            shown = ", ".join(map(str, known[:10].tolist())) + (", ..." if len(known) > 10 else "")
            what = f"'classes' names {len(known)}" if names is not None else f"{where['train']} has not this class"
            raise DataError(
                f"{where[split]}[{at}] = {y[at]!s} is out of range: {what} (known: {shown}). "
                "Correct the label or add training examples."
            )
        codes[split] = code.astype(np.int64)
    text = names if names is not None and kinds["train"] != "U" else known
    return codes, tuple(str(v) for v in text.tolist())
