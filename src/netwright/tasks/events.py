"""Events of a neuromorphic camera: read from files, and gathered into frames.

A recording is a structured array with the fields x, y, t, p in this order (int16, int16, int64 in microseconds, bool), as
Tonic keeps them: column, row from the top, time, and whether the pixel became brighter.

| ending | what it is |
|---|---|
| .bin | N-MNIST, N-Caltech101: 5 bytes an event: x, y, 1 bit of polarity, 23 of time; y = 240 adds 2^13 to later times |
| .aedat | AEDAT 2.0 of a DVS128, upright as jAER shows it, and AEDAT 3.1 with polarity packets (cAER, DVS128 Gesture) |
| .npy | a structured array with the fields x, y, t, p |
| .npz | such an array named `events`, or four arrays named x, y, t, p |

Orchard et al., Converting Static Image Datasets to Spiking Neuromorphic Datasets Using Saccades, Frontiers in Neuroscience 9,
2015. Formats: Orchard's event-Python, iniVation's AEDAT specifications. Nothing is unpickled.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from netwright.core.errors import DataError
from netwright.tasks.folder import walk
from netwright.tasks.listing import place
from netwright.tasks.source import MAX_BYTES, MAX_SIDE, Part, Source, check_bytes, check_classes, limited

EVENT = np.dtype([("x", np.int16), ("y", np.int16), ("t", np.int64), ("p", np.bool_)])
SENSORS = {"DVS128": (128, 128), "DAVIS240": (180, 240), "DAVIS346": (260, 346)}
SUFFIXES = (".bin", ".aedat", ".npy", ".npz")
STEPS = 10
Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Recording:
    """Events [n] of dtype `EVENT` in order of time, and the (height, width) of the sensor."""

    events: Array
    size: tuple[int, int]


def recording(x: Any, y: Any, t: Any, p: Any, size: tuple[int, int] | None, where: str) -> Recording:
    """A recording of coordinates, times and polarities (positive: brighter), sorted by time; equal times keep their order.

    Without a `size` the sensor ends at the last pixel that sent an event.

    Raises:
        DataError: no events, arrays of different lengths or that are no whole numbers, or a pixel outside the sensor.
    """
    columns = [np.asarray(values) for values in (x, y, t, p)]
    if any(c.ndim != 1 or len(c) != len(columns[0]) or c.dtype.kind not in "buif" for c in columns):
        shapes = ", ".join(f"{name} {c.dtype}{list(c.shape)}" for name, c in zip("xytp", columns, strict=True))
        raise DataError(f"{where}: x, y, t and p must be numbers, one of each an event; found {shapes}.")
    if not len(columns[0]):
        raise DataError(f"{where} holds no events. Remove it.")
    for name, column in zip("xyt", columns, strict=False):
        if column.dtype.kind == "f" and not (np.isfinite(column).all() and (column == np.rint(column)).all()):
            raise DataError(f"{where}: {name} must be whole numbers (t in microseconds). Convert the times, or round them.")
    side = (int(columns[1].max()) + 1, int(columns[0].max()) + 1) if size is None else size
    inside = min(columns[0].min(), columns[1].min()) >= 0 and columns[1].max() < side[0] and columns[0].max() < side[1]
    if not inside or max(side) > MAX_SIDE:
        raise DataError(
            f"{where}: x from {columns[0].min()} to {columns[0].max()} and y from {columns[1].min()} to {columns[1].max()}, on a "
            f"sensor of {side[1]}x{side[0]} pixels. Damaged, or of another sensor or format?"
        )
    found = np.empty(len(columns[0]), EVENT)
    for name, column in zip("xyt", columns, strict=False):
        found[name] = column
    found["p"] = columns[3] > 0
    return Recording(found[np.argsort(found["t"], kind="stable")], side)


# --- formats --------------------------------------------------------------------------------------------------------------
def _nmnist(data: bytes, where: str) -> Recording:
    if not data or len(data) % 5:
        raise DataError(f"{where}: {len(data)} bytes; N-MNIST's events are 5 bytes each. It is cut short, or of another format.")
    raw = np.frombuffer(data, np.uint8).reshape(-1, 5).astype(np.int64)
    over = raw[:, 1] == 240
    t = ((raw[:, 2] & 0x7F) << 16 | raw[:, 3] << 8 | raw[:, 4]) + np.cumsum(over) * 2**13
    x, y, t, p = (column[~over] for column in (raw[:, 0], raw[:, 1], t, raw[:, 2] >> 7))
    known = (34, 34) if len(x) and max(x.max(), y.max()) < 34 else None  # N-Caltech101 has images of many sizes
    return recording(x, y, t, p, known, where)


def _header(data: bytes) -> tuple[str, int]:
    """The lines of an AEDAT file that begin with #, and where its data begin."""
    start = 0
    while data[start : start + 1] == b"#":
        end = data.find(b"\n", start)
        if end < 0:
            return data[start:].decode("latin-1"), len(data)
        start, line = end + 1, data[start:end]
        if line.startswith(b"#!END-HEADER"):
            break
    return data[:start].decode("latin-1"), start


