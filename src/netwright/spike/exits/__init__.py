"""Exits: rules that end the simulation of a spiking network before its last time step, one a file."""

from netwright.core.catalogue import catalogue
from netwright.spike.exits.dynamic_confidence import CalibratedExit as CalibratedExit
from netwright.spike.exits.dynamic_confidence import DynamicConfidence as DynamicConfidence
from netwright.spike.exits.dynamic_confidence import calibrate as calibrate
from netwright.spike.exits.quiescence import Quiescence as Quiescence
from netwright.spike.exits.rule import Exited as Exited
from netwright.spike.exits.rule import ExitRule as ExitRule

CATALOGUE = catalogue(globals(), ExitRule, "exit over time")
