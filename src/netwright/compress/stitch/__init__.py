"""Stitch: many networks between a few trained ones. One method a file."""

from netwright.compress.stitch.cuts import Cut as Cut
from netwright.compress.stitch.cuts import cuts as cuts
from netwright.compress.stitch.learngene_pool import Instance as Instance
from netwright.compress.stitch.learngene_pool import LearngenePool as LearngenePool
from netwright.compress.stitch.role import Stitching as Stitching
from netwright.compress.stitch.snnet import Stitchable as Stitchable
from netwright.compress.stitch.stitched import Stitch as Stitch
from netwright.compress.stitch.stitched import Stitched as Stitched
from netwright.core.catalogue import catalogue

CATALOGUE = catalogue(globals(), Stitching, "stitching")
