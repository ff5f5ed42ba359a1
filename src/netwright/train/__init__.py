"""4 train: the loop, its recipe, distillation and elastic training of shared weights."""

from netwright.train.checkpoint import load_weights as load_weights
from netwright.train.data import Data as Data
from netwright.train.data import Tensors as Tensors
from netwright.train.engine import Record as Record
from netwright.train.evaluate import accuracy as accuracy
from netwright.train.evaluate import reestimate as reestimate
from netwright.train.loop import Fitted as Fitted
from netwright.train.loop import fit as fit
from netwright.train.recipe import Recipe as Recipe
