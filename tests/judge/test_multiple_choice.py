"""The likeliest option is that of the plain computation, whatever the batches; the template decides what is read."""

import numpy as np
import pytest
import torch

import tiny_lm
from subspace_tuning.errors import BadInput
from subspace_tuning.judge import MultipleChoice

OPTIONS = ["yes", "no", "the cat sat", "the cat", "é"]
ROWS = [
    {
        "question": f"the cat {'the ' * i}{i}?",
        "choices": {"text": OPTIONS, "label": list("ABCDE")},
        "answerKey": "ABCDE"[i % 5],
    }
    for i in range(8)
]


def _plain(model, tokenizer, before: str, option: str) -> tuple[float, int]:
    """log p of an option and its number of tokens: the whole sequence alone, with all logits."""
    given, ids = tokenizer.encode(before), tokenizer.encode(before + option)
    with torch.no_grad():
        log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    judged = range(len(given), len(ids))
    return sum(log_probs[at - 1, ids[at]].item() for at in judged), len(judged)


@pytest.mark.parametrize("batch_tokens", [1, 100, 4096])
def test_the_choice_is_that_of_the_plain_computation(batch_tokens):
    model, tokenizer = tiny_lm.model(initializer_range=0.3), tiny_lm.tokenizer()
    verdict = MultipleChoice(batch_tokens=batch_tokens)(model, tokenizer, records=ROWS)
    for at, row in enumerate(ROWS):
        found = [_plain(model, tokenizer, f"Question: {row['question']}\nAnswer:", f" {option}") for option in OPTIONS]
        raw, tokens = np.array(found).T
        right = "ABCDE".index(row["answerKey"])
        likely = np.exp(raw) / np.exp(raw).sum()
        assert verdict.per_row["probability"][at] == pytest.approx(likely[right], abs=1e-4)
        assert verdict.per_row["accuracy"][at] == (raw.argmax() == right)
        assert verdict.per_row["accuracy_per_token"][at] == ((raw / tokens).argmax() == right)
        sizes = [len(option.encode()) for option in OPTIONS]
        assert verdict.per_row["accuracy_per_byte"][at] == ((raw / sizes).argmax() == right)
    assert verdict.metrics == {name: pytest.approx(np.mean(values)) for name, values in verdict.per_row.items()}
    assert verdict.metrics["chance"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("normalise", "metric"),
    [("none", "accuracy"), ("length", "accuracy_per_byte"), ("tokens", "accuracy_per_token")],
)
def test_the_main_metric_is_chosen_and_all_are_told(normalise, metric):
    verdict = MultipleChoice(normalise=normalise)(tiny_lm.model(), tiny_lm.tokenizer(), records=ROWS)
    assert verdict.metric == metric
    assert verdict.per_row.keys() == {"accuracy", "accuracy_per_byte", "accuracy_per_token", "probability", "chance"}


def test_the_same_is_said_twice_and_in_any_order():
    model, tokenizer = tiny_lm.model(), tiny_lm.tokenizer()
    first = MultipleChoice()(model, tokenizer, records=ROWS)
    assert MultipleChoice()(model, tokenizer, records=ROWS) == first
    turned = MultipleChoice()(model, tokenizer, records=ROWS[::-1])
    assert turned.per_row["probability"][::-1] == pytest.approx(first.per_row["probability"], abs=1e-5)


def _read(monkeypatch, judgement, rows=ROWS[:1]):
    """The texts that the model is given, of each option."""
    from subspace_tuning.judge import multiple_choice

    seen, encode = [], multiple_choice.tokens

    def noted(texts, tokenizer):
        seen.extend(tuple(span.text for span in parts) for parts in texts)
        return encode(texts, tokenizer)

    monkeypatch.setattr(multiple_choice, "tokens", noted)
    monkeypatch.setattr(multiple_choice, "_KEPT", type(multiple_choice._KEPT)())
    judgement(tiny_lm.model(max_position_embeddings=999), tiny_lm.tokenizer(), records=rows)
    return seen


def test_templates_decide_what_is_read(monkeypatch):
    asked = ROWS[0]["question"]
    assert _read(monkeypatch, MultipleChoice())[0] == (f"Question: {asked}\nAnswer:", " yes")
    lettered = MultipleChoice(template="{question}\n{options}\n=", option=" {letter}")
    assert _read(monkeypatch, lettered)[1] == (f"{asked}\nA. yes\nB. no\nC. the cat sat\nD. the cat\nE. é\n=", " B")
    chat = MultipleChoice(template="{question}", chat=True)
    assert _read(monkeypatch, chat)[1] == (f"<|user|>{asked}<eos>\n<|assistant|>", "no")


def test_a_template_with_other_fields_is_one_sentence():
    with pytest.raises(BadInput, match=r"cannot be filled .* its fields are \{question\}"):
        MultipleChoice(template="{q}")(tiny_lm.model(), tiny_lm.tokenizer(), records=ROWS)


def test_questions_too_long_are_left_out_and_counted():
    long = {**ROWS[0], "question": "x" * 300}
    verdict = MultipleChoice()(tiny_lm.model(), tiny_lm.tokenizer(), records=[long, ROWS[1]])
    assert verdict.left_out == {"question longer than the model reads": 1}
    assert verdict.numbers == [1]
    with pytest.raises(BadInput, match="every question is longer than the 256 tokens"):
        MultipleChoice()(tiny_lm.model(), tiny_lm.tokenizer(), records=[long])


@pytest.mark.parametrize("bos", [None, "<pad>"])
def test_options_that_nothing_stands_before_follow_the_beginning_of_a_text(bos):
    model, tokenizer = tiny_lm.model(initializer_range=0.3), tiny_lm.tokenizer(bos_token=bos)
    row = {"question": "q", "passage": "", "answer": True}
    found = MultipleChoice(template="{passage}")(model, tokenizer, records=[row, row])
    begin = tokenizer.eos_token if bos is None else bos
    no, yes = (np.exp(_plain(model, tokenizer, begin, option)[0]) for option in (" no", " yes"))
    assert found.per_row["probability"] == pytest.approx([yes / (no + yes)] * 2, abs=1e-4)
    with pytest.raises(BadInput, match="neither a bos nor an eos token"):
        MultipleChoice(template="{passage}")(model, tiny_lm.tokenizer(eos_token=None), records=[row])


def test_an_option_without_a_token_is_one_sentence():
    from tokenizers import normalizers

    tokenizer = tiny_lm.tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(" z", "")
    row = {"goal": "g", "sol1": "yes", "sol2": "z", "label": 0}
    with pytest.raises(BadInput, match="makes no token of the option ' z', so that it cannot be judged"):
        MultipleChoice()(tiny_lm.model(), tokenizer, records=[row])
