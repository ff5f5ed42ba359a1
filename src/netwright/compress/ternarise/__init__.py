"""Ternarisers: weights -1, 0, +1 in two bits."""

from netwright.compress.compressor import Compressor
from netwright.compress.ternarise.bitnet import BitNet as BitNet
from netwright.compress.ternarise.lsq import LSQ as LSQ
from netwright.compress.ternarise.tbt import TBT as TBT
from netwright.compress.ternarise.twn import TWN as TWN
from netwright.core.catalogue import catalogue

CATALOGUE = catalogue(globals(), Compressor, "ternariser")
