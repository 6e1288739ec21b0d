"""Tasks: where texts and labels come from, and by which metric a model is judged."""

from subspace_tuning.tasks.load import Data, load, stamp
from subspace_tuning.tasks.task import TASKS, Task, task_of

__all__ = ["TASKS", "Data", "Task", "load", "stamp", "task_of"]
