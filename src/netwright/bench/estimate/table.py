"""`netwright bench estimate --table FILE --columns ARCH,LABEL`: every predictor on any table, beside trivial rankings.

For each budget of labels and each seed: labels of so many classes of architectures, drawn at random, everything fitted on them,
and all other classes predicted (`split`). All methods see the same labels. Beside the predictors stand rankings that learn
nothing, or one sign, or look at the nearest architecture only:

    random      ties broken by chance
    parameters  of the reduced cell, and path products (as synflow's) where architectures are graphs
    columns     each further column by itself; it and the parameters turned around where the labels at hand go against them
    nearest     the label of the nearest labelled architecture by standardised features
"""

from __future__ import annotations

import csv
import datetime
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from netwright import __version__
from netwright.bench.estimate.accuracy import ranks
from netwright.core.errors import DataError, MissingExtra, UnknownName
from netwright.core.files import write_text
from netwright.estimate.predictors import CATALOGUE, FBNetV3, OnnxNet, Predictor
from netwright.estimate.predictors.role import FEWEST, tau
from netwright.estimate.tables import Features, Table, make_table, read_rows, split
from netwright.estimate.tables.features import Array
from netwright.estimate.tables.table import column, is_edge
from netwright.pipeline.fitting import Progress
from netwright.report.plots.axes import around, frame, svg, text

BUDGETS = (32, 128, 512)
QUICK = ("ridge", "gp", "extra-trees", "forest", "boosted", "ensemble", "auto", "fbnetv3")  # seconds a fit
ALL = "all"
MOST = 20_000  # rows that are looked at
TESTS = 10  # fewest classes that must be left to test
COLOURS = ("#2f62b5", "#c77a1d", "#218c88", "#c03a55", "#7653c4", "#6b8e23", "#8c564b", "#d06ba8", "#4aa3df", "#444444")
MEASURES = ("tau", "rho", "regret", "coverage", "width")
Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Columns:
    """Columns of architectures, of the label, and further ones."""

    arch: tuple[str, ...]
    label: str
    more: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str, rows: Sequence[Mapping[str, str]]) -> Columns:
        """Read ``ARCH,LABEL[,MORE...]``.

        ARCH may be several columns joined by ``+``, and a pattern (``e??``) stands for all columns that it fits. Columns after
        the first belong to the architecture too as long as they hold no number, or where all are edges (``e01``, ``e02``, ...).

        Raises:
            DataError: a column that is not there, or no label.
        """
        known = list(rows[0])

        def named(part: str) -> list[str]:
            if part in known:
                return [part]
            found = [name for piece in part.split("+") for name in known if fnmatchcase(name, piece.strip())]
            missing = [piece for piece in part.split("+") if not any(fnmatchcase(name, piece.strip()) for name in known)]
            if missing:
                raise DataError(f"there is no column {missing[0]!r}. Columns: {', '.join(known)}.")
            return list(dict.fromkeys(found))

        def numeric(name: str) -> bool:
            try:
                return bool(np.isfinite(column(rows, name)).any())
            except DataError:
                return False

        parts = [named(part.strip()) for part in text.split(",") if part.strip()]
        if not parts:
            raise DataError(f"no columns. Give --columns ARCH,LABEL with names among: {', '.join(known)}.")
        arch, rest = parts[0], [name for part in parts[1:] for name in part]
        while len(rest) > 1 and (not numeric(rest[0]) or (is_edge(rest[0]) and all(map(is_edge, arch)))):
            arch.append(rest.pop(0))
        if not rest or rest[0] in arch:
            raise DataError(
                f"{text!r} names no column of labels. Give --columns ARCH,LABEL with names among: {', '.join(known)}."
            )
        return cls(tuple(arch), rest[0], tuple(dict.fromkeys(n for n in rest[1:] if n not in (*arch, rest[0]))))


def only(rows: Rows, where: Sequence[str]) -> Rows:
    """Rows in which each ``COLUMN=VALUE`` holds.

    Raises:
        DataError: no such column, or no such row.
    """
    for condition in where:
        name, _, value = condition.partition("=")
        if name not in rows[0]:
            raise DataError(f"there is no column {name!r} for --where {condition}. Columns: {', '.join(rows[0])}.")
        found = sorted({row[name] for row in rows})
        rows = [row for row in rows if row[name] == value]
        if not rows:
            raise DataError(f"no row has {condition}; {name} holds {', '.join(found[:12])}{', ...' if len(found) > 12 else ''}.")
    return rows


