"""Quantisers: 8-bit integer networks."""

from netwright.compress.compressor import Compressor
from netwright.compress.quantise.int8 import Int8 as Int8
from netwright.core.catalogue import catalogue

CATALOGUE = catalogue(globals(), Compressor, "quantiser")
