"""sft: supervised fine-tuning, a language model that learns to write the rows' answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from subspace_tuning.files import assets
from subspace_tuning.judge.questions import ASK, questions_of
from subspace_tuning.rows import Records, encode, rows_of
from subspace_tuning.rows.records import Record
from subspace_tuning.tasks.language import LENGTH, LanguageTask, config_class, tell
from subspace_tuning.tasks.registry import know, register
from subspace_tuning.tasks.task import Inputs, Task

COLUMNS, CLOZE = "columns", "cloze"


@register("sft")
@dataclass(frozen=True, kw_only=True)
class SFT(LanguageTask):
    """loss_on: answers and their ends, or all tokens. packing: several rows in one sequence of max_length.

    form: ``columns`` tell what is given and what is to be answered; ``cloze``: rows are questions with options, as the
    judgement multiple_choice reads them, and the answer is the text of the right option.
    """

    row = "messages; prompt and completion; instruction, input and output; question and answer; or text"
    trained_by = "SupervisedTrainer"
    judgements: ClassVar[Sequence[Mapping[str, Any]]] = ({"judge": "bits_per_byte"},)

    loss_on: Literal["completions", "all"] = "completions"
    packing: bool = False
    form: Literal["columns", "cloze"] = "columns"

    def checked(self, records: Records) -> list[Record]:
        if self.form == CLOZE:
            questions_of(records)
        else:
            rows_of(records)
        return records.rows

    def written(self, records: Records) -> Records:
        """The rows that are trained on."""
        if self.form == COLUMNS:
            return records
        asked = questions_of(records)
        rows = [{"prompt": question.put(), "completion": question.answers()[question.right]} for question in asked]
        return replace(records, rows=rows)

    def encode(self, rows: Sequence[Record], processor: Any, max_length: int | None) -> list[Inputs]:
        """Rows whose answer max_length cuts away are left out, with a warning."""
        found = encode(self.written(Records.of(rows)), processor, max_length=max_length or LENGTH)
        tell(found, of=len(rows))
        return [
            {
                "input_ids": row.ids.tolist(),
                "labels": (row.labels if self.loss_on == "completions" else row.ids).tolist(),
            }
            for row in found.rows
        ]

    def arguments(self) -> tuple[Any, dict[str, Any]]:
        return config_class("SFTConfig"), {
            "label_names": ["labels"],
            "metric_for_best_model": "loss",
            "greater_is_better": False,
            "packing": self.packing,
            "eval_packing": False,
            "dataset_kwargs": {"skip_prepare_dataset": not self.packing},
        }

    def prompt(self, line: str, processor: Any) -> str:
        if self.form == CLOZE:
            return ASK.format(question=line)
        return super().prompt(line, processor)


def _conversations(task: Task) -> tuple[list[Record], None]:
    pairs = assets.conversations()
    return [{"question": question, "answer": answer} for question, answer in pairs], None


CONVERSATIONS = know(SFT(name="conversations", fetch=_conversations))
