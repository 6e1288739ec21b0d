"""What is generated is what the model alone would write, row by row; metrics are those of their libraries."""

import peft
import pytest
import torch

import tiny_lm
from subspace_tuning.errors import BadInput
from subspace_tuning.judge import Generation
from subspace_tuning.judge.written import METRICS

PROMPTS = ["the", "the cat sat", "x", "yes no yes no"]
ROWS = [{"prompt": prompt, "completion": "the cat"} for prompt in PROMPTS]


def _model(**shape):
    return tiny_lm.model(initializer_range=0.5, **shape)


def _greedy(model, tokenizer, prompt: str, size: int) -> str:
    """One token after the other, without padding or cache."""
    ids = tokenizer.encode(prompt)
    start = len(ids)
    while len(ids) < start + size:
        with torch.no_grad():
            ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
        if ids[-1] == tokenizer.eos_token_id:
            ids.pop()
            break
    return tokenizer.decode(ids[start:], skip_special_tokens=True)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("pad", ["<pad>", None])
def test_every_row_is_written_as_if_alone(batch_size, pad):
    model, tokenizer = _model(), tiny_lm.tokenizer(pad_token=pad)
    verdict = Generation(max_new_tokens=12, batch_size=batch_size)(model, tokenizer, records=ROWS)
    assert verdict.texts == [_greedy(model, tokenizer, prompt, 12) for prompt in PROMPTS]
    assert tokenizer.padding_side == "right"
    assert tokenizer.pad_token == pad


def test_an_answer_ends_at_eos_and_at_a_stop_string():
    model, tokenizer = _model(), tiny_lm.tokenizer()
    whole = Generation(max_new_tokens=12)(model, tokenizer, records=ROWS).texts
    stop = whole[0][3:5]
    stopped = Generation(max_new_tokens=12, stop=(stop,))(model, tokenizer, records=ROWS).texts
    assert stopped == [text.partition(stop)[0] for text in whole]
    model.generation_config.eos_token_id = [tokenizer.encode(PROMPTS[0] + whole[0])[1], 1]
    assert Generation(max_new_tokens=12)(model, tokenizer, records=ROWS[:1]).texts == [""]


@pytest.mark.parametrize("config", [peft.PromptTuningConfig, peft.PrefixTuningConfig])
def test_soft_prompts_generate_too(config):
    model = peft.get_peft_model(_model(), config(task_type="CAUSAL_LM", num_virtual_tokens=3))
    tokenizer = tiny_lm.tokenizer()
    together = Generation(max_new_tokens=6)(model, tokenizer, records=ROWS)
    alone = Generation(max_new_tokens=6, batch_size=1)(model, tokenizer, records=ROWS)
    assert together.texts == alone.texts


def test_several_metrics_come_from_one_generation(monkeypatch):
    from subspace_tuning.judge import generation

    said = ["the cat", "the dog sat", "", "cat the"]
    calls = []
    monkeypatch.setattr(generation, "generate", lambda *args, **values: calls.append(1) or said)
    verdict = Generation(metrics=("rougeL", "exact_match", "chrf"))(_model(), tiny_lm.tokenizer(), records=ROWS)
    assert len(calls) == 1
    assert verdict.metric == "rougeL"
    assert verdict.per_row["exact_match"] == [1, 0, 0, 0]
    assert verdict.per_row["rougeL"] == pytest.approx([1, 0.4, 0, 0.5])
    assert verdict.metrics["exact_match"] == 0.25
    assert verdict.per_row["chrf"][0] == pytest.approx(100)


def test_extract_takes_the_last_match_of_both():
    judgement = Generation(extract=r"answer is (\w+)")
    assert judgement._extracted("the answer is a, no: the answer is b.") == "b"
    assert judgement._extracted("nothing") == ""
    with pytest.raises(BadInput, match="finds nothing in the answer 'the cat'"):
        judgement(_model(), tiny_lm.tokenizer(), records=ROWS)


def test_of_a_conversation_the_last_answer_is_asked_for(monkeypatch):
    from subspace_tuning.judge import generation

    given = []
    monkeypatch.setattr(generation, "generate", lambda m, t, prompts, **v: given.extend(prompts) or ["no"])
    turns = [("user", "a"), ("assistant", "yes"), ("user", "b"), ("assistant", "no")]
    rows = [{"messages": [{"role": role, "content": content} for role, content in turns]}]
    verdict = Generation()(_model(), tiny_lm.tokenizer(), records=rows)
    assert tiny_lm.tokenizer().decode(given[0]).endswith("<|assistant|>yes<eos>\n<|user|>b<eos>\n<|assistant|>")
    assert verdict.value == 1


def test_prompts_too_long_are_left_out_and_counted():
    long = {"prompt": "x" * 250, "completion": "a"}
    verdict = Generation(max_new_tokens=10)(_model(), tiny_lm.tokenizer(), records=[long, ROWS[0]])
    assert verdict.left_out == {"prompt longer than the model reads": 1}
    assert verdict.numbers == [1]
    with pytest.raises(BadInput, match="every prompt is longer than the 246 tokens"):
        Generation(max_new_tokens=10)(_model(), tiny_lm.tokenizer(), records=[long])


def test_a_row_left_out_does_not_shift_the_answers_of_others(monkeypatch):
    from tokenizers import normalizers

    from subspace_tuning.judge import generation

    tokenizer = tiny_lm.tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("z", "")
    rows = [{"prompt": "x", "completion": answer} for answer in ("zz", "the cat", "no")]
    monkeypatch.setattr(generation, "generate", lambda *args, **values: ["the cat", "yes"])
    verdict = Generation()(_model(), tokenizer, records=rows)
    assert verdict.per_row["exact_match"] == [1, 0]
    assert verdict.numbers == [1, 2]
    assert verdict.left_out == {"answer of which the tokenizer makes no token": 1}


def test_plain_texts_have_no_prompt():
    with pytest.raises(BadInput, match="generation needs a prompt"):
        Generation()(_model(), tiny_lm.tokenizer(), records=[{"text": "the"}])


def test_without_any_end_it_is_said():
    model = _model(eos_token_id=None)
    verdict = Generation(max_new_tokens=2)(model, tiny_lm.tokenizer(eos_token=None), records=ROWS)
    assert verdict.notes == ("there is no eos token: every answer runs to max_new_tokens",)


@pytest.mark.parametrize(
    ("name", "written", "answer", "score"),
    [
        ("exact_match", " the  cat\n", "the cat", 1),
        ("exact_match", "The cat", "the cat", 0),
        ("number_match", "so 3 + 4 = 7.0", "3 and 4\n#### 7", 1),
        ("number_match", "It is $1,000.", "#### 1000", 1),
        ("number_match", "#### -5 (of 9)", "-5", 0),
        ("number_match", "none", "#### 7", 0),
        ("rouge1", "the cat", "the cat", 1),
        ("rouge2", "a b c", "a b d", 0.5),
        ("chrf", "the cat", "the cat", 100),
        ("chrf", "", "the cat", 0),
    ],
)
def test_metrics(name, written, answer, score):
    scored = METRICS[name]([written], [answer])
    assert scored.value == pytest.approx(score)
    assert scored.rows == pytest.approx([score])


def test_a_metric_that_does_not_fit_is_one_sentence():
    with pytest.raises(BadInput, match="number_match does not fit: there is no number in the answer 'the cat'"):
        Generation(metrics=("number_match",), max_new_tokens=2)(_model(), tiny_lm.tokenizer(), records=ROWS)
