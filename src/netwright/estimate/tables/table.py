"""Table: architectures and what was measured of them, from any CSV with an architecture column or from JSON graphs.

Architectures are read as cells where they are graphs (`Cell`), else as codes: a text such as ``k5_e6-skip-k3_e1`` falls into its
tokens, one position each, as numbers where all of them are numbers, one-hot else. Further columns, proxies for example, are taken
as normal scores of their ranks over the whole table, which asks for no labels.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from netwright.core.errors import DataError
from netwright.estimate.tables.cell import Cell
from netwright.estimate.tables.features import Array, Features, describe

_EDGE = re.compile(r"e(\d)_?(\d)")
_TOKEN = re.compile(r"[^\s,;|+~()\[\]-]+")


@dataclass(frozen=True)
class Table:
    """Architectures with labels.

    Attributes:
        features: what predictors read.
        y: label [N], more is better.
        classes: isomorphism class of each architecture, a number [N]; equal codes are one class.
        columns: the further columns as they stand in the file, by name, each [N].
    """

    features: Features
    y: Array
    classes: NDArray[np.intp]
    columns: dict[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Table:
        columns = {k: v[rows] for k, v in self.columns.items()}
        return Table(self.features[rows], self.y[rows], self.classes[rows], columns)


def codes(texts: Sequence[str]) -> Features:
    """The block ``code`` of architectures written as tokens.

    Raises:
        DataError: an empty one, or ones of different length.
    """
    rows = [_TOKEN.findall(t) for t in texts]
    if len({len(r) for r in rows}) != 1 or not rows[0]:
        raise DataError(
            f"architectures of {sorted({len(r) for r in rows})} tokens cannot stand in one table. Give graphs instead."
        )
    columns, names = [], []
    for place, tokens in enumerate(zip(*rows, strict=True)):
        try:
            columns.append(np.array([float(t) for t in tokens]))
            names.append(str(place))
        except ValueError:
            for value in sorted(set(tokens)):
                columns.append(np.array([float(t == value) for t in tokens]))
                names.append(f"{place}={value}")
    return Features({"code": np.stack(columns, 1)}, {"code": tuple(names)})


def _adjacency(text: str) -> Array:
    digits = np.array([int(c) for c in re.findall(r"[01]", text)])
    side = round(len(digits) ** 0.5)
    if side * side != len(digits):
        raise DataError(f"an adjacency of {len(digits)} digits is not square: {text[:60]!r}.")
    return digits.reshape(side, side)


def _cells(arch: Sequence[str], rows: Sequence[dict[str, str]], operations: Sequence[str]) -> Iterator[Cell]:
    edges = [(_EDGE.fullmatch(c), c) for c in arch]
    for row in rows:
        if len(arch) == 2:
            m = _adjacency(row[arch[0]])
            names = re.findall(r"[^|,\s]+", row[arch[1]])
            yield Cell.reduced(names if len(names) == len(m) else ["input", *names, "output"], m, "concat")
        elif all(found for found, _ in edges) and len(arch) > 2:
            chosen = {(int(f[1]), int(f[2])): row[c] for f, c in edges if f}
            yield Cell.from_edges({k: operations[int(v)] if operations else v for k, v in chosen.items()})
        else:
            yield Cell.parse(row[arch[0]])


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file or of a JSON list of objects, plain or gzipped; numbers and graphs as their text.

    Raises:
        DataError: not there, not readable, or empty.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no table {path}. Give a .csv or .json file, gzipped or not.")
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as stream:
            if ".json" in path.suffixes:
                rows = [{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in json.load(stream)]
            else:
                rows = list(csv.DictReader(stream))
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is not a CSV file or a JSON list of objects: {error}.") from error
    if not rows:
        raise DataError(f"{path} has no rows.")
    return rows


def column(rows: Sequence[dict[str, str]], name: str) -> Array:
    """A column of numbers [N]; what is empty or no number is nan.

    Raises:
        DataError: no such column, or no number in it.
    """
    if name not in rows[0]:
        raise DataError(f"there is no column {name!r}. Columns: {', '.join(rows[0])}.")

    def number(text: str | None) -> float:
        try:
            return float(text or "nan")
        except ValueError:
            return float("nan")

    found = np.array([number(row[name]) for row in rows])
    if not np.isfinite(found).any():
        raise DataError(f"the column {name!r} holds no number; it begins with {rows[0][name]!r}.")
    return found


def scores(values: Array) -> Array:
    """Normal scores of ranks over all rows [N]; what is missing stands in the middle."""
    out = np.zeros(len(values))
    there = np.isfinite(values)
    out[there] = norm.ppf((rankdata(values[there]) - 0.5) / there.sum())
    return out


def make_table(
    rows: Sequence[dict[str, str]],
    label: str,
    arch: Sequence[str] = ("arch",),
    *,
    numbers: Sequence[str] = (),
    operations: Sequence[str] = (),
    kinds: Sequence[str] | None = None,
) -> Table:
    """A table from rows.

    Args:
        rows: column -> text.
        label: column of what is to be predicted, more is better; rows without a number are dropped.
        arch: one column with a cell or a code; two, an adjacency matrix and the operations of a cell with concatenated output
            (NAS-Bench-101); or one for each edge, named ``e01``, ``e02``, ...
        numbers: columns for the block ``numbers``; empty fields count as the median.
        operations: names of the operations, where the columns of edges hold their numbers.
        kinds: operations with columns of their own (see `describe`).

    Raises:
        DataError: a column is missing, holds no number, or an architecture cannot be read.
    """
    for name in arch:
        if name not in rows[0]:
            raise DataError(f"there is no column {name!r} with architectures. Columns: {', '.join(rows[0])}.")
    y = column(rows, label)
    rows, y = [r for r, there in zip(rows, np.isfinite(y), strict=True) if there], y[np.isfinite(y)]
    graphs = len(arch) > 1 or rows[0][arch[0]].lstrip()[:1] in ("{", "|")
    cells = tuple(_cells(arch, rows, operations)) if graphs else ()
    known = {c: c.key for c in dict.fromkeys(cells)}
    keys = [known[c] for c in cells] if graphs else [row[arch[0]] for row in rows]
    features = describe(cells, kinds=kinds) if graphs else codes(keys)
    columns = {name: column(rows, name) for name in numbers}
    if numbers:
        features = features | Features(
            {"numbers": np.stack([scores(v) for v in columns.values()], 1)}, {"numbers": tuple(numbers)}
        )
    return Table(features, y, np.unique(keys, return_inverse=True)[1], columns)


def read_table(
    path: Path, label: str, arch: Sequence[str] = ("arch",), *, numbers: Sequence[str] = (), operations: Sequence[str] = ()
) -> Table:
    """`make_table` of the rows of a file."""
    return make_table(read_rows(path), label, arch, numbers=numbers, operations=operations)


def split(classes: NDArray[np.intp], labels: int, rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows to train and rows to test: `labels` classes, drawn at random, one row of each, and all rows of all other classes.

    No test architecture is isomorphic to one whose label was seen.

    Raises:
        DataError: not more classes than `labels`.
    """
    order = rng.permutation(len(classes))
    _, first = np.unique(classes[order], return_index=True)
    chosen = order[np.sort(first)]
    if labels >= len(chosen):
        raise DataError(
            f"{labels} labels and a test need more than {len(chosen)} classes of architectures. Ask for fewer labels."
        )
    train = chosen[:labels]
    return train, order[~np.isin(classes[order], classes[train])]
