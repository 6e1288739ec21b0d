"""A task of lm-eval gives what our own judgement of the same rows gives, or a sentence that says what is missing."""

import json
import sys

import peft
import pytest

import tiny_lm
from subspace_tuning.errors import BadInput
from subspace_tuning.judge import LmEval, MultipleChoice, from_data

TASK = """\
task: cats
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices.text}}}}"
doc_to_target: "{{{{choices.label.index(answerKey)}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
ROWS = [
    {
        "question": f"the cat {i}",
        "choices": {"text": ["yes", "no", "sat"], "label": ["A", "B", "C"]},
        "answerKey": "ABC"[i % 3],
    }
    for i in range(6)
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "cats.yaml").write_text(TASK.format(rows=tmp_path / "rows.jsonl"))
    return str(tmp_path)


def test_the_harness_agrees_with_our_own(folder):
    adapter = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False)
    model = peft.get_peft_model(tiny_lm.model(), adapter).train()
    tokenizer = tiny_lm.tokenizer(pad_token=None)
    told = []
    verdict = from_data({"judge": "lm_eval", "task": "cats", "include": folder})(
        model, tokenizer, progress=lambda *at: told.append(at)
    )
    ours = MultipleChoice()(model, tokenizer, records=ROWS)
    assert verdict.metric == "acc"
    assert verdict.per_row["acc"] == ours.per_row["accuracy"]
    assert verdict.numbers == ours.numbers
    assert verdict.metrics == {"acc": ours.value}
    assert told == [(6, 6)]
    assert model.training
    assert (tokenizer.padding_side, tokenizer.pad_token) == ("right", None)
    assert LmEval(task="cats", include=folder, samples=2)(model, tokenizer).rows == 2
    with pytest.raises(BadInput, match="has no metric 'accc': did you mean 'acc'"):
        LmEval(task="cats", include=folder, samples=1, metric="accc")(model, tokenizer)


def test_a_folder_that_is_not_there_is_said(folder):
    with pytest.raises(BadInput, match="no folder of task files"):
        LmEval(task="cats", include=folder + "/no")(None, tiny_lm.tokenizer())


def test_without_the_package_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(BadInput, match=r"pip install 'subspace-tuning\[lm-eval\]'"):
        LmEval(task="cats")(tiny_lm.model(), tiny_lm.tokenizer())
