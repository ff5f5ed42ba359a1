"""2 estimate: what a network costs before it runs, counted from its graph or modelled from counts."""

from netwright.estimate.activity import Activity as Activity
from netwright.estimate.activity import activity as activity
from netwright.estimate.count import cost as cost
from netwright.estimate.count import table as table
from netwright.estimate.energy import energy as energy
from netwright.estimate.spiking import SpikingEnergy as SpikingEnergy
from netwright.estimate.spiking import spiking_energy as spiking_energy
