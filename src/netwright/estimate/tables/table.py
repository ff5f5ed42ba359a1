"""Table: architectures and what was measured of them, from any CSV with an architecture column or from JSON graphs.

Architectures are read as cells where they are graphs (`Cell`), else as codes (`codes`): tokens, numbers, lists or objects, of
equal length or not, in one column or in several. Further columns, proxies or a training recipe for example, are taken as normal
scores of their ranks over the whole table, which asks for no labels, and words as one column each.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from netwright.core.errors import DataError
from netwright.estimate.tables.cell import Cell
from netwright.estimate.tables.code import codes, literal
from netwright.estimate.tables.features import Array, Features, describe

WORDS = 64  # different texts that a further column may hold
_EDGE = re.compile(r"e(\d)_?(\d)")
_NODES = ("operations", "ops", "nodes", "module_operations")
_LINKS = ("adjacency", "matrix", "adjacency_matrix", "module_adjacency", "edges", "links")


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


def _square(digits: str, names: Sequence[str]) -> int:
    """Nodes of a cell whose adjacency has these digits, 0 where none fits; zeros in front may be lost, as in numbers."""
    sides = (len(names), len(names) + 2)
    return next((n for n in sides if n > 1 and n * n - n < len(digits) <= n * n and set(digits) <= {"0", "1"}), 0)


def _matrix(adjacency: str, operations: str) -> tuple[list[str], Array]:
    """Operations with input and output, and the adjacency [n, n]."""
    digits, names = re.sub(r"[^01]", "", adjacency), re.findall(r"[^|,;\s\[\]()'\"]+", operations)
    side = _square(digits, names)
    if not side:
        found = f"{len(digits)} digits, {adjacency[:60]!r}, and {len(names)} operations"
        raise DataError(f"an adjacency needs as many rows and columns as there are operations; got {found}.")
    m = np.array([int(c) for c in digits.zfill(side * side)]).reshape(side, side)
    return (names if len(names) == side else ["input", *names, "output"]), m


def _graph(text: str) -> str | None:
    """A cell's text as `Cell.parse` reads it, its nodes in topological order; None where it is no graph."""
    if text.startswith("|") and "~" in text:
        return text
    found = literal(text) if text.startswith("{") else None
    if not isinstance(found, Mapping) or "edge_ops" in found:
        return None if found is None else json.dumps(found)
    nodes, links = (next((found[k] for k in keys if k in found), None) for keys in (_NODES, _LINKS))
    if not isinstance(nodes, list) or not isinstance(links, list):
        return None
    names = [
        str(next((n[k] for k in ("op", "operation", "type", "name") if k in n), n)) if isinstance(n, dict) else str(n)
        for n in nodes
    ]
    try:
        square = (
            len(links) == len(names) and all(len(row) == len(names) for row in links) and not any(k in found for k in _LINKS[4:])
        )
        pairs = [tuple(p) for p in (np.argwhere(np.array(links)).tolist() if square else links)]
        order = list(TopologicalSorter({v: {int(a) for a, b in pairs if b == v} for v in range(len(names))}).static_order())
    except (ValueError, TypeError, CycleError) as error:
        raise DataError(
            f"{text[:60]!r} is not a cell ({error!r}). Give operations, and edges [from, to] without a cycle."
        ) from error
    order.sort(key=lambda v: (names[v].lower() == "output") - (names[v].lower() == "input"))
    at = {v: i for i, v in enumerate(order)}
    join = found.get("join", "concat" if "module_adjacency" in found else "sum")
    return json.dumps({"operations": [names[v] for v in order], "edges": [[at[a], at[b]] for a, b in pairs], "join": join})


def is_edge(name: str) -> bool:
    """Whether a column is named like an edge, ``e01`` or ``e0_1``."""
    found = _EDGE.fullmatch(name)
    return found is not None and found[1] < found[2]


def is_graph(row: Mapping[str, str], arch: Sequence[str]) -> bool:
    """Whether the columns `arch` of a row hold a cell: one its text, two an adjacency and the operations, more its edges."""
    if len(arch) == 1:
        return _graph(row[arch[0]].strip()) is not None
    if len(arch) == 2:
        digits, names = re.sub(r"[\s,;\[\]()]", "", row[arch[0]]), re.findall(r"[^|,;\s]+", row[arch[1]])
        return bool(_square(digits, names))
    return all(is_edge(name) for name in arch)


def _cells(arch: Sequence[str], rows: Sequence[Mapping[str, str]], operations: Sequence[str]) -> Iterator[Cell]:
    ends = [tuple(int(i) for i in found.groups()) for name in arch if (found := _EDGE.fullmatch(name))]
    for row in rows:
        if len(arch) == 2:
            names, m = _matrix(row[arch[0]], row[arch[1]])
            yield Cell.reduced(names, m, "concat")
        elif len(arch) > 2:
            chosen = [operations[int(float(row[c]))] if operations else row[c] for c in arch]
            yield Cell.from_edges({(a, b): operation for (a, b), operation in zip(ends, chosen, strict=True)})
        else:
            text = row[arch[0]].strip()
            yield Cell.parse(_graph(text) or text)


