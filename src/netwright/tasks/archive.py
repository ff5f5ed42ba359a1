"""Read an archive of images (.tar, .tar.gz, .tgz) as a stream: nothing is ever extracted to disk."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from netwright.core.errors import DataError
from netwright.tasks.images import MAX_FILE, decode_all
from netwright.tasks.listing import Entry, listing
from netwright.tasks.source import Source

_BLOCK = 512


class _Watched:
    """A binary stream that knows how many bytes went through it and where the last byte other than zero stood."""

    def __init__(self, stream: BinaryIO):
        self.stream, self.total, self.last = stream, 0, 0

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        length = len(data.rstrip(b"\0"))
        if length:
            self.last = self.total + length
        self.total += len(data)
        return data

    def check_end(self, parsed: int, path: Path) -> None:
        """A tar ends in blocks of zeros. tarfile stops silently at a damaged or missing header; this does not."""
        while self.read(1 << 20):
            pass
        if self.last > parsed or self.total - parsed < _BLOCK:
            raise tarfile.ReadError(f"the archive ends or is damaged at byte {parsed}")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[tarfile.TarFile, _Watched, BinaryIO]]:
    """The archive as a stream of members; damage of any kind becomes a DataError."""
    try:
        with open(path, "rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            watched = _Watched(cast(BinaryIO, gzip.GzipFile(fileobj=plain)) if packed else plain)
            with tarfile.open(fileobj=cast(BinaryIO, watched), mode="r|", bufsize=1 << 18) as tar:
                yield tar, watched, plain
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be read ({error}). The archive is damaged or truncated; fetch it again.") from None


def _parts(name: str) -> tuple[str, ...]:
    """Components of a member's name; none for a name that is absolute or points upwards, so that it is passed over."""
    if name.startswith("/") or ".." in name.split("/"):
        return ()
    return tuple(p for p in name.split("/") if p not in ("", "."))


def _members(path: Path) -> Iterator[tuple[str, bool]]:
    """(name, is a folder) of files and folders; links, devices and pipes are passed over."""
    with _opened(path) as (tar, watched, _):
        for member in tar:
            if member.isfile() or member.isdir():
                yield member.name, member.isdir()
        watched.check_end(tar.offset, path)


def read_archive(
    path: Path,
    *,
    seed: int,
    limit: int | None = None,
    size: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Source:
    """The data set in an archive of images, in two passes: the names, then the images that are used.

    Raises:
        DataError: naming the archive or the member, and the cure.
    """
    if progress:
        progress(0, path.stat().st_size, f"listing {path.name}")
    found = listing(str(path), _members(path), _parts).limited(limit, seed)
    wanted = {entry.path: entry for entry in found.entries}
    total = path.stat().st_size

    def contents() -> Iterator[tuple[Entry, bytes]]:
        with _opened(path) as (tar, _, plain):
            for number, member in enumerate(tar):
                entry = wanted.get(member.name)
                if entry is None or not member.isfile():
                    continue
                if member.size > MAX_FILE:
                    raise DataError(f"{path}: {member.name} is larger than {MAX_FILE >> 20} MiB. Remove it.")
                stream = tar.extractfile(member)
                data = stream.read() if stream is not None else b""
                if progress and number % 256 == 0:
                    progress(plain.tell(), total, f"reading {path.name}")
                yield entry, data
        if progress:
            progress(total, total, f"reading {path.name}")

    name = path.name.lower()
    for suffix in (".tar.gz", ".tgz", ".tar"):
        name = name.removesuffix(suffix)
    return decode_all(name, f"images in the archive {path.name}", str(path), found, contents(), size)
