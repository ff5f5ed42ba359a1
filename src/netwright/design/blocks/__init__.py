"""Building blocks, one a file. A block keeps the shape of its input; families stack blocks into networks."""

from netwright.core.catalogue import catalogue
from netwright.design.blocks.block import Block as Block
from netwright.design.blocks.conv import Conv as Conv
from netwright.design.blocks.convnext import ConvNeXt as ConvNeXt
from netwright.design.blocks.gnconv import GnConv as GnConv
from netwright.design.blocks.inception_dw import InceptionDW as InceptionDW
from netwright.design.blocks.mbconv import MBConv as MBConv
from netwright.design.blocks.vanilla import Vanilla as Vanilla

CATALOGUE = catalogue(globals(), Block, "block")
