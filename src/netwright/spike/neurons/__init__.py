"""Neuron models, one a file, with explicit state."""

from netwright.core.catalogue import catalogue
from netwright.spike.neurons.alif import AdaptiveLIF as AdaptiveLIF
from netwright.spike.neurons.bipolar import Bipolar as Bipolar
from netwright.spike.neurons.burst import Burst as Burst
from netwright.spike.neurons.delayed import Delayed as Delayed
from netwright.spike.neurons.diet import DietLIF as DietLIF
from netwright.spike.neurons.integrate_and_fire import IntegrateAndFire as IntegrateAndFire
from netwright.spike.neurons.lif import LIF as LIF
from netwright.spike.neurons.memory import Memory as Memory
from netwright.spike.neurons.neuron import Neuron as Neuron
from netwright.spike.neurons.neuron import Reset as Reset
from netwright.spike.neurons.neuron import fire as fire
from netwright.spike.neurons.neuron import simulate as simulate
from netwright.spike.neurons.neuron import unroll as unroll
from netwright.spike.neurons.plif import PLIF as PLIF
from netwright.spike.neurons.scan import linear_scan as linear_scan
from netwright.spike.neurons.sliding import SlidingPSN as SlidingPSN

CATALOGUE = catalogue(globals(), Neuron, "neuron")
