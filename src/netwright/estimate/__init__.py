"""2 estimate: what a network costs before it runs, counted from its graph or modelled from counts."""

from netwright.estimate.count import cost as cost
from netwright.estimate.count import table as table
from netwright.estimate.energy import energy as energy
