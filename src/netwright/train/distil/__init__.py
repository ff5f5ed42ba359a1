"""Distillation: losses that let a network learn from another one's outputs. One method a file."""

from netwright.core.catalogue import catalogue
from netwright.train.distil.kd import KnowledgeDistillation as KnowledgeDistillation
from netwright.train.distil.role import Distillation as Distillation

CATALOGUE = catalogue(globals(), Distillation, "distillation")