def merged(rows: Rows, columns: Columns) -> tuple[Rows, list[str]]:
    """One row an architecture with the same further columns, its label the mean; rows without a finite label or an architecture
    are dropped. Also says what was done."""
    y = column(rows, columns.label)
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, row in enumerate(rows):
        if np.isfinite(y[i]) and any(row[name].strip() for name in columns.arch):
            groups.setdefault(tuple(row[name].strip() for name in (*columns.arch, *columns.more)), []).append(i)
    notes = []
    if dropped := len(rows) - sum(map(len, groups.values())):
        notes.append(f"{dropped} of {len(rows)} rows dropped: no finite number in {columns.label!r}, or no architecture")
    twins = [y[found] for found in groups.values() if len(found) > 1]
    if twins:
        apart = [np.ptp(labels) for labels in twins]
        differ = sum(d > 0 for d in apart)
        spread = float(np.sqrt(np.mean([labels.var(ddof=1) for labels in twins])))
        notes.append(
            f"{len(twins)} architectures stand in several rows, {differ} of them with different labels, at most {max(apart):.4g} "
            f"apart, standard deviation {spread:.4g}: averaged. To tell them apart, name a column after the label, or use --where"
        )
    out = [{**rows[found[0]], columns.label: repr(float(y[found].mean()))} for found in groups.values()]
    return out, notes


def load(path: Path, columns: str, *, where: Sequence[str] = (), operations: Sequence[str] = (), less: bool = False,
         most: int = MOST) -> tuple[Table, Columns, list[str]]:  # fmt: skip
    """The table of a file, its columns, and notes on what was left out.

    Raises:
        DataError: the file, a column or the labels cannot be used.
    """
    rows = only(read_rows(path), where)
    names = Columns.parse(columns, rows)
    rows, notes = merged(rows, names)
    if len(rows) < FEWEST + TESTS:
        raise DataError(f"{len(rows)} architectures with a label are too few for a benchmark. Give at least {FEWEST + TESTS}.")
    if len({row[names.label] for row in rows}) == 1:
        raise DataError(f"all labels in {names.label!r} are equal ({rows[0][names.label]}): there is nothing to predict.")
    if len(rows) > most:
        chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[:most])
        notes.append(f"{most} of {len(rows)} architectures are looked at, drawn at random")
        rows = [rows[i] for i in chosen]
    table = make_table(rows, names.label, names.arch, numbers=names.more, operations=operations)
    twins = len(table) - len(np.unique(table.classes))
    if twins:
        what = (
            "architectures are isomorphic to others"
            if table.features.cells
            else "rows differ from others in further columns only"
        )
        notes.append(f"{twins} {what}: kept, and never on both sides of a split")
    return (replace(table, y=-table.y) if less else table), names, notes


def rankings(table: Table, train: Any, test: Any, rng: np.random.Generator) -> dict[str, Array]:
    """Scores [tests] of the trivial rankings, more is better."""
    y, features = table.y[train], table.features
    found = {"random": rng.random(len(test))}
    plain: dict[str, Array] = {}
    if "graph" in features.blocks:
        at = features.names["graph"].index
        plain |= {"parameters": features.blocks["graph"][:, at("parameters")],
                  "path products": features.blocks["graph"][:, at("flow")]}  # fmt: skip
    if "numbers" in features.blocks:
        plain |= dict(zip(features.names["numbers"], features.blocks["numbers"].T, strict=True))
    found |= {name: (1 if tau(values[train], y) >= 0 else -1) * values[test] for name, values in plain.items()}
    numbers = features.numbers
    width = numbers[train].std(0)
    scaled = np.clip((numbers - numbers[train].mean(0)) / np.where(width > 1e-9, width, 1), -4, 4)
    a, b = scaled[test], scaled[train]
    found["nearest"] = y[(a @ (-2 * b.T) + (b * b).sum(1)).argmin(1)]
    return found


