"""Surrogate gradients, one a file: a spike is H(x) forward, and something smoother than Dirac's pulse backward."""

from netwright.core.catalogue import catalogue
from netwright.spike.surrogates.arctan import ARCTAN as ARCTAN
from netwright.spike.surrogates.arctan import ArcTan as ArcTan
from netwright.spike.surrogates.damped import Damped as Damped
from netwright.spike.surrogates.exponential import Exponential as Exponential
from netwright.spike.surrogates.fast_sigmoid import FastSigmoid as FastSigmoid
from netwright.spike.surrogates.multi_gaussian import MultiGaussian as MultiGaussian
from netwright.spike.surrogates.rectangle import Rectangle as Rectangle
from netwright.spike.surrogates.sigmoid import Sigmoid as Sigmoid
from netwright.spike.surrogates.surrogate import Curves as Curves
from netwright.spike.surrogates.surrogate import Surrogate as Surrogate
from netwright.spike.surrogates.triangle import Triangle as Triangle

CATALOGUE = catalogue(globals(), Surrogate, "surrogate gradient")
