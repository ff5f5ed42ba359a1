"""Neuron models, one a file, with explicit state."""

from netwright.core.catalogue import catalogue
from netwright.spike.neurons.bipolar import Bipolar as Bipolar
from netwright.spike.neurons.integrate_and_fire import IntegrateAndFire as IntegrateAndFire
from netwright.spike.neurons.neuron import Neuron as Neuron
from netwright.spike.neurons.neuron import simulate as simulate

CATALOGUE = catalogue(globals(), Neuron, "neuron")
