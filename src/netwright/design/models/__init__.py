"""Families of networks, one a file; published variants are data."""

from netwright.design.models.staged import VARIANTS as STAGED_VARIANTS
from netwright.design.models.staged import Stage as Stage
from netwright.design.models.staged import Staged as Staged

VARIANTS = {**STAGED_VARIANTS}
