"""Pruners: smaller or sparser float networks, with training, with calibration data alone, and input by input."""

from netwright.compress.compressor import Compressor
from netwright.compress.prune.dropping import LayerDrop as LayerDrop
from netwright.compress.prune.ftwt import FTWT as FTWT
from netwright.compress.prune.lottery import Lottery as Lottery
from netwright.compress.prune.optin import OPTIN as OPTIN
from netwright.compress.prune.oto import OTO as OTO
from netwright.compress.prune.random_search import RandomSearch as RandomSearch
from netwright.compress.prune.random_ticket import RandomTicket as RandomTicket
from netwright.core.catalogue import catalogue

CATALOGUE = catalogue(globals(), Compressor, "pruner")
