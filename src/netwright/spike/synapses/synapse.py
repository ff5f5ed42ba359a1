"""Synapse: the role of everything in this folder."""

from __future__ import annotations

from typing import ClassVar

from netwright.core.paper import Paper


class Synapse:
    """A rule of what passes from one neuron to the next."""

    name: ClassVar[str]
    paper: ClassVar[Paper]
    also: ClassVar[tuple[Paper, ...]] = ()
