"""report: the mouth. Reads the facts of a run and writes one self-contained HTML page; computes nothing new."""

from netwright.report.render import render as render
from netwright.report.render import write_report as write_report
from netwright.report.table import summary_table as summary_table
from netwright.report.table import summary_text as summary_text
