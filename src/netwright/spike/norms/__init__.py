"""Normalisation for spiking networks, one a file; all fold into the layer before them at inference."""

from netwright.core.catalogue import catalogue
from netwright.spike.norms.care import CaReBN as CaReBN
from netwright.spike.norms.care import recalibrate as recalibrate
from netwright.spike.norms.norm import Norm as Norm
from netwright.spike.norms.threshold import ThresholdBN as ThresholdBN

CATALOGUE = catalogue(globals(), Norm, "spiking norm")
