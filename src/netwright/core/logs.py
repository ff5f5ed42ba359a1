"""Logs: what a library writes of its own is held back while we work with it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(library: str, level: int = logging.WARNING) -> Iterator[None]:
    """Lines of the logger `library` below `level` are held back for a while; its level is put back afterwards."""
    logger = logging.getLogger(library)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
