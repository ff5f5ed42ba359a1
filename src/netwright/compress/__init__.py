"""5 compress: a float network becomes an integer one of 8, 2 or 1 bits a weight.

``Int8().compress(module, example, calibration)`` needs no training; ``BitNet()`` and ``BiPer()`` take a `fit` callable.
`integerise` is the engine under all of them; `unsupported` says beforehand what it cannot take.
"""

from netwright.compress.binarise import FDA as FDA
from netwright.compress.binarise import STE as STE
from netwright.compress.binarise import XNOR as XNOR
from netwright.compress.binarise import BiPer as BiPer
from netwright.compress.binarise import BiReal as BiReal
from netwright.compress.binarise import IRNet as IRNet
from netwright.compress.binarise import ReCU as ReCU
from netwright.compress.binarise import ReSTE as ReSTE
from netwright.compress.codes import Codes as Codes
from netwright.compress.codes import Range as Range
from netwright.compress.compressor import Compressor as Compressor
from netwright.compress.compressor import Stage as Stage
from netwright.compress.integer import integerise as integerise
from netwright.compress.integer import unsupported as unsupported
from netwright.compress.quantise import Int8 as Int8
from netwright.compress.ternarise import LSQ as LSQ
from netwright.compress.ternarise import TBT as TBT
from netwright.compress.ternarise import TWN as TWN
from netwright.compress.ternarise import BitNet as BitNet
from netwright.compress.trainee import Trainee as Trainee
from netwright.core.catalogue import catalogue

CATALOGUE = catalogue(globals(), Compressor, "compressor")
