"""Errors that say what was asked, what was found and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class NetwrightError(Exception):
    """Base of every error raised on purpose; the CLI prints it as one line, without a traceback."""


class UnknownName(NetwrightError):
    """A name that is not in a catalogue; carries the nearest names."""

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        known = sorted(known)
        near = get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(repr(n) for n in near)}?" if near else f"Known: {', '.join(known)}."
        super().__init__(f"There is no {kind} named {name!r}. {hint}")
        self.name, self.near = name, near


class DataError(NetwrightError):
    """A data set that cannot be used; names the file or the array and what to change."""


class RecipeError(NetwrightError):
    """A recipe that cannot be used; names the key."""


class TraceError(NetwrightError):
    """A module that could not be turned into a Graph."""


class Unsupported(NetwrightError):
    """An operation that a form or a back end cannot take; names the node and the module it comes from."""

    def __init__(self, who: str, op: str, where: str, way_out: str):
        super().__init__(f"{who} cannot take the operation {op!r} (at {where or 'the top level'}). {way_out}")
        self.op, self.where = op, where


class TrainingDiverged(NetwrightError):
    """The loss became NaN or infinite; says at which step and where the last good state lies."""


class CompilerError(NetwrightError):
    """No C compiler, or the compiler refused; says what was tried."""


class BundleError(NetwrightError):
    """A bundle that is missing, damaged or of another version."""


class MissingExtra(NetwrightError):
    """An optional dependency that is not installed."""

    def __init__(self, what: str, extra: str):
        super().__init__(f"{what} needs an optional dependency. Install it with: pip install 'netwright[{extra}]'")
