"""Which of several classes a text, or a pair of texts, belongs to."""

from __future__ import annotations

from dataclasses import dataclass

from subspace_tuning.files.table import Table
from subspace_tuning.tasks.classes import Classes
from subspace_tuning.tasks.labelled import LabelledTexts
from subspace_tuning.tasks.labels import classes
from subspace_tuning.tasks.registry import register


@register("classification")
@dataclass(frozen=True, kw_only=True)
class Classification(Classes, LabelledTexts):
    """labels: the names of the classes, in the order of the head's outputs."""

    row = "one or two columns of text, and a column with the name of the class, or its number from 0"
    metrics = Classes.metrics

    def labels_in(self, table: Table) -> list[int]:
        return classes(table, self.label, self.labels)
