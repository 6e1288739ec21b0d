"""dpo: direct preference optimisation (arXiv:2305.18290), a language model that learns which of two answers is better.

The reference is the base model: the same weights with the adapter switched off, or a second copy when every weight is
trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import PositiveFloat

from subspace_tuning.errors import BadInput
from subspace_tuning.rows import Encoded, Records, encode, row_of
from subspace_tuning.rows.records import Record
from subspace_tuning.tasks.language import LENGTH, LanguageTask, config_class, tell
from subspace_tuning.tasks.registry import register
from subspace_tuning.tasks.task import Inputs, Metric

if TYPE_CHECKING:
    from transformers import Trainer

CHOSEN, REJECTED = "chosen", "rejected"
ACCURACY = "reward_accuracy"


def reward_accuracy(better: Any, worse: Any) -> float:
    """The share of rows whose better answer has gained more probability than the worse one."""
    return float((better > worse).mean())


@register("dpo")
@dataclass(frozen=True, kw_only=True)
class DPO(LanguageTask):
    """beta: how dear it is to leave the reference."""

    row = "prompt, chosen and rejected: texts, or lists of messages"
    trained_by = "PreferenceTrainer"
    metrics: ClassVar[Mapping[str, Metric]] = {ACCURACY: reward_accuracy}

    beta: PositiveFloat = 0.1

    def checked(self, records: Records) -> list[Record]:
        for at, record in enumerate(records.rows):
            place = records.place(at)
            for column in ("prompt", CHOSEN, REJECTED):
                if column not in record:
                    raise BadInput(
                        f"{place} has no column {column!r}: its columns are {', '.join(record)}; dpo takes {self.row}"
                    )
            for column in (CHOSEN, REJECTED):
                try:
                    row_of(_answered(record, column), place)
                except BadInput as error:
                    raise BadInput(str(error).replace("'completion'", repr(column))) from error
            if record[CHOSEN] == record[REJECTED]:
                raise BadInput(f"{place}: chosen and rejected are the same, so that there is nothing to prefer")
        return records.rows

    def encode(self, rows: Sequence[Record], processor: Any, max_length: int | None) -> list[Inputs]:
        """Rows of which max_length cuts an answer away are left out, with a warning."""
        better, worse = (self._encoded(rows, column, processor, max_length) for column in (CHOSEN, REJECTED))
        pairs = [_pair(better[at], worse[at]) for at in better if at in worse]
        if not pairs:
            raise BadInput(f"max_length={max_length or LENGTH} cuts away an answer of every row; give a greater one")
        return pairs

    @staticmethod
    def _encoded(rows: Sequence[Record], column: str, processor: Any, max_length: int | None) -> dict[int, Encoded]:
        records = Records.of([_answered(row, column) for row in rows])
        found = encode(records, processor, max_length=max_length or LENGTH, answers="last")
        tell(found, of=len(rows), what=f" ({column})")
        return {row.number: row for row in found.rows}

    def arguments(self) -> tuple[Any, dict[str, Any]]:
        own = {"metric_for_best_model": "rewards/accuracies", "greater_is_better": True, "beta": self.beta}
        return config_class("DPOConfig"), {"label_names": [], **own}

    def averaged(self, batch: Mapping[str, Any]) -> int:
        """Rows, each of which has two sequences."""
        return len(batch["input_ids"]) // 2

    def judge(self, trainer: Trainer) -> dict[str, float]:
        return {ACCURACY: trainer.evaluate()["eval_rewards/accuracies"]}


def _answered(record: Record, column: str) -> Record:
    return {"prompt": record["prompt"], "completion": record[column]}


def _pair(better: Encoded, worse: Encoded) -> Inputs:
    prompt = better.prompt.tolist()
    longer = max(better.ids, worse.ids, key=len)
    return {
        "prompt_ids": prompt,
        "chosen_ids": better.ids[len(prompt) :].tolist(),
        "rejected_ids": worse.ids[len(worse.prompt) :].tolist(),
        "input_ids": longer.tolist(),  # by which rows are checked, and grouped by length
    }
