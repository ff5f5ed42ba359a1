"""1 design: blocks, families, spaces, weight sharing; and the way from any module to a Graph."""

from netwright.design.execute import GraphModule as GraphModule
from netwright.design.merge import merge as merge
from netwright.design.supernet import Supernet as Supernet
from netwright.design.trace import trace as trace
