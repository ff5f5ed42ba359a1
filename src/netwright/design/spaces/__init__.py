"""Search spaces, one a file: design configurations with domains."""

from netwright.design.spaces.spikenas import SpikeNAS as SpikeNAS
from netwright.design.spaces.tiny import Tiny as Tiny

SPACES = {Tiny.name: Tiny, SpikeNAS.name: SpikeNAS}