def measured(table: Table, labels: int, seed: int, predictors: Mapping[str, Predictor]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name, and tau, rho, regret, coverage, width and seconds, of each predictor and each trivial ranking on one split."""
    train, test = split(table.classes, labels, np.random.default_rng(seed))
    y = table.y[test]
    for name, scores in rankings(table, train, test, np.random.default_rng([seed, 1])).items():
        yield name, ranks(scores, y, np.random.default_rng([seed, 2]))
    for name, predictor in list(predictors.items()):
        rng, start = np.random.default_rng([seed, 3]), time.perf_counter()
        try:
            fitted = prepared(predictor, table.features, rng).fit(table.features[train], table.y[train], rng)
        except MissingExtra as error:
            yield name, {"why": str(error)}
            continue
        found, scores = fitted.predict(table.features[test]), fitted.score(table.features[test])
        seconds = time.perf_counter() - start
        covered = float(((found.low <= y) & (y <= found.high)).mean())
        width = float((found.high - found.low).mean())
        yield name, {**ranks(scores, y, rng), "coverage": covered, "width": width, "seconds": seconds, "why": fitted.why}


def prepared(predictor: Predictor, pool: Features, rng: np.random.Generator) -> Predictor:
    """A predictor that learns from unlabelled architectures has seen those of the table; every other is as it was."""
    return predictor.pretrain(pool, rng) if isinstance(predictor, FBNetV3 | OnnxNet) else predictor


@dataclass(frozen=True)
class Row:
    """One predictor at one budget: means and standard deviations over the seeds."""

    labels: int
    predictor: str
    trivial: bool
    seeds: int
    tests: int
    tau: float
    tau_sd: float
    rho: float
    rho_sd: float
    regret: float
    regret_sd: float
    coverage: float | None = None
    coverage_sd: float | None = None
    width: float | None = None
    width_sd: float | None = None
    seconds: float | None = None
    why: str = ""


@dataclass(frozen=True)
class TableBench:
    """What came out, and what was done to the table before."""

    table: str
    columns: Columns
    rows: Sequence[Row]
    facts: Mapping[str, Any]
    notes: Sequence[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        about = {"bench": "estimate", "table": self.table, "columns": asdict(self.columns), **self.facts}
        return {**about, "notes": list(self.notes), "rows": [asdict(row) for row in self.rows]}

    def write_csv(self, path: Path) -> Path:
        """One line a predictor and budget; into PATH, or into <date>-<version>-<table>.csv where PATH is a folder."""
        if path.suffix != ".csv":
            path = path / f"{datetime.date.today():%Y-%m-%d}-{__version__}-{self.table.split('.')[0]}.csv"
        stream = io.StringIO()
        facts = {"table": self.table, "label": self.columns.label, **self.facts}
        stream.write("".join(f"# {k}: {v}\n" for k, v in facts.items()) + "".join(f"# {note}\n" for note in self.notes))
        writer = csv.DictWriter(stream, list(Row.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in asdict(row).items()})
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, stream.getvalue())
        return path

    def plot(self) -> str:
        """SVG: Kendall's tau against labels, one line a predictor; the trivial rankings dashed."""
        lines: dict[str, list[Row]] = {}
        for row in self.rows:
            lines.setdefault(row.predictor, []).append(row)
        order = sorted(lines.values(), key=lambda line: -line[-1].tau)
        height = max(440.0, 50.0 + 20 * len(order))
        x = around([float(row.labels) for row in self.rows], 72, 560, log=True)
        y = around([row.tau for row in self.rows], height - 60, 24)
        label = f"Kendall's tau with {self.columns.label}, mean of {self.rows[0].seeds} seeds"
        style = "text{font:12px sans-serif}.grid{stroke:#e1e5eb}.axis{stroke:#5b6473;fill:none}"
        parts = [f'<style>{style}</style><rect width="800" height="{height:g}" fill="#fff"/>',
                 frame(x, y, "labels", label, lambda v: f"{v:g}", lambda v: f"{v:.2g}")]  # fmt: skip
        for i, line in enumerate(order):
            colour, at = COLOURS[i % len(COLOURS)], 30 + 20 * i
            dash = ' stroke-dasharray="5 4"' if line[0].trivial else ""
            path = "M" + "L".join(f"{x(row.labels):.1f} {y(row.tau):.1f}" for row in line)
            parts.append(f'<path d="{path}M576 {at}H600" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
            for row in line:
                tip = f"<title>{row.labels} labels: {row.tau:.3f} ± {row.tau_sd:.3f}</title>"
                parts.append(f'<circle cx="{x(row.labels):.1f}" cy="{y(row.tau):.1f}" r="3.5" fill="{colour}">{tip}</circle>')
            parts.append(text(608, at + 4, line[0].predictor))
        return svg(800, height, f"{label}, by number of labels", "".join(parts))


def budgets(table: Table, wanted: Sequence[int]) -> tuple[int, ...]:
    """Numbers of labels: those wanted, or of 32, 128 and 512 those that leave half of the classes to test.

    Raises:
        DataError: too many or too few.
    """
    classes = len(np.unique(table.classes))
    most = classes - TESTS
    if not wanted:
        return tuple(n for n in BUDGETS if 2 * n <= classes) or (max(FEWEST, classes // 2),)
    for n in wanted:
        if not FEWEST <= n <= most:
            raise DataError(f"{n} labels were asked for; the {classes} different architectures allow {FEWEST} to {most}.")
    return tuple(sorted(set(wanted)))


def run(
    path: Path,
    columns: str,
    *,
    labels: Sequence[int] = (),
    seeds: int = 5,
    predictors: Sequence[str] = (),
    less: bool = False,
    where: Sequence[str] = (),
    operations: Sequence[str] = (),
    most: int = MOST,
    progress: Progress | None = None,
) -> TableBench:
    """The benchmark on one table.

    Args:
        path: CSV or JSON (see `read_rows`).
        columns: ``ARCH,LABEL[,MORE...]`` (see `Columns.parse`).
        labels: budgets.
        seeds: splits of each budget.
        predictors: names, or "all" for the whole catalogue; where empty those that take seconds (`QUICK`).
        less: fewer is better; labels are turned around for the ranks and the regret.
        where: conditions ``COLUMN=VALUE`` on rows.
        operations: names of the operations where columns of edges hold numbers.
        most: rows that are looked at.

    Raises:
        DataError: the table, the columns or the budgets cannot be used.
        UnknownName: a predictor that is not in the catalogue.
    """
    wanted = tuple(CATALOGUE) if ALL in predictors else tuple(predictors or QUICK)
    for name in wanted:
        if name not in CATALOGUE:
            raise UnknownName("predictor", name, CATALOGUE)
    if seeds < 1:
        raise DataError(f"{seeds} seeds were asked for; give 1 or more.")
    table, names, notes = load(path, columns, where=where, operations=operations, less=less, most=most)
    sizes = budgets(table, labels)
    taken: dict[str, Predictor] = {name: CATALOGUE[name]() for name in wanted}
    if left := [name for name in CATALOGUE if name not in wanted and not predictors]:
        notes.append(f"not asked, since slower: {', '.join(left)}; name them, or all, with --predictors")
    rows: list[Row] = []
    total = len(sizes) * seeds
    for i, size in enumerate(sizes):
        found: dict[str, list[dict[str, Any]]] = {}
        for seed in range(seeds):
            if progress is not None:
                progress(i * seeds + seed, total, f"bench: {size} labels, seed {seed}")
            for name, values in measured(table, size, seed, taken):
                if "tau" in values:
                    found.setdefault(name, []).append(values)
                else:
                    del taken[name]
                    notes.append(f"{name} is left out: {values['why']}")
        tests = len(table) - size
        rows += [_row(size, name, name not in taken, tests, values) for name, values in found.items()]
    blocks = {name: block.shape[1] for name, block in table.features.blocks.items()}
    facts = {"architectures": len(table), "classes": len(np.unique(table.classes)), "graphs": bool(table.features.cells),
             "blocks": blocks, "less": less, "where": list(where), "seeds": seeds}  # fmt: skip
    return TableBench(path.name, names, rows, facts, notes)


def _row(labels: int, name: str, trivial: bool, tests: int, values: Sequence[Mapping[str, Any]]) -> Row:
    numbers: dict[str, float] = {}
    for measure in MEASURES:
        if measure in values[0]:
            one = [v[measure] for v in values]
            numbers |= {measure: mean(one), f"{measure}_sd": stdev(one) if len(one) > 1 else 0.0}
    if "seconds" in values[0]:
        numbers["seconds"] = mean(v["seconds"] for v in values)
    return Row(labels, name, trivial, len(values), tests, **numbers, why=values[0].get("why", ""))
