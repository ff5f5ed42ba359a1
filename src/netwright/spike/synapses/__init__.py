"""What stands between neurons, one a file: weights with a sign, weights that tire, weights that learn by spike times."""

from netwright.core.catalogue import catalogue
from netwright.spike.synapses.dale import Dale as Dale
from netwright.spike.synapses.stdp import STDP as STDP
from netwright.spike.synapses.stp import ShortTermPlasticity as ShortTermPlasticity
from netwright.spike.synapses.synapse import Synapse as Synapse

CATALOGUE = catalogue(globals(), Synapse, "synapse")
