"""Ternarisers: weights -1, 0, +1 in two bits."""

from netwright.compress.compressor import Compressor
from netwright.compress.ternarise.bitnet import BitNet as BitNet
from netwright.core.catalogue import catalogue

CATALOGUE = catalogue(globals(), Compressor, "ternariser")
