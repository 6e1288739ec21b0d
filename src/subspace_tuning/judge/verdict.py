"""What a judgement says: one main number, all others, and each row's own, so that two may be compared in pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from subspace_tuning.errors import BadInput, nearest


@dataclass(frozen=True)
class Verdict:
    """metric: the name of the main one. per_row: of a metric the value of each row, in the order of ``numbers``.

    numbers: the places of the judged rows in their source. data: a hash of the rows there were to judge.
    left_out: why, and how many rows. notes: what else one should know before believing the numbers.
    """

    judge: str
    metric: str
    metrics: dict[str, float]
    numbers: list[int]
    per_row: dict[str, list[float]]
    data: str
    greater_is_better: bool = True
    left_out: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    texts: list[str] | None = None  # what the model has written for each row, where it wrote

    @property
    def value(self) -> float:
        return self.metrics[self.metric]

    @property
    def rows(self) -> int:
        return len(self.numbers)

    def pairs(self, other: Verdict, metric: str | None = None) -> list[tuple[float, float]]:
        """This verdict's and another's value of each row that both judged.

        Raises BadInput where they judged other rows, or have no such values.
        """
        metric = metric or self.metric
        if self.data != other.data:
            raise BadInput(f"the verdicts of {self.judge} and {other.judge} are of different rows; judge the same ones")
        for one in (self, other):
            if metric not in one.per_row:
                known = ", ".join(one.per_row) or "none"
                raise BadInput(f"no {metric!r} of each row: {nearest(metric, one.per_row)}there is {known}")
        theirs = dict(zip(other.numbers, other.per_row[metric], strict=True))
        mine = zip(self.numbers, self.per_row[metric], strict=True)
        return [(value, theirs[number]) for number, value in mine if number in theirs]

    def to_data(self) -> dict[str, Any]:
        """Plain data that ``from_data`` reads back; ``value`` and ``rows`` are in it for readers."""
        return {**asdict(self), "notes": list(self.notes), "value": self.value, "rows": self.rows}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Verdict:
        given = {key: value for key, value in data.items() if key not in ("value", "rows")}
        return Verdict(**{**given, "notes": tuple(given["notes"])})
