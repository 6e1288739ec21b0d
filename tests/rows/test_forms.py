"""A row is told from its columns; what is none is one sentence that names it."""

import pytest

from subspace_tuning.errors import BadInput
from subspace_tuning.rows import Conversation, Plain, Records, row_of, rows_of

USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
TURNS = (("user", "q"), ("assistant", "a"))


@pytest.mark.parametrize(
    ("record", "row"),
    [
        ({"messages": [USER, ASSISTANT]}, Conversation(TURNS)),
        ({"messages": [{"role": "system", "content": "s"}, USER, ASSISTANT]}, Conversation((("system", "s"), *TURNS))),
        ({"messages": [USER, ASSISTANT] * 2}, Conversation(TURNS * 2)),
        ({"prompt": "q", "completion": "a"}, Plain("q", "a")),
        ({"prompt": [USER], "completion": [ASSISTANT]}, Conversation(TURNS)),
        ({"instruction": "q", "output": "a"}, Conversation(TURNS)),
        ({"instruction": "q", "input": "", "output": "a", "answer": "b"}, Conversation(TURNS)),
        ({"instruction": "q", "input": "i", "output": "a"}, Conversation((("user", "q\n\ni"), ("assistant", "a")))),
        ({"question": "q", "answer": "a"}, Conversation(TURNS)),
        ({"text": "a"}, Plain("", "a")),
    ],
)
def test_a_row_is_told_from_its_columns(record, row):
    assert row_of(record) == row


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"question": "q"}, "has the columns question; expected messages"),
        ({}, "has the columns none"),
        ({"prompt": "q"}, "no answer: its column 'completion' is missing"),
        ({"prompt": "q", "completion": None}, "no answer: its column 'completion' is empty"),
        ({"instruction": "q", "output": ""}, "no answer"),
        ({"text": ""}, "no answer"),
        ({"text": 3}, "holds 3, expected a text"),
        ({"prompt": [USER], "completion": "a"}, "expected as one too"),
        ({"messages": []}, "expected a list of role and content"),
        ({"messages": "hi"}, "expected a list of role and content"),
        ({"messages": [{"content": "q"}]}, "message 0 is .* expected a role and a content"),
        ({"messages": [{"role": "user", "content": None}]}, "the content is None"),
        ({"messages": [{"role": "bot", "content": "q"}]}, "has the role 'bot'"),
        ({"messages": [USER]}, "no answer: its last message is the user's"),
        ({"messages": [USER, {**ASSISTANT, "content": ""}]}, "last message is empty"),
        ({"messages": [ASSISTANT, USER]}, "message 0 .* at the beginning: roles are in the wrong order"),
        ({"messages": [USER, USER, ASSISTANT]}, "message 1 .* after user: roles are in the wrong order"),
        ({"messages": [USER, ASSISTANT, {"role": "system", "content": "s"}]}, "wrong order"),
    ],
)
def test_what_is_no_row_is_one_sentence(record, said):
    with pytest.raises(BadInput, match=said) as told:
        rows_of(Records.of([{"text": "fine"}, record], "file.jsonl"))
    assert str(told.value).startswith("file.jsonl, row 2")
