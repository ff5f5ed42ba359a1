"""The nouns of the house. Imports no other room and loads no torch."""

from netwright.core.catalogue import Catalogue as Catalogue
from netwright.core.catalogue import catalogue as catalogue
from netwright.core.cost import Cost as Cost
from netwright.core.cost import Quantity as Quantity
from netwright.core.errors import NetwrightError as NetwrightError
from netwright.core.graph import Graph as Graph
from netwright.core.graph import Node as Node
from netwright.core.graph import Spec as Spec
from netwright.core.paper import Paper as Paper
from netwright.core.space import Arch as Arch
from netwright.core.space import Domain as Domain
from netwright.core.space import Space as Space
from netwright.core.space import choice as choice
from netwright.core.space import ints as ints
from netwright.core.target import Target as Target
from netwright.core.trial import Trial as Trial
from netwright.core.trial import pareto_front as pareto_front
