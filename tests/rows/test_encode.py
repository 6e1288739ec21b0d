"""What the model is given and what it writes is known of every token, under every template and tokenizer."""

import numpy as np
import pytest

import tiny_lm
from subspace_tuning.errors import BadInput
from subspace_tuning.rows import Kind, Records, encode
from subspace_tuning.rows.encode import tokens
from subspace_tuning.rows.spans import Span

TALK = {
    "messages": [
        {"role": "user", "content": "hé?"},
        {"role": "assistant", "content": "yo ☃"},
        {"role": "user", "content": "more"},
        {"role": "assistant", "content": "no"},
    ]
}
THINKING = (  # marks of the template's own before an answer, as Qwen3 has
    "{% for m in messages %}[{{ m['role'] }}]{% if m['role'] == 'assistant' %}<think></think>{% endif %}"
    "{{ m['content'] }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
FORGETFUL = (  # writes earlier answers otherwise than the last one
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] if loop.last or m['role'] == 'user' else '...' }}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def _one(record, tokenizer=None, **settings):
    tokenizer = tokenizer or tiny_lm.tokenizer()
    [row] = encode(Records.of([record]), tokenizer, **settings).rows
    return row, lambda kind: tokenizer.decode(row.ids[row.kinds == kind])


def test_a_conversation_is_what_its_template_writes():
    tokenizer = tiny_lm.tokenizer()
    row, of = _one(TALK, tokenizer)
    assert tokenizer.decode(row.ids) == tokenizer.apply_chat_template(TALK["messages"], tokenize=False)
    assert of(Kind.ANSWER) == "yo ☃no"
    assert of(Kind.MARK) == "<eos>\n<eos>\n"
    assert row.size == len("yo ☃no".encode())
    assert tokenizer.decode(row.prompt).endswith("<|user|>more<eos>\n<|assistant|>")


def test_the_last_answer_alone_can_count():
    _row, of = _one(TALK, answers="last")
    assert of(Kind.ANSWER) == "no"
    assert "yo ☃" in of(Kind.PROMPT)


def test_labels_are_for_a_loss_on_completions_only():
    row, _ = _one({"prompt": "the cat", "completion": " sat"})
    assert row.labels.tolist() == [-100, -100, *row.ids[2:].tolist()]
    assert row.completion_mask.tolist() == [0, 0, 1, 1]
    assert row.ids[-1] == 1  # an answer ends


def test_columns_are_those_that_trl_takes():
    encoding = encode(Records.of([TALK, {"text": "the cat"}]), tiny_lm.tokenizer())
    columns = encoding.as_columns()
    assert columns.keys() == {"input_ids", "labels"}
    for ids, labels in zip(columns["input_ids"], columns["labels"], strict=True):
        assert len(ids) == len(labels)
        assert {label in (-100, i) for i, label in zip(ids, labels, strict=True)} == {True}


def test_marks_before_an_answer_are_written_but_no_content():
    _row, of = _one(TALK, template=THINKING, answers="last")
    assert of(Kind.MARK) == "<think></think><eos>"
    assert of(Kind.ANSWER) == "no"


@pytest.mark.parametrize("answer", ["t", "e", "<", "assistant", " k "])
def test_answers_that_look_like_marks_are_told_from_them(answer):
    talk = {"messages": [TALK["messages"][0], {"role": "assistant", "content": answer}]}
    for template in (THINKING, tiny_lm.TEMPLATE, None):
        _, of = _one(talk, tiny_lm.tokenizer(template=template))
        assert of(Kind.ANSWER).strip() == answer.strip()  # one token may be a mark's blank and an answer's letter
        assert of(Kind.MARK).strip() == ("<think></think><eos>" if template == THINKING else "<eos>")


def test_answers_in_the_templates_own_words_count_whole():
    template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] | upper }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    _, of = _one(TALK, template=template, answers="last")
    assert of(Kind.ANSWER) == "NO"


def test_answers_without_a_token_are_counted():
    from tokenizers import normalizers

    tokenizer = tiny_lm.tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("z", "")
    tokenizer.eos_token = None
    rows = [{"prompt": "a", "completion": "zz"}, {"prompt": "a", "completion": "b"}]
    encoding = encode(Records.of(rows), tokenizer, ends=False)
    assert encoding.left_out == {"answer of which the tokenizer makes no token": 1}
    with pytest.raises(BadInput, match="makes no token of any answer"):
        encode(Records.of(rows[:1]), tokenizer, ends=False)


