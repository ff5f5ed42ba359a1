"""Input codings: how a real-valued input reaches a spiking network."""

from netwright.core.catalogue import catalogue
from netwright.spike.encode.analog import Analog as Analog
from netwright.spike.encode.direct import Direct as Direct
from netwright.spike.encode.encoder import Encoder as Encoder
from netwright.spike.encode.latency import Latency as Latency
from netwright.spike.encode.rate import Rate as Rate

CATALOGUE = catalogue(globals(), Encoder, "input coding")
