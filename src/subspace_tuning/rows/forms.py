"""What a language model reads and what it is to answer: a conversation, or texts as they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from subspace_tuning.errors import BadInput
from subspace_tuning.rows.records import Record, Records

SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"
FORMS = "messages; prompt and completion; instruction, input (optional) and output; question and answer; or text"


@dataclass(frozen=True)
class Conversation:
    """Turns of role and content that end with the assistant's; a chat template writes them as text."""

    turns: tuple[tuple[str, str], ...]

    @property
    def answer(self) -> str:
        return self.turns[-1][1]


@dataclass(frozen=True)
class Plain:
    """A prompt and an answer as they stand; a plain text is an answer without a prompt."""

    prompt: str
    answer: str


Row = Conversation | Plain


def rows_of(records: Records) -> list[Row]:
    """Raises BadInput that names the first row which is none."""
    return [row_of(record, records.place(at)) for at, record in enumerate(records.rows)]


def row_of(record: Record, place: str = "the row") -> Row:
    """The row that a record's columns say it is. Raises BadInput for one without an answer, or of no known form."""
    if "messages" in record:
        return Conversation(_turns(record["messages"], place))
    if "prompt" in record:
        return _prompted(record, place)
    if "instruction" in record:
        asked = [_text(record, "instruction", place)]
        if record.get("input"):
            asked.append(_text(record, "input", place))
        return Conversation(((USER, "\n\n".join(asked)), (ASSISTANT, _answer(record, "output", place))))
    if "question" in record and "answer" in record:
        return Conversation(((USER, _text(record, "question", place)), (ASSISTANT, _answer(record, "answer", place))))
    if "text" in record:
        return Plain("", _answer(record, "text", place))
    raise BadInput(f"{place} has the columns {', '.join(record) or 'none'}; expected {FORMS}")


def _prompted(record: Record, place: str) -> Row:
    prompt, completion = record["prompt"], record.get("completion")
    if isinstance(prompt, str):
        return Plain(prompt, _answer(record, "completion", place))
    if not completion or isinstance(completion, str):
        raise BadInput(f"{place}: the prompt is a list of messages, so the completion is expected as one too")
    return Conversation(_turns([*_listed(prompt, place), *_listed(completion, place)], place))


def _answer(record: Record, column: str, place: str) -> str:
    if column not in record:
        raise BadInput(f"{place} has no answer: its column {column!r} is missing")
    if record[column] is None or not str(record[column]).strip():
        raise BadInput(f"{place} has no answer: its column {column!r} is empty")
    return _text(record, column, place)


def _text(record: Record, column: str, place: str) -> str:
    if not isinstance(record[column], str):
        raise BadInput(f"{place}: column {column!r} holds {record[column]!r}, expected a text")
    return record[column]


def _listed(messages: Any, place: str) -> list[Any]:
    if not isinstance(messages, list | tuple) or not messages:
        raise BadInput(f"{place}: messages are {messages!r}, expected a list of role and content")
    return list(messages)


def _turns(messages: Any, place: str) -> tuple[tuple[str, str], ...]:
    turns = tuple(_turn(message, f"{place}, message {at}") for at, message in enumerate(_listed(messages, place)))
    roles = [role for role, _ in turns]
    before = [None, *roles]
    for at, role in enumerate(roles):
        allowed = _FOLLOWERS[before[at]]
        if role not in allowed:
            where = f"after {before[at]}" if before[at] else "at the beginning"
            raise BadInput(
                f"{place}, message {at} has the role {role!r} {where}: roles are in the wrong order, "
                f"expected {' or '.join(allowed)}"
            )
    if roles[-1] != ASSISTANT:
        raise BadInput(f"{place} has no answer: its last message is the {roles[-1]}'s, expected the assistant's")
    if not turns[-1][1].strip():
        raise BadInput(f"{place} has no answer: the assistant's last message is empty")
    return turns


_FOLLOWERS: dict[str | None, tuple[str, ...]] = {
    None: (SYSTEM, USER),
    SYSTEM: (USER,),
    USER: (ASSISTANT,),
    ASSISTANT: (USER, TOOL),
    TOOL: (ASSISTANT, TOOL),
}


def _turn(message: Any, place: str) -> tuple[str, str]:
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        raise BadInput(f"{place} is {message!r}, expected a role and a content")
    role, content = message["role"], message["content"]
    if role not in (SYSTEM, USER, ASSISTANT, TOOL):
        raise BadInput(f"{place} has the role {role!r}, expected system, user, assistant or tool")
    if not isinstance(content, str):
        raise BadInput(f"{place}: the content is {content!r}, expected a text")
    return role, content
