"""Strategies: how the next architecture is chosen. One method a file."""

from netwright.core.catalogue import catalogue
from netwright.search.strategies.nsga2 import NSGA2 as NSGA2
from netwright.search.strategies.random import Random as Random
from netwright.search.strategies.role import State as State
from netwright.search.strategies.role import Strategy as Strategy

CATALOGUE = catalogue(globals(), Strategy, "search strategy")