def _objects(found: Any) -> list[Mapping[str, Any]]:
    """Rows of a JSON list of objects, of an object of objects, or of an object of lists (columns)."""
    if isinstance(found, Mapping) and found and all(isinstance(v, list) for v in found.values()):
        return [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]
    if isinstance(found, Mapping) and all(isinstance(v, Mapping) for v in found.values()):
        return [{"key": k, **v} for k, v in found.items()]
    if not isinstance(found, list) or not all(isinstance(row, Mapping) for row in found):
        raise ValueError("neither a list of objects, nor an object of objects or of lists")
    return found


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file (commas, semicolons or tabs) or of JSON (a list of objects, an object of objects or of lists, or one
    object a line in a .jsonl file), plain or gzipped; numbers and graphs as their text, what is missing as an empty text.

    Raises:
        DataError: not there, not readable, or empty.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no table {path}. Give a .csv, .json or .jsonl file, gzipped or not.")
    rows: Sequence[Mapping[Any, Any]]
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig") if path.suffix == ".gz" else path.open(encoding="utf-8-sig") as stream:
            if ".jsonl" in path.suffixes:
                rows = _objects([json.loads(line) for line in stream if line.strip()])
            elif ".json" in path.suffixes:
                rows = _objects(json.load(stream))
            else:
                header = stream.readline()
                between = max(",;\t", key=header.count)
                names = [name.strip() for name in next(csv.reader([header], delimiter=between), [])]
                rows = list(csv.DictReader(stream, names, restkey="", restval="", delimiter=between))
    except (OSError, ValueError, EOFError, csv.Error) as error:
        raise DataError(f"{path} is not a table in CSV or JSON: {error}.") from error
    if not rows:
        raise DataError(f"{path} has no rows.")
    columns = [name for name in dict.fromkeys(name for row in rows for name in row) if name]
    if not columns:
        raise DataError(f"{path} has no named columns.")

    def text(value: Any) -> str:
        return value if isinstance(value, str) else "" if value is None else json.dumps(value)

    return [{name: text(row.get(name)) for name in columns} for row in rows]


def _float(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def column(rows: Sequence[Mapping[str, str]], name: str) -> Array:
    """A column of numbers [N]; what is empty or no number is nan.

    Raises:
        DataError: no such column, or no number in it.
    """
    if name not in rows[0]:
        raise DataError(f"there is no column {name!r}. Columns: {', '.join(rows[0])}.")

    found = np.array([_float(row[name]) for row in rows])
    if not np.isfinite(found).any():
        raise DataError(f"the column {name!r} holds no number; it begins with {rows[0][name]!r}.")
    return found


def scores(values: Array) -> Array:
    """Normal scores of ranks over all rows [N]; what is missing stands in the middle."""
    out = np.zeros(len(values))
    there = np.isfinite(values)
    out[there] = norm.ppf((rankdata(values[there]) - 0.5) / there.sum())
    return out


def further(rows: Sequence[Mapping[str, str]], name: str) -> dict[str, Array]:
    """Normal scores [N] of a column of numbers; of a column of words, one column a word that says where it stands.

    Raises:
        DataError: no such column, or more words than a further column may hold.
    """
    values = sorted({row.get(name, "") for row in rows})
    if any(np.isfinite(_float(v)) for v in values) or name not in rows[0]:
        return {name: scores(column(rows, name))}
    if len(values) > WORDS:
        raise DataError(
            f"the further column {name!r} holds {len(values)} different texts. Give numbers, or at most {WORDS} words."
        )
    return {f"{name}={v}": np.array([float(row[name] == v) for row in rows]) for v in values}


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
        label: column of what is to be predicted, more is better; rows without a number or without an architecture are dropped.
        arch: one column with a cell or a code; two, an adjacency matrix and the operations of a cell with concatenated output
            (NAS-Bench-101); one for each edge, named ``e01``, ``e02``, ...; or any columns that are a code together.
        numbers: columns for the block ``numbers``, of numbers (empty fields count as the median) or of a few words.
        operations: names of the operations, where the columns of edges hold their numbers.
        kinds: operations with columns of their own (see `describe`).

    Raises:
        DataError: a column is missing, holds no number, or an architecture cannot be read.
    """
    for name in arch:
        if name not in rows[0]:
            raise DataError(f"there is no column {name!r} with architectures. Columns: {', '.join(rows[0])}.")
    y = column(rows, label)
    kept = np.isfinite(y) & np.array([any(row[name].strip() for name in arch) for row in rows])
    rows, y = [r for r, there in zip(rows, kept, strict=True) if there], y[kept]
    if not rows:
        raise DataError(f"no row has both a number in {label!r} and an architecture in {', '.join(arch)}.")
    more = {k: v for name in numbers for k, v in further(rows, name).items()}
    block = Features({"numbers": np.stack(list(more.values()), 1)}, {"numbers": tuple(more)}) if more else None
    keys: list[Any]
    if is_graph(rows[0], arch):
        cells = tuple(_cells(arch, rows, operations))
        known = {c: c.key for c in dict.fromkeys(cells)}
        keys, found = [known[c] for c in cells], describe(cells, kinds=kinds)
        features = found if block is None else found | block
    else:
        keys = ["\n".join(row[name].strip() for name in arch) for row in rows]
        try:
            found = codes([{name: row[name] for name in arch} for row in rows])
            features = found if block is None else found | block
        except DataError:
            if block is None:
                raise
            features = block
    columns = {name: column(rows, name) for name in numbers if name in more}
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
