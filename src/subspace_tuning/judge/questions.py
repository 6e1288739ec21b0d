"""Questions with options, told from the columns in which data sets have them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from subspace_tuning.errors import BadInput, shown
from subspace_tuning.rows.records import Record, Records

ASK = "Question: {question}\nAnswer:"
ASK_OF = "{passage}\nQuestion: {question}\nAnswer:"
GO_ON = "{question}"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
HIDDEN = "(test sets may hide theirs: name another split)"


@dataclass(frozen=True)
class Question:
    """template: how it is put, if not told otherwise. instruction: the text it was taken from, where it was one."""

    question: str
    options: tuple[str, ...]
    right: int
    template: str = ASK
    passage: str = ""
    instruction: str = ""
    labels: tuple[str, ...] = ()

    def put(self, template: str | None = None) -> str:
        """What stands before an option. Raises BadInput for a template with other fields than there are."""
        lettered = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, self.options, strict=False))
        known = {"question": self.question, "passage": self.passage, "options": lettered}
        return _filled(template or self.template, known | {"instruction": self.instruction})

    def answers(self, template: str | None = None) -> list[str]:
        """Each option as it would go on from there; an ending that begins with a mark joins without a space.

        Raises BadInput for a template that tells no options apart.
        """
        labels = self.labels or tuple(LETTERS[: len(self.options)])
        usual = ["{option}" if text[:1] in tuple(",.;:?!") else " {option}" for text in self.options]
        found = [
            _filled(template or usual[at], {"option": text, "letter": LETTERS[at], "label": labels[at]})
            for at, text in enumerate(self.options)
        ]
        if len(set(found)) == 1 < len(set(self.options)):
            raise BadInput(
                f"option: {template!r} writes every option alike; it takes {{option}}, {{letter}} or {{label}}"
            )
        return found


def _filled(template: str, known: dict[str, str]) -> str:
    try:
        return template.format(**known)
    except (KeyError, IndexError, ValueError) as error:
        raise BadInput(
            f"the template {template!r} cannot be filled ({error}); its fields are "
            f"{', '.join('{' + name + '}' for name in known)}, and other braces are doubled"
        ) from error


def questions_of(records: Records) -> list[Question]:
    """Raises BadInput that names the first row which is no question with options."""
    return [question_of(record, records.place(at)) for at, record in enumerate(records.rows)]


def question_of(record: Record, place: str = "the row") -> Question:
    form = next((form for form, columns in FORMATS.items() if columns <= record.keys()), None)
    if form is None:
        known = "; ".join(", ".join(sorted(columns)) for columns in FORMATS.values())
        raise BadInput(
            f"{place} has the columns {', '.join(record) or 'none'}, which hold no options; known are {known}"
        )
    try:
        return _sound(form(record))
    except BadInput as error:
        raise BadInput(f"{place}: {error}") from error
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise BadInput(f"{place} is not in the form that its columns promise ({error!r})") from error


def _sound(question: Question) -> Question:
    """The question. Raises BadInput for one that cannot be put, or of which nothing can be chosen."""
    for name, text in (("question", question.question), ("passage", question.passage)):
        if not isinstance(text, str):
            raise BadInput(f"the {name} is {shown(text)}, expected a text")
    if not question.question.strip():
        raise BadInput("the question is empty")
    count = len(question.options)
    if not 2 <= count <= len(LETTERS):
        raise BadInput(f"the question has {count} options, expected 2 to {len(LETTERS)}")
    if question.labels and len(question.labels) != count:
        raise BadInput(f"there are {len(question.labels)} labels for {count} options")
    for at, option in enumerate(question.options):
        if not isinstance(option, str) or not option.strip():
            raise BadInput(f"option {at + 1} of {count} is {shown(option)}, expected a text")
    return question


def _listed(texts: Any) -> tuple[Any, ...]:
    if isinstance(texts, str):
        raise BadInput(f"the options are {shown(texts)}, expected a list of texts")
    return tuple(texts)


def _right(label: Any, of: int, first: int = 0) -> int:
    known = {name: at for at in range(of) for name in (str(at + first), f"{at + first}.0")}
    if str(label).strip() not in known:
        raise BadInput(f"the label {shown(label)} is none of the {of} options {HIDDEN}")
    return known[str(label).strip()]


def _arc(record: Record, column: str = "question") -> Question:
    """ai2_arc (and OpenBookQA, CommonsenseQA): choices {text, label}, answerKey."""
    labels, texts = _listed(record["choices"]["label"]), _listed(record["choices"]["text"])
    if record["answerKey"] not in labels:
        known = ", ".join(map(str, labels))
        raise BadInput(f"the answerKey {shown(record['answerKey'])} is none of {known} {HIDDEN}")
    return Question(record[column], texts, labels.index(record["answerKey"]), labels=labels)


def _openbookqa(record: Record) -> Question:
    return _arc(record, "question_stem")


def _hellaswag(record: Record) -> Question:
    endings = _listed(record["endings"])
    return Question(record["ctx"], endings, _right(record["label"], len(endings)), GO_ON)


def _piqa(record: Record) -> Question:
    return Question(record["goal"], (record["sol1"], record["sol2"]), _right(record["label"], 2))


def _boolq(record: Record) -> Question:
    answer = record["answer"] if "answer" in record else record["label"]
    asked = record["question"].rstrip("?") + "?"
    right = {"true": 1, "false": 0}.get(str(answer).strip().lower())
    right = _right(answer, 2) if right is None else right
    return Question(asked, ("no", "yes"), right, ASK_OF, passage=record["passage"])


def _winogrande(record: Record) -> Question:
    options = (record["option1"], record["option2"])
    return Question(record["sentence"], options, _right(record["answer"], 2, first=1))


_FORMAT = re.compile(r"\s*Answer format:\s*(\S+)\s*$")
_OPENING = re.compile(r"^Please [^:]*?(?:question|sentence)\s*:\s*", re.DOTALL)


def _commonsense(record: Record) -> Question:
    """The commonsense sets of LLM-Adapters (arXiv:2304.01933): the options stand in the instruction.

    "Please choose the correct answer to the question: Q\\n\\nAnswer1: ... Answer2: ...\\n\\nAnswer format: answer1/..."
    and its sisters with solutions, endings, options, or true/false.
    """
    instruction = record["instruction"]
    form = _FORMAT.search(instruction)
    if form is None:
        raise BadInput("the instruction does not end with 'Answer format: ...', so that its options are unknown")
    labels = tuple(form[1].split("/"))
    if record["answer"] not in labels:
        raise BadInput(f"the answer {record['answer']!r} is none of {', '.join(labels)}")
    question, options = _parted(instruction[: form.start()], labels)
    ends = labels[0].startswith("ending")
    opening = _OPENING.match(question)
    asked = question[opening.end() :] if opening else question
    return Question(
        asked, options, labels.index(record["answer"]), GO_ON if ends else ASK, instruction=instruction, labels=labels
    )


def _parted(body: str, labels: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The question, and the text behind each label; labels that do not stand there (true, false) are options."""
    marks = [f"{label.capitalize()}:" for label in labels]
    if not any(mark in body for mark in marks):
        return body.strip(), labels
    question, blank, rest = body.rpartition(f"\n\n{marks[0]}")
    if not blank:
        question, _, rest = body.partition(marks[0])
    options = []
    for label, mark in zip(labels[1:], marks[1:], strict=True):
        option, found, rest = rest.partition(mark)
        if not found:
            raise BadInput(f"the instruction has no option {mark!r}, though its answer format names {label!r}")
        options.append(option.strip())
    return question.strip(), (*options, rest.strip())


FORMATS: dict[Callable[[Record], Question], set[str]] = {
    _commonsense: {"instruction", "answer"},
    _openbookqa: {"question_stem", "choices", "answerKey"},
    _arc: {"question", "choices", "answerKey"},
    _hellaswag: {"ctx", "endings", "label"},
    _piqa: {"goal", "sol1", "sol2", "label"},
    _winogrande: {"sentence", "option1", "option2", "answer"},
    _boolq: {"question", "passage"},
}
