"""3 search: strategies over any space, stored so that they can be killed and resumed."""

from netwright.search.hypervolume import Comparison as Comparison
from netwright.search.hypervolume import compare as compare
from netwright.search.hypervolume import hypervolume as hypervolume
from netwright.search.objective import Objective as Objective
from netwright.search.objective import Score as Score
from netwright.search.select import NothingFits as NothingFits
from netwright.search.select import Selection as Selection
from netwright.search.select import select as select
from netwright.search.store import Failure as Failure
from netwright.search.study import SearchFailed as SearchFailed
from netwright.search.study import Study as Study
from netwright.search.study import run as run
