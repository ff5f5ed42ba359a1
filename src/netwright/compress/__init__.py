"""5 compress: a float network becomes an integer one of 8, 2 or 1 bits a weight, or a smaller float one.

``Int8().compress(module, example, calibration)`` needs no training; ``BitNet()`` and ``BiPer()`` take a `fit` callable.
`integerise` is the engine under all that end in integers; `plan.kept` says beforehand what stays in float, and why.
`prune` makes networks smaller or sparse, `stitch` many from a few, `grow` a large one from small ones.
"""

from netwright.compress.binarise import FDA as FDA
from netwright.compress.binarise import MST as MST
from netwright.compress.binarise import STE as STE
from netwright.compress.binarise import XNOR as XNOR
from netwright.compress.binarise import BiPer as BiPer
from netwright.compress.binarise import BiPFT as BiPFT
from netwright.compress.binarise import BiReal as BiReal
from netwright.compress.binarise import BiViT as BiViT
from netwright.compress.binarise import EcoFormer as EcoFormer
from netwright.compress.binarise import IRNet as IRNet
from netwright.compress.binarise import ReAct as ReAct
from netwright.compress.binarise import ReCU as ReCU
from netwright.compress.binarise import ReSTE as ReSTE
from netwright.compress.codes import Codes as Codes
from netwright.compress.codes import Range as Range
from netwright.compress.compressor import Compressor as Compressor
from netwright.compress.compressor import Stage as Stage
from netwright.compress.integer import integerise as integerise
from netwright.compress.integer import unsupported as unsupported
from netwright.compress.prune import FTWT as FTWT
from netwright.compress.prune import OPTIN as OPTIN
from netwright.compress.prune import OTO as OTO
from netwright.compress.prune import LayerDrop as LayerDrop
from netwright.compress.prune import Lottery as Lottery
from netwright.compress.prune import RandomSearch as RandomSearch
from netwright.compress.prune import RandomTicket as RandomTicket
from netwright.compress.quantise import NUPES as NUPES
from netwright.compress.quantise import Int8 as Int8
from netwright.compress.quantise import LSQInt as LSQInt
from netwright.compress.quantise import MixedPrecision as MixedPrecision
from netwright.compress.quantise import Uniform as Uniform
from netwright.compress.quantise import stored_bits as stored_bits
from netwright.compress.ternarise import LSQ as LSQ
from netwright.compress.ternarise import TBT as TBT
from netwright.compress.ternarise import TWN as TWN
from netwright.compress.ternarise import BitNet as BitNet
from netwright.compress.trainee import Trainee as Trainee
from netwright.core.catalogue import catalogue

CATALOGUE = catalogue(globals(), Compressor, "compressor")
