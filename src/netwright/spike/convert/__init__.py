"""Conversion of trained float networks to spiking ones, one method a file."""

from netwright.core.catalogue import catalogue
from netwright.spike.convert.converter import Converter as Converter
from netwright.spike.convert.converter import Spiking as Spiking
from netwright.spike.convert.ltb import LocalThresholdBalancing as LocalThresholdBalancing
from netwright.spike.convert.read import unsupported as unsupported

CATALOGUE = catalogue(globals(), Converter, "conversion")
