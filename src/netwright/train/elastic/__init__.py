"""Elastic training: all architectures of a space at once, with shared weights. One method a file."""

from netwright.core.catalogue import catalogue
from netwright.train.elastic.role import Elastic as Elastic
from netwright.train.elastic.role import Shared as Shared
from netwright.train.elastic.sandwich import Sandwich as Sandwich

CATALOGUE = catalogue(globals(), Elastic, "elastic training")
