"""Quantisers: integer networks of 8 bits and of 2 to 7, uniform, non-uniform and mixed, with and without training."""

from netwright.compress.compressor import Compressor
from netwright.compress.quantise.int8 import Int8 as Int8
from netwright.compress.quantise.lsq import LSQInt as LSQInt
from netwright.compress.quantise.nupes import NUPES as NUPES
from netwright.compress.quantise.policy import MixedPrecision as MixedPrecision
from netwright.compress.quantise.storage import stored_bits as stored_bits
from netwright.compress.quantise.uniform import Uniform as Uniform
from netwright.core.catalogue import catalogue

CATALOGUE = catalogue(globals(), Compressor, "quantiser")
