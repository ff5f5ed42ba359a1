"""Predictors of accuracy: fit on a few labels, predict mean, spread and a calibrated interval. One method a file."""

from netwright.core.catalogue import catalogue
from netwright.estimate.predictors.aiop import AIOP as AIOP
from netwright.estimate.predictors.auto import Auto as Auto
from netwright.estimate.predictors.boosted import Boosted as Boosted
from netwright.estimate.predictors.boosted import Pruned as Pruned
from netwright.estimate.predictors.boosted import prune as prune
from netwright.estimate.predictors.ensemble import Ensemble as Ensemble
from netwright.estimate.predictors.fbnetv3 import FBNetV3 as FBNetV3
from netwright.estimate.predictors.forest import ExtraTrees as ExtraTrees
from netwright.estimate.predictors.forest import Forest as Forest
from netwright.estimate.predictors.gennape import GENNAPE as GENNAPE
from netwright.estimate.predictors.gp import GaussianProcess as GaussianProcess
from netwright.estimate.predictors.onnx_net import OnnxNet as OnnxNet
from netwright.estimate.predictors.parzc import ParZC as ParZC
from netwright.estimate.predictors.ridge import Ridge as Ridge
from netwright.estimate.predictors.robot import RoBoT as RoBoT
from netwright.estimate.predictors.role import Fitted as Fitted
from netwright.estimate.predictors.role import Prediction as Prediction
from netwright.estimate.predictors.role import Predictor as Predictor
from netwright.estimate.predictors.transfer import Transfer as Transfer

CATALOGUE = catalogue(globals(), Predictor, "predictor")
