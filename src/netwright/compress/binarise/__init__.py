"""Binarisers: weights -1, +1 in one bit, activations read by their sign."""

from netwright.compress.binarise.biper import BiPer as BiPer
from netwright.compress.binarise.bipft import BiPFT as BiPFT
from netwright.compress.binarise.bireal import BiReal as BiReal
from netwright.compress.binarise.bivit import BiViT as BiViT
from netwright.compress.binarise.ecoformer import EcoFormer as EcoFormer
from netwright.compress.binarise.fda import FDA as FDA
from netwright.compress.binarise.irnet import IRNet as IRNet
from netwright.compress.binarise.mst import MST as MST
from netwright.compress.binarise.react import ReAct as ReAct
from netwright.compress.binarise.recu import ReCU as ReCU
from netwright.compress.binarise.reste import ReSTE as ReSTE
from netwright.compress.binarise.ste import STE as STE
from netwright.compress.binarise.xnor import XNOR as XNOR
from netwright.compress.compressor import Compressor
from netwright.core.catalogue import catalogue

CATALOGUE = catalogue(globals(), Compressor, "binariser")
