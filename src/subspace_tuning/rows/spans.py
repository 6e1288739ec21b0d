"""A row as text in spans, of which it is known what the model is given and what it is to write."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

from jinja2 import TemplateError

from subspace_tuning.errors import BadInput
from subspace_tuning.rows.forms import ASSISTANT, Conversation, Row

# for tokenizers that carry no chat template
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token or '' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


_OTHER = "\ue000"  # an answer that no text holds


class Kind(IntEnum):
    """What a token is to the model."""

    PROMPT = 0  # given
    ANSWER = 1  # of an answer's own content
    MARK = 2  # written by the model too, but by the template's rule: the end of an answer, above all


class Span(NamedTuple):
    text: str
    kind: Kind


def template_of(tokenizer: Any) -> str | None:
    """The default template where the tokenizer has none; None for its own."""
    return None if getattr(tokenizer, "chat_template", None) else TEMPLATE


def spans(row: Row, tokenizer: Any, *, answers: str = "all", template: str | None = None) -> list[Span]:
    """The spans of a row; joined, they are what the chat template writes.

    answers: of a conversation all answers, or the ``last`` one. template: a chat template instead of the tokenizer's.
    Raises BadInput where the template fails, or rewrites the beginning of a conversation as it goes on.
    """
    if not isinstance(row, Conversation):
        given = [Span(row.prompt, Kind.PROMPT)] if row.prompt else []
        return [*given, Span(row.answer, Kind.ANSWER), *_end(tokenizer)]
    ends = [at for at, (role, _) in enumerate(row.turns) if role == ASSISTANT]
    found: list[Span] = []
    done = ""
    for at in ends if answers == "all" else ends[-1:]:
        before = written(row.turns[:at], tokenizer, opens=True, template=template)
        upto = written(row.turns[: at + 1], tokenizer, template=template)
        if not before.startswith(done):
            raise BadInput(
                f"the chat template writes what stands before message {at} otherwise once the conversation goes on, so "
                "that earlier answers have no one place; give another template, or take answers: last"
            )
        if not upto.startswith(before):
            raise BadInput(
                f"what the chat template writes to open an answer is not how message {at}, an answer, begins; "
                "give another template"
            )
        other = written((*row.turns[:at], (ASSISTANT, _OTHER)), tokenizer, template=template)
        parts = _parts(upto[len(before) :], row.turns[at][1], other[len(before) :])
        found += [Span(before[len(done) :], Kind.PROMPT), *parts]
        done = upto
    return [span for span in found if span.text]


def written(
    turns: tuple[tuple[str, str], ...], tokenizer: Any, *, opens: bool = False, template: str | None = None
) -> str:
    """Turns as the chat template writes them; ``opens``: up to where the assistant's answer begins."""
    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=opens, chat_template=template or template_of(tokenizer)
        )
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        roles = ", ".join(role for role, _ in turns)
        raise BadInput(f"the chat template fails on a conversation of {roles}: {said}; give another one") from error


def _parts(text: str, content: str, other: str) -> list[Span]:
    """What the model writes: an answer's own content between marks, which are those around the other answer too."""
    before, _, after = other.partition(_OTHER)
    inner = text[len(before) : len(text) - len(after)]
    if text != before + inner + after or inner.strip() != content.strip():
        return [Span(text, Kind.ANSWER)]  # the template writes answers in its own words
    return [Span(before, Kind.MARK), Span(inner, Kind.ANSWER), Span(after, Kind.MARK)]


def _end(tokenizer: Any) -> list[Span]:
    if tokenizer.eos_token is None:
        return []
    return [Span(tokenizer.eos_token, Kind.MARK)]
