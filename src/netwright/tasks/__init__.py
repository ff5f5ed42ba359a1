"""What a network is for: data in three splits, classes, loss, metric. Reads standard file formats; downloads nothing."""

from netwright.tasks.load import FORMATS as FORMATS
from netwright.tasks.load import load_task as load_task
from netwright.tasks.task import Normalisation as Normalisation
from netwright.tasks.task import Split as Split
from netwright.tasks.task import Task as Task
