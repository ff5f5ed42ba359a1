"""Families of spiking networks that are trained as such, one a file; published variants are data."""

from netwright.core.catalogue import catalogue
from netwright.spike.models import lif_cnn, lif_rnn, lmuformer, meta_spikeformer, phcssm, spikformer
from netwright.spike.models.family import Family as Family
from netwright.spike.models.lif_cnn import LifCnn as LifCnn
from netwright.spike.models.lif_rnn import LifRnn as LifRnn
from netwright.spike.models.lmuformer import LMUFormer as LMUFormer
from netwright.spike.models.meta_spikeformer import MetaSpikeFormer as MetaSpikeFormer
from netwright.spike.models.meta_spikeformer import SpikeStage as SpikeStage
from netwright.spike.models.phcssm import PHCSSM as PHCSSM
from netwright.spike.models.products import Products as Products
from netwright.spike.models.products import products as products
from netwright.spike.models.spikformer import MaskedReconstruction as MaskedReconstruction
from netwright.spike.models.spikformer import SpikformerV2 as SpikformerV2

CATALOGUE = catalogue(globals(), Family, "family of spiking networks")
_FILES = (lif_cnn, lif_rnn, lmuformer, meta_spikeformer, phcssm, spikformer)
VARIANTS = {name: config for file in _FILES for name, config in file.VARIANTS.items()}
