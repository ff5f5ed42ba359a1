"""Search spaces, one a file: design configurations with domains."""

from netwright.design.spaces.tiny import Tiny as Tiny

SPACES = {Tiny.name: Tiny}
