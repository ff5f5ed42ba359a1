"""Distillation: losses that let a network learn from another one's outputs and features. One method a file."""

from netwright.core.catalogue import Catalogue, catalogue
from netwright.train.distil.guidance import Guidance as Guidance
from netwright.train.distil.kd import KnowledgeDistillation as KnowledgeDistillation
from netwright.train.distil.meal import MEAL as MEAL
from netwright.train.distil.meal import Ensemble as Ensemble
from netwright.train.distil.role import Distillation as Distillation
from netwright.train.distil.role import Distilled as Distilled
from netwright.train.distil.role import FeatureDistillation as FeatureDistillation
from netwright.train.distil.scalekd import ScaleKD as ScaleKD

_ROLES = (Distillation, FeatureDistillation)  # of the logits, and of what lies before them
CATALOGUE = Catalogue("distillation", {k: v for role in _ROLES for k, v in catalogue(globals(), role, "distillation").items()})
