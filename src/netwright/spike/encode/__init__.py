"""Input codings: how a real-valued input reaches a spiking network."""

from netwright.core.catalogue import catalogue
from netwright.spike.encode.direct import Direct as Direct
from netwright.spike.encode.encoder import Encoder as Encoder

CATALOGUE = catalogue(globals(), Encoder, "input coding")
