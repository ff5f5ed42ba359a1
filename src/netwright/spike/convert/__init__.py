"""Conversion of trained float networks to spiking ones, one method a file."""

from netwright.core.catalogue import catalogue
from netwright.spike.convert.approximate import Approximation as Approximation
from netwright.spike.convert.approximate import Replacement as Replacement
from netwright.spike.convert.approximate import approximate as approximate
from netwright.spike.convert.auto import Auto as Auto
from netwright.spike.convert.auto import Choice as Choice
from netwright.spike.convert.bridge import Bridge as Bridge
from netwright.spike.convert.burst import Burst as Burst
from netwright.spike.convert.channel import ChannelPercentile as ChannelPercentile
from netwright.spike.convert.chip import LOIHI as LOIHI
from netwright.spike.convert.chip import Chip as Chip
from netwright.spike.convert.chip import place as place
from netwright.spike.convert.chip import respect as respect
from netwright.spike.convert.converter import Converter as Converter
from netwright.spike.convert.converter import Layer as Layer
from netwright.spike.convert.converter import Spiking as Spiking
from netwright.spike.convert.fit import Fit as Fit
from netwright.spike.convert.lcp import LightCalibration as LightCalibration
from netwright.spike.convert.lossless import Lossless as Lossless
from netwright.spike.convert.ltb import LocalThresholdBalancing as LocalThresholdBalancing
from netwright.spike.convert.maximum import Maximum as Maximum
from netwright.spike.convert.mmse import MinimumError as MinimumError
from netwright.spike.convert.percentile import Percentile as Percentile
from netwright.spike.convert.qcfs import QCFS as QCFS
from netwright.spike.convert.quantised import Quantised as Quantised
from netwright.spike.convert.read import unsupported as unsupported
from netwright.spike.convert.rnn_morph import QuantisedRNN as QuantisedRNN
from netwright.spike.convert.rnn_morph import SpikingRNN as SpikingRNN
from netwright.spike.convert.signed import SignedMemory as SignedMemory

CATALOGUE = catalogue(globals(), Converter, "conversion")
