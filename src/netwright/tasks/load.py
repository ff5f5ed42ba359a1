"""load_task: a name or a path -> Task. Formats are found by looking, not asked for."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor

from netwright.core.errors import DataError
from netwright.tasks.archive import read_archive
from netwright.tasks.digits import read_digits
from netwright.tasks.event_camera import read_digits_events
from netwright.tasks.events import holds_events, read_event_folder
from netwright.tasks.folder import read_folder
from netwright.tasks.idx import idx_files, read_idx
from netwright.tasks.npz import read_npz
from netwright.tasks.source import MAX_SIDE, MIN_SIDE, Part, Source, check_source, limited
from netwright.tasks.split import Draw, stratified
from netwright.tasks.task import Normalisation, Split, Task

Progress = Callable[[int, int, str], None]

FORMATS = (
    "'digits' (built in); a folder or a .tar, .tar.gz, .tgz of images train/<class>/* and test/<class>/*; "
    "such a folder of event files (.bin, .aedat, .npy, .npz), or 'digits-events' (built in, simulated); "
    "a folder of MNIST-style idx files; an .npz with x_train, y_train, x_test, y_test"
)


def expand(data: str | Path) -> Path:
    """`~` and `$NAME` or `${NAME}` in a path replaced. Raises DataError when a variable is not set."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not os.environ.get(name):
            raise DataError(f"The path {str(data)!r} uses ${name}, which is not set. Set it: export {name}=/path/to/data")
        return os.environ[name]

    if Path(data).exists():
        return Path(data)
    return Path(re.sub(r"\$(?:(\w+)|\{(\w+)\})", value, str(data))).expanduser()


def _read(data: str | Path, seed: int, limit: int | None, size: int | None, progress: Progress | None) -> Source:
    if data == "digits":
        return read_digits(seed=seed, size=size)
    if data == "digits-events":
        return read_digits_events(seed=seed, size=size)
    if not str(data).strip():
        raise DataError(f"No data given. Accepted: {FORMATS}.")
    path = expand(data)
    if not path.exists():
        near = get_close_matches(str(data), ["digits", "digits-events"], n=1, cutoff=0.6)
        raise DataError(f"There is no data at {path}. {f'Did you mean {near[0]}? ' if near else ''}Accepted: {FORMATS}.")
    if path.is_dir():
        if idx_files(path):
            return read_idx(path, size=size)
        if holds_events(path):
            return read_event_folder(path, seed=seed, limit=limit, size=size, progress=progress)
        return read_folder(path, seed=seed, limit=limit, size=size, progress=progress)
    name = path.name.lower()
    if not path.is_file():
        raise DataError(f"{path} is neither a file nor a folder. Accepted: {FORMATS}.")
    if name.endswith((".tar", ".tar.gz", ".tgz")):
        return read_archive(path, seed=seed, limit=limit, size=size, progress=progress)
    if name.endswith(".npz"):
        return read_npz(path, size=size)
    if "-idx" in name or ".idx" in name:
        raise DataError(f"{path} is one idx file of several: give the folder that holds them, {path.parent}.")
    raise DataError(f"{path}: files ending in {path.suffix or 'nothing'!r} are not read. Accepted: {FORMATS}.")


def load_task(
    data: str | Path,
    *,
    seed: int = 0,
    limit: int | None = None,
    size: int | None = None,
    validation: float | None = None,
    label_smoothing: float = 0.0,
    progress: Progress | None = None,
) -> Task:
    """Load a data set, check it, and cut a validation split from its training examples.

    Args:
        data: ``digits``, ``digits-events``, or a path; ``~`` and ``$NAME`` are expanded.
        seed: of every random choice (which examples go to validation; for digits also which to test).
        limit: use at most this many of the source's training examples, stratified; validation is cut from them.
        size: bring every image to size x size pixels (bilinear); only on request.
        validation: share of the training examples cut for validation; None: 0.25 for digits (60/20/20), else 0.1.
            A source with a validation split of its own keeps it.
        progress: called with (done, total, text) while images are read.

    Raises:
        DataError: data that cannot be used; the message names the file or the array and the cure.
    """
    if size is not None and not MIN_SIDE <= size <= MAX_SIDE:
        raise DataError(f"size must lie in {MIN_SIDE}..{MAX_SIDE} pixels, got {size}.")
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1, got {limit}.")
    if validation is not None and not 0 < validation <= 0.5:
        raise DataError(f"validation is the share of training examples cut for validation, in (0, 0.5]; got {validation}.")
    if seed < 0:
        raise DataError(f"A split seed must be 0 or more, got {seed}.")
    source = _read(data, seed, limit, size, progress)
    least = 1 if source.validation is not None else 2
    check_source(source, least)
    return _task(source, seed, limit, validation, label_smoothing, least)


