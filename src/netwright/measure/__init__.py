"""measure: the honest eye. Every number says how it came about and on which machine."""

from netwright.measure.latency import time_side_by_side as time_side_by_side
from netwright.measure.machine import machine as machine
from netwright.measure.machine import versions as versions