def test_a_template_that_rewrites_earlier_answers_is_found_out():
    with pytest.raises(
        BadInput, match=r"before message 3 otherwise once the conversation goes on.* take answers: last"
    ):
        _one(TALK, template=FORGETFUL)
    _row, of = _one(TALK, template=FORGETFUL, answers="last")
    assert of(Kind.ANSWER) == "no"


def test_a_template_that_opens_answers_otherwise_is_found_out():
    with pytest.raises(BadInput, match="to open an answer is not how message 1"):
        _one(TALK, template="{% for m in messages %}{{ m['content'] }}{% endfor %}{{ 'x' * add_generation_prompt }}")


@pytest.mark.parametrize("template", ["{{ raise_exception('no system role') }}", "{{ messages[0].absent.more }}"])
def test_a_template_that_fails_is_one_sentence(template):
    with pytest.raises(BadInput, match="the chat template fails on a conversation of user") as told:
        _one(TALK, template=template)
    assert "\n" not in str(told.value)


def test_without_a_template_the_default_one_is_said():
    encoding = encode(Records.of([TALK]), tiny_lm.tokenizer(template=None))
    assert "no chat template" in encoding.notes[0]
    text = tiny_lm.tokenizer().decode(encoding.rows[0].ids)
    assert text == "User: hé?\nAssistant: yo ☃<eos>\nUser: more\nAssistant: no<eos>\n"
    assert not encode(Records.of([{"text": "the"}]), tiny_lm.tokenizer(template=None)).notes


def test_no_token_reaches_over_the_border_of_a_prompt():
    given, answer = Span("th", Kind.PROMPT), Span("e cat", Kind.ANSWER)  # "the" is one token
    [(ids, kinds)] = tokens([[given, answer]], tiny_lm.tokenizer())
    assert tiny_lm.tokenizer().decode(ids[kinds == Kind.PROMPT]) == "th"
    assert tiny_lm.tokenizer().decode(ids) == "the cat"


def test_a_begin_of_text_stands_once():
    tokenizer = tiny_lm.tokenizer(bos_token="<bos>", template="<bos>{{ messages[0].content }}")
    tokenizer.add_tokens(["<bos>"], special_tokens=True)
    plain, _ = _one({"text": "the"}, tokenizer)
    assert plain.ids[0] != tokenizer.bos_token_id  # this tokenizer sets none
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )
    for record in ({"text": "the cat"}, {"text": "<bos>the cat"}):
        row, _ = _one(record, tokenizer)
        assert (row.ids == tokenizer.bos_token_id).sum() == 1
        assert row.kinds[0] == (Kind.PROMPT if record["text"] == "the cat" else Kind.ANSWER)


def test_answers_cut_by_max_length_are_counted():
    rows = [{"prompt": "x" * 4, "completion": "y" * 4}, {"prompt": "x" * 9, "completion": "y"}, {"text": "zz"}]
    encoding = encode(Records.of(rows), tiny_lm.tokenizer(), max_length=6)
    assert [row.number for row in encoding.rows] == [0, 2]
    assert encoding.left_out == {"answer cut away by max_length": 1, "answer cut short by max_length": 1}
    with pytest.raises(BadInput, match=r"max_length=3 cuts away the answer of every row; .* has 9 tokens"):
        encode(Records.of(rows[:1]), tiny_lm.tokenizer(), max_length=3)


def test_a_tokenizer_without_eos_cannot_end_an_answer():
    tokenizer = tiny_lm.tokenizer(eos_token=None)
    with pytest.raises(BadInput, match="no eos token"):
        encode(Records.of([{"text": "the"}]), tokenizer)
    [row] = encode(Records.of([{"text": "the"}]), tokenizer, ends=False).rows
    assert len(row) == 1


def test_encodings_are_kept_by_content():
    tokenizer, records = tiny_lm.tokenizer(), Records.of([TALK])
    first = encode(records, tokenizer)
    assert encode(Records.of([dict(TALK)]), tiny_lm.tokenizer()) is first
    assert encode(records, tokenizer, answers="last") is not first
    tokenizer.chat_template = THINKING
    assert not np.array_equal(encode(records, tokenizer).rows[0].ids, first.rows[0].ids)
