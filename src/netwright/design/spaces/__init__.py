"""Search spaces, one a file: design configurations with domains."""

from netwright.design.spaces.nasbench201 import NASBench201 as NASBench201
from netwright.design.spaces.options import Options as Options
from netwright.design.spaces.spikenas import SpikeNAS as SpikeNAS
from netwright.design.spaces.tiny import Tiny as Tiny

SPACES = {Tiny.name: Tiny, NASBench201.name: NASBench201, SpikeNAS.name: SpikeNAS}