def _aedat(data: bytes, where: str) -> Recording:
    header, start = _header(data)
    version = re.match(r"#!AER-DAT(\d+\.\d+)", header)
    if version is None:
        raise DataError(f"{where} does not begin with #!AER-DAT: it is no AEDAT file.")
    if version[1] == "2.0":
        return _aedat2(data[start:], header, where)
    if version[1] == "3.1":
        return _aedat3(data, start, header, where)
    raise DataError(f"{where}: AEDAT {version[1]} is not read, only 2.0 and 3.1. Convert it with dv-processing, or to .npy.")


def _aedat2(data: bytes, header: str, where: str) -> Recording:
    chip = re.search(r"AEChip:\s*(\S+)", header)
    if chip is not None and "DVS128" not in chip[1].upper():
        raise DataError(f"{where}: recorded by {chip[1]}; of AEDAT 2.0, only the addresses of the DVS128 are read.")
    if not data or len(data) % 8:
        raise DataError(f"{where}: {len(data)} bytes of events; they are 8 bytes each. It is cut short.")
    address, stamp = np.frombuffer(data, ">u4").reshape(-1, 2).astype(np.int64).T
    t = stamp + np.concatenate([[0], np.cumsum(np.diff(stamp) < -(2**31))]) * 2**32
    pixel = address & 0x8000 == 0  # the others are signals from outside
    address, t = address[pixel], t[pixel]
    # jAER: the sensor counts columns from the right, rows from below, and a set bit is OFF
    return recording(127 - (address >> 1 & 0x7F), 127 - (address >> 8 & 0x7F), t, 1 - (address & 1), SENSORS["DVS128"], where)


def _aedat3(data: bytes, start: int, header: str, where: str) -> Recording:
    if (form := re.search(r"#Format:\s*(\S+)", header)) is not None and form[1] != "RAW":
        raise DataError(f"{where}: AEDAT 3.1 in the format {form[1]}; only RAW is read. Convert it with cAER, or to .npy.")
    parts = []
    while start < len(data):
        if start + 28 > len(data):
            raise DataError(f"{where} is cut short: {len(data) - start} bytes of a packet's header at byte {start}.")
        kind, _, size, _, overflow, capacity, number, _ = struct.unpack_from("<hhiiiiii", data, start)
        start += 28
        if size <= 0 or capacity < 0 or not 0 <= number <= capacity or start + size * capacity > len(data):
            raise DataError(
                f"{where} is cut short or damaged: a packet at byte {start - 28} says {capacity} events of {size} bytes, and "
                f"{len(data) - start} bytes follow."
            )
        if kind == 1:  # polarity events
            if size != 8:
                raise DataError(f"{where} is damaged: polarity events of {size} bytes at byte {start - 28}; they have 8.")
            word, stamp = np.frombuffer(data, "<u4", 2 * number, start).reshape(-1, 2).astype(np.int64).T
            valid = word & 1 == 1
            parts.append(np.stack([word >> 17, word >> 2 & 0x7FFF, stamp + (overflow << 31), word >> 1 & 1])[:, valid])
        start += size * capacity
    found = np.concatenate(parts, 1) if parts else np.zeros((4, 0), np.int64)
    source = next((side for name, side in SENSORS.items() if name in header.upper()), None)
    x, y, t, p = found
    return recording(x, y, t, p, source, where)


