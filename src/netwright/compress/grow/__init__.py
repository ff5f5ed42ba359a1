"""Grow: a large network that starts from what small ones learned. One method a file."""

from netwright.compress.grow.mixture_growth import MixtureGrowth as MixtureGrowth
from netwright.compress.grow.role import Growth as Growth
from netwright.core.catalogue import catalogue

CATALOGUE = catalogue(globals(), Growth, "growth")
