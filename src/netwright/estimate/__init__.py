"""2 estimate: what a network costs before it runs, counted from its graph or modelled from counts."""

from netwright.estimate.activity import Activity as Activity
from netwright.estimate.activity import activity as activity
from netwright.estimate.count import compare as compare
from netwright.estimate.count import cost as cost
from netwright.estimate.count import table as table
from netwright.estimate.energy import energy as energy
from netwright.estimate.energy import memory_energy as memory_energy
from netwright.estimate.memory import Moment as Moment
from netwright.estimate.memory import timeline as timeline
from netwright.estimate.roofline import Roofline as Roofline
from netwright.estimate.roofline import machine_peak as machine_peak
from netwright.estimate.roofline import roofline as roofline
from netwright.estimate.spiking import SpikingEnergy as SpikingEnergy
from netwright.estimate.spiking import spiking_energy as spiking_energy