def _fields(values: Any, where: str) -> Recording:
    names = values.dtype.names if isinstance(values, np.ndarray) else tuple(values)
    if not {"x", "y", "t", "p"} <= set(names or ()):
        held = ", ".join(names) if names else "no named fields"
        raise DataError(f"{where}: events need the fields x, y, t and p; it has {held}. Rename them.")
    return recording(values["x"], values["y"], values["t"], values["p"], None, where)


def _numpy(path: Path) -> Recording:
    try:
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                if file.read(6) != b"\x93NUMPY":
                    raise ValueError("it does not begin as .npy files do")
            return _fields(np.load(path, allow_pickle=False), str(path))
        with zipfile.ZipFile(path) as archive:
            if (total := sum(entry.file_size for entry in archive.infolist())) > MAX_BYTES:
                raise DataError(f"{path} unpacks to {total / 2**30:.1f} GiB; the most is {MAX_BYTES >> 30} GiB.")
        with np.load(path, allow_pickle=False) as found:
            if "events" in found.files:
                return _fields(found["events"], f"{path}, array events")
            return _fields({name: found[name] for name in found.files if name in "xytp"}, str(path))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, MemoryError) as error:
        if "pickle" in str(error).lower():
            raise DataError(f"{path} holds Python objects (a pickle), which is never loaded. Save plain numbers.") from None
        raise DataError(f"{path} cannot be read as NumPy events ({error}). Damaged? Save it again with numpy.save.") from None