def _task(source: Source, seed: int, limit: int | None, validation: float | None, label_smoothing: float, least: int) -> Task:
    how = [f"Source: {source.kind}.", *source.notes]
    train, held = source.train, source.validation
    if limit is not None and limit < len(train):
        index, sentence = limited(train.y, len(source.classes), limit, seed, least)
        how.append(sentence)
        train = train.take(index)
    if held is not None:
        how.append(f"Validation: the source's own, {len(held)} examples.")
    else:
        share = source.held_out if validation is None else validation
        rest, chosen = map(torch.from_numpy, stratified(train.y.numpy(), round(share * len(train)), seed, Draw.VALIDATION))
        how.append(f"Validation: {len(chosen)} of {len(train)} training examples, stratified by class, seed {seed}.")
        train, held = train.take(rest), train.take(chosen)
    how.append(source.how_test or f"Test: {len(source.test)} examples, as the source gives them.")
    absent = [c for k, c in enumerate(source.classes) if not bool((source.test.y == k).any())]
    if absent:
        how.append(f"No test example of: {', '.join(absent)}.")
    how.append(f"Mean and standard deviation from the {len(train)} training examples alone.")
    normalisation = statistics(train.x, source.scale)
    return Task(
        name=source.name,
        train=_split(train, normalisation),
        validation=_split(held, normalisation),
        test=_split(source.test, normalisation),
        classes=source.classes,
        normalisation=normalisation,
        how=" ".join(how),
        split_seed=seed,
        fingerprint=fingerprint([train, held, source.test], source.classes, source.scale),
        background=border(train.x, normalisation),
        augment=source.augment,
        label_smoothing=label_smoothing,
    )


def _split(part: Part, normalisation: Normalisation) -> Split:
    # A view would keep the memory of the whole source alive.
    x = part.x.clone() if part.x.untyped_storage().nbytes() > part.x.nbytes else part.x
    return Split(x, part.y, normalisation, part.ids)


def statistics(x: Tensor, scale: float) -> Normalisation:
    """Per-channel mean and (population) standard deviation of scale * x [N,C,H,W], summed in double precision.

    A channel without variation gets std 1, so that it becomes zero instead of infinite.
    """
    n = x.numel() // x.shape[1]
    chunks = x.split(1024)
    mean = sum((c.double().sum((0, 2, 3)) for c in chunks), torch.zeros(x.shape[1], dtype=torch.float64)) / n
    square = sum(((c.double() - mean.view(-1, 1, 1)).square().sum((0, 2, 3)) for c in chunks), torch.zeros_like(mean)) / n
    std = square.sqrt() * scale
    std = torch.where(std > 1e-12 * (mean.abs() * scale).clamp(min=1e-30), std, 1.0)
    return Normalisation(scale, tuple((mean * scale).tolist()), tuple(std.tolist()))


def border(x: Tensor, normalisation: Normalisation, most: int = 4096) -> tuple[float, ...]:
    """Per channel, the normalised median of the border pixels of at most `most` evenly spaced images of x [N,C,H,W]."""
    x = x[:: max(1, len(x) // most)]
    rim = torch.cat([x[:, :, 0], x[:, :, -1], x[:, :, 1:-1, 0], x[:, :, 1:-1, -1]], dim=2)
    median = rim.transpose(0, 1).flatten(1).float().median(dim=1).values
    return tuple(normalisation(median.view(-1, 1, 1)).flatten().tolist())


def fingerprint(parts: list[Part], classes: tuple[str, ...], scale: float) -> str:
    """sha256 over values, shapes, labels and class names of the splits, in hexadecimal."""
    digest = hashlib.sha256(repr((classes, scale)).encode())
    for part in parts:
        digest.update(repr((tuple(part.x.shape), str(part.x.dtype))).encode())
        digest.update(part.x.contiguous().numpy().data)
        digest.update(part.y.contiguous().numpy().data)
    return digest.hexdigest()
