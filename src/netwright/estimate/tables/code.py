"""Code: an architecture written as tokens, read as columns that predictors learn from.

    places   a text falls at blanks and , ; | + ~ ( ) [ ] - into tokens 0, 1, 2, ...; a JSON or Python list or object into its
             leaves, named by their paths; a text of digits or letters only, of one length in all rows, into its characters;
             several columns stand side by side. Architectures need not have the same places.
    code     a column for each place whose tokens are numbers; 0 where an architecture has no such place
    choice   a column for each token of each place that holds other tokens, or few different numbers
    counts   over all places that differ only by digits in their name, and over the first, second, ... parts of short inner
             lists: how many there are, how often each token occurs, the sum of the numbers, and by letter the sum of numbers
             that follow one (``k5_e6``: k 5, e 6)
    words    how often each token occurs, and each pair of neighbours

What all architectures share, and tokens that nearly none has, are left out.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netwright.core.errors import DataError
from netwright.estimate.tables.features import RARE, Array, Features

PARTS = 4  # of an inner list, a pair (operation, input) for example, that are also counted by themselves
FEW = 8  # different numbers at one place that also count as a choice
MOST = 500  # columns of a block of choices, counts or words
_APART = r"\s,;|+~()\[\]{}"
_TOKEN = re.compile(rf"(?<![^{_APART}])-\d+(?:\.\d+)?(?![^{_APART}-])|[^{_APART}-]+")
_INNER = re.compile(r"(.*\d)\.(\d+)")  # a place in a list of lists
_LETTERS = re.compile(r"([A-Za-z]+)(\d+(?:\.\d+)?)")


def literal(text: str) -> Any:
    """The list, tuple or object that a text writes in JSON or Python, None where it is neither."""
    if text[:1] not in "[({":
        return None
    try:
        return json.loads(text)
    except ValueError:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _leaves(inner, (*path, str(i)))
    else:
        found = _TOKEN.findall(value) if isinstance(value, str) else [str(value)]
        yield from ((".".join((*path, str(i)) if len(found) > 1 else path), token) for i, token in enumerate(found))


def _places(texts: Sequence[str]) -> list[dict[str, str]]:
    """Place -> token of each text of one column."""
    if len({len(t) for t in texts}) == 1 and len(texts[0]) > 2 and all(t.isalnum() for t in texts):
        used = set("".join(texts))
        if len(used) <= 10 and (not all(c.isdigit() for c in used) or any(t[0] == "0" for t in texts)):
            return [{str(i): c for i, c in enumerate(t)} for t in texts]
    read = [literal(t) for t in texts]
    return [
        dict(_leaves(value)) if isinstance(value, list | tuple | Mapping)
        else {str(i): token for i, token in enumerate(_TOKEN.findall(text))}
        for text, value in zip(texts, read, strict=True)
    ]  # fmt: skip


def _number(token: str) -> float:
    try:
        return float(token)
    except ValueError:
        return float("nan")


def _kept(columns: Mapping[str, Array], least: int) -> dict[str, Array]:
    """Columns that vary in `least` rows or more from the commonest value, at most `MOST` of them, those that vary most."""
    varied = {}
    for name, values in columns.items():
        _, counts = np.unique(values, return_counts=True)
        if len(values) - counts.max() >= least:
            varied[name] = 1 - counts.max() / len(values)
    top = sorted(varied, key=lambda name: -varied[name])[:MOST]
    return {name: columns[name] for name in columns if name in set(top)}


def codes(rows: Sequence[Mapping[str, str]]) -> Features:
    """Blocks ``code``, ``choice``, ``counts`` and ``words``, those that are not empty, of architectures [N].

    Args:
        rows: column -> text of each architecture.

    Raises:
        DataError: nothing in the texts says how two architectures resemble each other, names that occur once for example.
    """
    names = list(rows[0])
    read: list[dict[str, str]] = [{} for _ in rows]
    for name in names:
        found = _places([row.get(name) or "" for row in rows])
        alone = max(map(len, found)) == 1
        for row, part in zip(read, found, strict=True):
            row |= {place if len(names) == 1 else name if alone else f"{name}.{place}": token for place, token in part.items()}
    places = list(dict.fromkeys(place for row in read for place in row))
    tokens: dict[str, int] = {}
    ids = np.full((len(read), len(places)), -1, dtype=np.int64)
    column = {place: j for j, place in enumerate(places)}
    for i, row in enumerate(read):
        for place, token in row.items():
            ids[i, column[place]] = tokens.setdefault(token, len(tokens))
    values, vocabulary = np.array([_number(t) for t in tokens]), list(tokens)
    least = max(2, round(RARE * len(rows))) if len(rows) > 20 else 1

    code: dict[str, Array] = {}
    choice: dict[str, Array] = {}
    for j, place in enumerate(places):
        there, often = np.unique(ids[ids[:, j] >= 0, j], return_counts=True)
        numeric = bool(np.isfinite(values[there]).all())
        if numeric:
            code[place] = np.where(ids[:, j] >= 0, values[ids[:, j]], 0.0)
        if not numeric or 2 < len(there) <= FEW:
            common = there[np.argsort(-often)[:MOST]]
            choice |= {f"{place}={vocabulary[v]}": (ids[:, j] == v) * 1.0 for v in sorted(common, key=lambda v: vocabulary[v])}
    groups: dict[str, list[int]] = {}
    for j, place in enumerate(places):
        groups.setdefault(re.sub(r"\d+", "", place).strip("._ "), []).append(j)
    inner: dict[str, list[int]] = {}
    for j, place in enumerate(places):
        if ends := _INNER.fullmatch(place):
            inner.setdefault(f"{re.sub(r'[0-9.]+$', '', ends[1])} [{ends[2]}]".strip(), []).append(j)
    if len(inner) <= PARTS:
        groups |= inner
    counts: dict[str, Array] = {}
    words: dict[str, Array] = {}
    for name, group in groups.items():
        if len(group) > 1:
            counts |= _counts(name, ids[:, group], values, vocabulary)
            words |= _pairs(name, ids[:, group], vocabulary)
    blocks = {"code": code, "choice": choice, "counts": counts, "words": words}
    kept = {name: columns for name, block in blocks.items() if (columns := _kept(block, least))}
    if not set(kept) - {"words"}:
        texts = ", ".join(repr(row[names[0]][:40]) for row in rows[:2])
        raise DataError(
            f"the {len(rows)} architectures, {texts}, ..., have no token in common that tells them apart. Give graphs or codes "
            "of their parts, or further columns of numbers."
        )
    return Features({k: np.stack(list(v.values()), 1) for k, v in kept.items()}, {k: tuple(v) for k, v in kept.items()})


def _common(ids: NDArray[np.int64]) -> list[int]:
    """The `MOST` commonest ids, the commonest first."""
    there, often = np.unique(ids[ids >= 0], return_counts=True)
    return [int(v) for v in there[np.argsort(-often, kind="stable")[:MOST]]]


def _counts(name: str, ids: NDArray[np.int64], values: Array, vocabulary: Sequence[str]) -> dict[str, Array]:
    common = _common(ids)
    out = {f"{name} length": (ids >= 0).sum(1) * 1.0}
    if len(common) <= MOST // 2:
        out |= {f"{name} {vocabulary[v]}": (ids == v).sum(1) * 1.0 for v in common}
    out[f"{name} sum"] = np.where(ids >= 0, np.nan_to_num(values)[ids], 0).sum(1)
    letters: dict[str, Array] = {}
    for v, token in enumerate(vocabulary):
        for letter, number in _LETTERS.findall(token):
            letters.setdefault(letter, np.zeros(len(vocabulary)))[v] += float(number)
    out |= {
        f"{name} {letter}+": np.where(ids >= 0, weights[ids], 0).sum(1)
        for letter, weights in letters.items()
        if len(letters) < 32
    }
    return out


def _pairs(name: str, ids: NDArray[np.int64], vocabulary: Sequence[str]) -> dict[str, Array]:
    """Counts of tokens and of pairs of neighbours; places that an architecture lacks are passed over."""
    rows = [[int(v) for v in row if v >= 0] for row in ids]
    found = [Counter([*((v,) for v in row), *pairwise(row)]) for row in rows]
    spread: Counter[tuple[int, ...]] = Counter(word for row in found for word in row)
    at = {word: j for j, (word, _) in enumerate(spread.most_common(MOST))}
    out = np.zeros((len(rows), len(at)))
    for i, row in enumerate(found):
        for word, often in row.items():
            if word in at:
                out[i, at[word]] = often
    return {f"{name} {' '.join(vocabulary[v] for v in word)}": out[:, j] for word, j in at.items()}