def read_events(path: Path | str) -> Recording:
    """The recording in a file; the ending says its format.

    Raises:
        DataError: naming the file, what is wrong with it and what to do.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    if path.suffix.lower() in (".npy", ".npz"):
        return _numpy(path)
    read = {".bin": _nmnist, ".aedat": _aedat}.get(path.suffix.lower())
    if read is None:
        raise DataError(f"{path}: event files end in {', '.join(SUFFIXES)}; this ends in {path.suffix or 'nothing'!r}.")
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path} has {path.stat().st_size / 2**30:.1f} GiB; the most is {MAX_BYTES >> 30} GiB. Cut it.")
    return read(path.read_bytes(), str(path))


# --- frames ---------------------------------------------------------------------------------------------------------------
def _counted(r: Recording, index: Array, steps: int, side: int | None) -> NDArray[np.int64]:
    (height, width), e = r.size, r.events
    x, y = e["x"].astype(np.int64), e["y"].astype(np.int64)
    if side is not None:
        x, y, height, width = x * side // width, y * side // height, side, side
    place = ((index * 2 + e["p"]) * height + y) * width + x
    return np.bincount(place, minlength=steps * 2 * height * width).reshape(steps, 2, height, width)


def frames(r: Recording, steps: int, by: Literal["time", "count"] = "time", side: int | None = None) -> NDArray[np.int64]:
    """Numbers of events [T, 2, H, W], those that became darker first: `steps` parts of equal time, or of equally many events.

    Args:
        side: bring the sensor to side x side pixels by adding up what falls together.

    Raises:
        DataError: fewer than one step.
    """
    if steps < 1:
        raise DataError(f"Events are gathered into 1 frame or more, not {steps}.")
    t = r.events["t"]
    index = (t - t[0]) * steps // (t[-1] - t[0] + 1) if by == "time" else np.arange(len(t)) * steps // len(t)
    return _counted(r, index, steps, side)


def windows(r: Recording, length: int, side: int | None = None) -> NDArray[np.int64]:
    """Numbers of events [T, 2, H, W] in windows of `length` microseconds, as many as the recording takes.

    What a network for frames is trained on before its conversion (Massa et al., IJCNN 2020).

    Raises:
        DataError: a window without length.
    """
    if length < 1:
        raise DataError(f"A window is 1 microsecond long or more, not {length}.")
    t = r.events["t"]
    index = (t - t[0]) // length
    steps = int(index[-1]) + 1
    height, width = r.size if side is None else (side, side)
    check_bytes(steps, (2, height, width), 8, f"windows of {length} microseconds")
    return _counted(r, index, steps, side)


# --- a folder of recordings -----------------------------------------------------------------------------------------------
def holds_events(root: Path) -> bool:
    """Whether the first file in root/train/<class>/ or the like is a recording."""
    names = (path.rsplit("/", 1)[-1] for path, is_folder in walk(root) if not is_folder and path.count("/") > 1)
    try:
        return next((name for name in names if not name.startswith(".")), "").lower().endswith(SUFFIXES)
    except OSError:
        return False


def read_event_folder(
    root: Path, *, seed: int, limit: int | None = None, size: int | None = None, steps: int = STEPS,
    progress: Callable[[int, int, str], None] | None = None,
) -> Source:  # fmt: skip
    """train/<class>/ and test/<class>/ of event files (N-MNIST as it is unpacked) as images of 2 * steps channels.

    Channel 2 k + p counts the events of polarity p in the k-th of `steps` equal parts of time, 255 at most.

    Raises:
        DataError: no train or test split, a file that cannot be read, too few examples.
    """
    found = []
    for path, is_folder in walk(root):
        spot = None if is_folder else place(path.split("/"))
        if spot is not None and len(spot[2]) > 1 and path.lower().endswith(SUFFIXES):
            found.append((("train", "validation", "test").index(spot[1]), spot[2][0], path))
    found.sort()
    classes = tuple(sorted({label for split, label, _ in found if split == 0}))
    for split, name in ((0, "train"), (2, "test")):
        if split not in {s for s, _, _ in found}:
            raise DataError(f"{root} has no {name} split: there is no {name}/<class>/ with event files in it. Add one.")
    for _, label, path in found:
        if label not in classes:
            raise DataError(f"{root}: {path} is of a class that train has not. Add train/{label} or correct the name.")
    y = torch.tensor([classes.index(label) for _, label, _ in found])
    splits = torch.tensor([split for split, _, _ in found])
    least, keep, notes = 1 if bool((splits == 1).any()) else 2, torch.arange(len(found)), []
    check_classes(y[splits == 0], classes, f"{root}, train", least)
    if limit is not None and limit < int((splits == 0).sum()):
        train = (splits == 0).nonzero()[:, 0]
        chosen, cut = limited(y[train], len(classes), limit, seed, least)
        keep, notes = torch.cat([train[chosen], (splits > 0).nonzero()[:, 0]]).sort().values, [cut]
    images = []
    for done, i in enumerate(keep.tolist()):
        counted = frames(read_events(root / found[i][2]), steps, side=size)
        images.append(np.minimum(counted, 255).astype(np.uint8).reshape(2 * steps, *counted.shape[2:]))
        if done == 0:
            check_bytes(len(keep), images[0].shape, 1, str(root))
        if progress and done % 64 == 0:
            progress(done, len(keep), f"reading {root.name}")
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    x = torch.zeros(len(images), 2 * steps, height, width, dtype=torch.uint8)
    for i, image in enumerate(images):
        x[i, :, : image.shape[1], : image.shape[2]] = torch.from_numpy(image)
    parts = {}
    for number, name in enumerate(("train", "validation", "test")):
        mine = splits[keep] == number
        if bool(mine.any()):
            parts[name] = Part(f"{root}, {name}", x[mine], y[keep][mine], keep[mine])
    notes.append(f"Events counted in {steps} equal parts of time, two polarities each: {2 * steps} channels.")
    return Source(root.resolve().name, f"event files in the folder {root.resolve().name}", classes, 1.0, parts["train"],
                  parts["test"], parts.get("validation"), notes=tuple(notes))  # fmt: skip
