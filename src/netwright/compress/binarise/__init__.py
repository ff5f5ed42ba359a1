"""Binarisers: weights -1, +1 in one bit, activations read by their sign."""

from netwright.compress.binarise.biper import BiPer as BiPer
from netwright.compress.compressor import Compressor
from netwright.core.catalogue import catalogue

CATALOGUE = catalogue(globals(), Compressor, "binariser")
