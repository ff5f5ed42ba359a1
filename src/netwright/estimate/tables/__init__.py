"""Tables of measured architectures: cells, their features, loading, and splits by isomorphism class."""

from netwright.estimate.tables.cell import Cell as Cell
from netwright.estimate.tables.features import Features as Features
from netwright.estimate.tables.features import describe as describe
from netwright.estimate.tables.table import Table as Table
from netwright.estimate.tables.table import make_table as make_table
from netwright.estimate.tables.table import read_rows as read_rows
from netwright.estimate.tables.table import read_table as read_table
from netwright.estimate.tables.table import split as split
