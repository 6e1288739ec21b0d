"""A judgement is plain data and back; a verdict can be written, read, and compared in pairs."""

import json

import pytest
import torch

import tiny_lm
from subspace_tuning.errors import BadInput, RunFailed
from subspace_tuning.judge import (
    JUDGEMENTS,
    BitsPerByte,
    Generation,
    LmEval,
    MultipleChoice,
    Verdict,
    from_data,
    several,
    to_data,
)

PLAIN = [
    {"judge": "bits_per_byte", "data": "rows.jsonl", "samples": 300, "answers": "last"},
    {"judge": "multiple_choice", "data": "folder", "normalise": "length", "name": "ARC"},
    {"judge": "generation", "data": "a/b", "subset": "main", "metrics": ["rougeL", "chrf"], "stop": "\n"},
    {"judge": "lm_eval", "task": "arc_easy", "shots": 5},
]
ROWS = [{"text": "the cat"}, {"text": "yes"}, {"text": "the cat sat"}]


@pytest.mark.parametrize("data", PLAIN, ids=lambda data: data["judge"])
def test_a_judgement_is_plain_data_and_back(data):
    judgement = from_data(data)
    assert isinstance(judgement, JUDGEMENTS[data["judge"]])
    written = json.loads(json.dumps(to_data(judgement)))
    assert from_data(written) == judgement
    assert from_data(judgement) is judgement


def test_any_number_is_called_by_its_labels():
    assert list(several(PLAIN)) == ["bits_per_byte rows", "ARC", "generation main", "lm_eval arc_easy"]
    assert list(several(PLAIN[1])) == ["ARC"]
    with pytest.raises(BadInput, match="two judgements are called 'ARC'"):
        several([PLAIN[1], PLAIN[1]])


def test_every_kind_is_here():
    assert {
        "bits_per_byte": BitsPerByte,
        "multiple_choice": MultipleChoice,
        "generation": Generation,
        "lm_eval": LmEval,
    } == JUDGEMENTS


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("bits_per_byte", "a judgement is a mapping with 'judge'"),
        ({"data": "x"}, "a judgement is a mapping with 'judge'"),
        ({"judge": "multiple_chioce"}, "unknown judgement .* did you mean 'multiple_choice'"),
        ({"judge": "bits_per_byte", "smples": 3}, "no field 'smples': did you mean 'samples'"),
        ({"judge": "bits_per_byte", "samples": 0}, "samples is 0: Input should be greater than 0"),
        ({"judge": "multiple_choice", "normalise": "bytes"}, "normalise is 'bytes': .* 'none', 'length' or 'tokens'"),
        ({"judge": "generation", "metrics": "rouge"}, "no metric 'rouge': did you mean 'rouge"),
        ({"judge": "generation", "metrics": []}, "name one or more of"),
        ({"judge": "generation", "stop": ""}, "would stop every answer"),
        ({"judge": "generation", "extract": "("}, "no regular expression"),
        ({"judge": "lm_eval"}, "needs the field 'task'"),
    ],
)
def test_what_is_no_judgement_is_one_sentence(data, said):
    with pytest.raises(BadInput, match=said) as told:
        from_data(data)
    assert "\n" not in str(told.value)


def test_without_data_there_is_nothing_to_judge():
    with pytest.raises(BadInput, match="bits_per_byte needs data"):
        BitsPerByte()(tiny_lm.model(), tiny_lm.tokenizer())


def test_samples_are_the_same_rows_for_every_kind(tmp_path):
    (tmp_path / "test.jsonl").write_text(
        "".join(json.dumps({"prompt": str(i), "completion": "a"}) + "\n" for i in range(9))
    )
    model, tokenizer = tiny_lm.model(), tiny_lm.tokenizer()
    kinds = (BitsPerByte, Generation)
    verdicts = [kind(data=str(tmp_path), samples=4)(model, tokenizer) for kind in kinds]
    assert verdicts[0].numbers == verdicts[1].numbers
    assert verdicts[0].data == verdicts[1].data
    assert verdicts[0].rows == 4


def test_a_verdict_is_written_and_read():
    verdict = BitsPerByte(name="texts")(tiny_lm.model(), tiny_lm.tokenizer(), records=ROWS)
    written = json.loads(json.dumps(verdict.to_data()))
    assert Verdict.from_data(written) == verdict
    assert written["value"] == verdict.value == verdict.metrics["bits_per_byte"]
    assert written["judge"] == "texts"


def test_verdicts_of_the_same_rows_are_compared_in_pairs():
    tokenizer = tiny_lm.tokenizer()
    a = BitsPerByte()(tiny_lm.model(), tokenizer, records=ROWS)
    b = BitsPerByte()(tiny_lm.model(intermediate_size=16), tokenizer, records=ROWS)
    assert a.pairs(b) == list(zip(a.per_row[a.metric], b.per_row[b.metric], strict=True))
    other = BitsPerByte()(tiny_lm.model(), tokenizer, records=ROWS[:2])
    with pytest.raises(BadInput, match="of different rows"):
        a.pairs(other)
    with pytest.raises(BadInput, match=r"no 'loss' of each row: .*there is bits_per_byte, bytes"):
        a.pairs(b, "loss")


QUESTION = {"question": "the", "choices": {"text": ["yes", "no"], "label": ["A", "B"]}, "answerKey": "A"}
ON = [
    (BitsPerByte(), ROWS),
    (MultipleChoice(), [QUESTION]),
    (Generation(max_new_tokens=2), [{"prompt": "a", "completion": "b"}]),
]


@pytest.mark.parametrize(("judgement", "rows"), ON, ids=lambda value: getattr(value, "kind", ""))
def test_a_model_that_says_nan_is_not_judged(judgement, rows):
    model = tiny_lm.model()
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(RunFailed, match="not numbers"):
        judgement(model, tiny_lm.tokenizer(), records=rows)


@pytest.mark.parametrize(("judgement", "rows"), ON, ids=lambda value: getattr(value, "kind", ""))
def test_the_tokenizer_of_another_model_is_one_sentence(judgement, rows):
    with pytest.raises(BadInput, match="the model knows 30 tokens: they do not belong together"):
        judgement(tiny_lm.model(vocab_size=30), tiny_lm.tokenizer(), records=rows)


@pytest.mark.parametrize(("judgement", "rows"), ON, ids=lambda value: getattr(value, "kind", ""))
def test_model_and_tokenizer_are_left_as_they_were(judgement, rows):
    model, tokenizer = tiny_lm.model().train(), tiny_lm.tokenizer(pad_token=None)
    model.lm_head.eval()
    tokenizer.padding_side = "left"
    modes = [module.training for module in model.modules()]
    told = []
    judgement(model, tokenizer, records=rows, progress=lambda *at: told.append(at))
    assert [module.training for module in model.modules()] == modes
    assert (tokenizer.padding_side, tokenizer.pad_token) == ("left", None)
    assert told[-1] == (len(rows), len(rows))
    ids = torch.tensor([[3, 4, 5]])
    model(ids, labels=ids).loss.backward()  # nothing of the judging stands in training's way
