"""Plots as plain SVG, one kind a file; colours come from the page's style sheet, values from <title> elements."""

from netwright.report.plots.bars import Bar as Bar
from netwright.report.plots.bars import bars as bars
from netwright.report.plots.histogram import histogram as histogram
from netwright.report.plots.line import Series as Series
from netwright.report.plots.line import line as line
from netwright.report.plots.roofline import Place as Place
from netwright.report.plots.roofline import roofs as roofs
from netwright.report.plots.scatter import Point as Point
from netwright.report.plots.scatter import scatter as scatter
from netwright.report.plots.stacked import Stack as Stack
from netwright.report.plots.stacked import stacked as stacked
from netwright.report.plots.waterline import Column as Column
from netwright.report.plots.waterline import waterline as waterline
