"""python -m netwright."""

from netwright.cli import entry

entry()
