"""Latency before the network is on the device: a table of operators, or known devices and ten measurements of yours."""

from netwright.core.catalogue import catalogue
from netwright.estimate.latency.ensemble import EnsembleTransfer as EnsembleTransfer
from netwright.estimate.latency.kernel import KernelTransfer as KernelTransfer
from netwright.estimate.latency.lookup import OperatorLookup as OperatorLookup
from netwright.estimate.latency.method import LatencyEstimate as LatencyEstimate
from netwright.estimate.latency.method import LatencyMethod as LatencyMethod
from netwright.estimate.latency.nearest import NearestDevice as NearestDevice
from netwright.estimate.latency.ridge import RidgeTransfer as RidgeTransfer
from netwright.estimate.latency.table import LatencyTable as LatencyTable
from netwright.estimate.latency.transfer import LatencyTransfer as LatencyTransfer
from netwright.estimate.latency.transfer import Prediction as Prediction

CATALOGUE = catalogue(globals(), LatencyMethod, "latency method")
