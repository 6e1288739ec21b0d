"""Laws of runs of language models: what is trained on, how it is judged, what is kept, that it can be used."""

import json

import pytest
import torch

import tiny_sft
from command import subspace
from subspace_tuning.errors import BadInput
from subspace_tuning.judge import Verdict, from_data
from subspace_tuning.run import base_verdicts
from subspace_tuning.run.chat import Chat
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.predict import Predictor
from subspace_tuning.run.pretrained import load_tokenizer
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from subspace_tuning.tasks import task_of

TEXTS = [{"text": f"the cat sat on {number}"} for number in range(6)]
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBSPACE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def texts(tmp_path):
    return str(tiny_sft.write(tmp_path / "texts.jsonl", TEXTS))


def trained(folder, **values):
    return run(make(tiny_sft.recipe(folder, **values)))


def test_a_run_is_judged_by_its_answers_and_by_what_it_keeps(tmp_path, texts):
    kept = [{"judge": "bits_per_byte", "data": texts, "name": "texts"}]
    result = trained(tmp_path, retention=kept, method="full", learning_rate=0.003)
    verdicts = json.loads((tmp_path / "run" / "verdicts.json").read_text())
    assert result.metric == "neg_bits_per_byte"
    assert result.score == -verdicts["target"]["bits_per_byte"]["value"]
    assert len(verdicts["target"]["bits_per_byte"]["per_row"]["bits_per_byte"]) == 8
    change = result.retention["texts"]
    assert change["before"] == verdicts["before"]["texts"]["value"] != change["after"]
    assert change["difference"] == change["after"] - change["before"]
    assert RunFolder(tmp_path / "run").result() == result


def test_the_base_is_a_contender_and_judged_once(tmp_path, texts, monkeypatch):
    kept = [{"judge": "bits_per_byte", "data": texts}]
    base = trained(tmp_path, retention=kept, method="none", output=str(tmp_path / "base"))
    assert (base.method, base.steps, base.trainable) == ("none", 0, 0)
    assert base.retention["bits_per_byte texts"]["difference"] == 0
    assert sorted(p.name for p in (tmp_path / "base").iterdir()) == ["config.yaml", "result.json", "verdicts.json"]
    monkeypatch.setattr(base_verdicts, "write", lambda *_: pytest.fail("judged again"))
    again = trained(tmp_path, retention=kept, method="none", seed=1, output=str(tmp_path / "again"))
    assert again.score == base.score
    after = trained(tmp_path, retention=kept)
    assert after.retention["bits_per_byte texts"]["before"] == base.retention["bits_per_byte texts"]["after"]
    assert Predictor(tmp_path / "base")(["the cat"])[0].answer is not None


def test_what_was_kept_of_the_base_goes_by_its_content(tmp_path, texts):
    first = trained(tmp_path, method="none", output=str(tmp_path / "first"))
    tiny_sft.model(tmp_path / "model", hidden_size=24)
    assert trained(tmp_path, method="none", output=str(tmp_path / "second")).score != first.score


@pytest.mark.parametrize("values", [{"mpc": "o", "method": {"name": "lora", "r": 2}}, {"method": "adalora|ssb"}])
def test_methods_with_steps_train(tmp_path, values):
    assert trained(tmp_path, **values).steps == 3


def test_the_loss_is_on_completions_unless_told(tmp_path):
    tokenizer = load_tokenizer(str(tiny_sft.model(tmp_path / "model")))
    rows = [{"prompt": "the cat", "completion": " sat"}]
    [row] = task_of("sft").encode(rows, tokenizer, None)
    learnt = [token for token in row["labels"] if token != -100]
    assert tokenizer.decode(learnt) == " sat<eos>"
    [row] = task_of("sft", {"loss_on": "all"}).encode(rows, tokenizer, None)
    assert row["labels"] == row["input_ids"]


def test_cloze_teaches_the_text_of_the_right_option(tmp_path):
    tokenizer = load_tokenizer(str(tiny_sft.model(tmp_path / "model")))
    [row] = task_of("sft", {"form": "cloze"}).encode(tiny_sft.choices(1), tokenizer, None)
    learnt = [token for token in row["labels"] if token != -100]
    question = tiny_sft.choices(1)[0]
    right = question["choices"]["text"]["ABCD".index(question["answerKey"])]
    assert tokenizer.decode(learnt) == f" {right}<eos>"
    assert tokenizer.decode(row["input_ids"]).startswith(f"Question: {question['question']}\nAnswer:")


def test_searches_are_judged_by_held_out_training_rows_alone(tmp_path, texts):
    choices = str(tiny_sft.data(tmp_path / "choices", tiny_sft.choices, train=20, test=8))
    told = [{"judge": "multiple_choice"}, {"judge": "bits_per_byte", "data": texts}]
    values = {
        "data": choices,
        "form": "cloze",
        "evaluate": told,
        "retention": [{"judge": "bits_per_byte", "data": texts, "name": "kept"}],
    }
    tuning = trained(tmp_path, hold_out=True, output=str(tmp_path / "tuning"), **values)
    final = trained(tmp_path, output=str(tmp_path / "final"), **values)
    assert {label: v["rows"] for label, v in tuning.verdicts.items()} == {"multiple_choice": 4}
    assert tuning.retention == {}
    assert {label: v["rows"] for label, v in final.verdicts.items()} == {"multiple_choice": 8, "bits_per_byte texts": 6}
    assert final.metric == tuning.metric == "accuracy"


def losses(folder):
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return torch.tensor([line["loss"] for line in lines if "loss" in line])


def test_packed_rows_do_not_see_each_other(tmp_path):
    """All rows in one batch: packed or not, the first loss is the mean over the same tokens."""
    whole = {"max_steps": 2, "batch_size": 24, "method": "full", "schedule": "constant", "learning_rate": 1e-3}
    trained(tmp_path / "apart", **whole, group_by_length=False)
    trained(tmp_path / "packed", **whole, packing=True, max_length=200)
    torch.testing.assert_close(losses(tmp_path / "packed"), losses(tmp_path / "apart"), rtol=1e-4, atol=1e-4)


def test_gradient_checkpointing_changes_nothing(tmp_path):
    trained(tmp_path / "kept", method="ssb|lora", max_steps=3)
    trained(tmp_path / "recomputed", method="ssb|lora", max_steps=3, gradient_checkpointing=True)
    torch.testing.assert_close(losses(tmp_path / "kept"), losses(tmp_path / "recomputed"))


def test_a_half_precision_base_trains_a_single_precision_adapter(tmp_path):
    from safetensors.torch import load_file

    trained(tmp_path, dtype="bf16", max_steps=1)
    held = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in held.values()} == {torch.float32}
    assert Predictor(tmp_path / "run").model.dtype == torch.bfloat16


@pytest.mark.parametrize("method", ["ssb", "full"])
def test_preferences_are_learnt_against_the_base(tmp_path, method):
    data = str(tiny_sft.data(tmp_path / "pairs", tiny_sft.preferences))
    result = trained(tmp_path, task="dpo", data=data, method=method, max_steps=6)
    assert (result.metric, result.score) == ("reward_accuracy", 1.0)
    if method == "ssb":
        assert not (tmp_path / "run" / "adapter" / "ref").exists()
        assert losses(tmp_path)[0] == pytest.approx(0.6931, abs=1e-3)  # log 2: nothing is preferred yet


def test_resuming_is_going_on(tmp_path):
    from transformers import TrainerCallback

    class Cut(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 4:
                raise KeyboardInterrupt

    values = {"max_steps": 6, "save_every": 2, "method": "lora"}
    whole = trained(tmp_path, **values)
    cut = make(tiny_sft.recipe(tmp_path, **values, output=str(tmp_path / "cut")))
    with pytest.raises(KeyboardInterrupt):
        run(cut, callbacks=[Cut()])
    result = run(cut)
    assert result.resumed_from_step == 2
    assert result.score == whole.score


def test_predict_evaluate_chat(tmp_path, monkeypatch):
    trained(tmp_path, max_steps=1)
    path = str(tmp_path / "run")
    code, out, err = subspace("predict", path, "the cat", "--max-new-tokens", "3", "--json")
    assert code == 0, err
    assert isinstance(json.loads(out)[0]["answer"], str)
    code, out, err = subspace("evaluate", path, "--json")
    assert code == 0, err
    assert json.loads(out)["bits_per_byte"]["value"] == -RunFolder(path).result().score
    code, out, err = subspace(
        "evaluate", str(tmp_path / "model"), "--judge", f"bits_per_byte data={tmp_path}/data samples=4"
    )
    assert code == 0, err
    assert "on 4 rows" in out
    said = iter(["the cat", "/reset", "", "the", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(said))
    code, out, err = subspace("chat", path, "--max-new-tokens", "3")
    assert code == 0, err


def test_an_answer_can_be_stopped_and_stays_as_far_as_it_came(tmp_path):
    tokenizer = load_tokenizer(str(tiny_sft.model(tmp_path / "model")))
    talk = Chat(load(tmp_path), tokenizer, max_new_tokens=200)
    pieces = []

    def stop(text):
        pieces.append(text)
        raise KeyboardInterrupt

    talk.say("the cat", stop)
    assert [role for role, _ in talk.turns] == ["user", "assistant"]
    assert len(pieces) == 1
    talk.max_new_tokens = 40
    for _ in range(12):  # more than the model can read
        talk.say("the cat sat", lambda text: None)
    assert talk.turns[0][0] == "user"
    talk.reset()
    assert talk.turns == []


def load(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder / "model")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"evaluate": [{"judge": "bits"}]}, "unknown judgement 'bits'"),
        ({"evaluate": [{"judge": "bits_per_byte", "batch": 1}]}, "no field 'batch'"),
        ({"metric": "accuracy"}, "is told by no judgement"),
        ({"retention": [{"judge": "bits_per_byte"}]}, "both have a judgement"),
        ({"retention": [{"judge": "multiple_choice"}]}, "needs data"),
        ({"retention": [{"judge": "bits_per_byte", "data": "nowhere.jsonl"}]}, "there is no data file"),
        ({"method": "full", "dtype": "bf16"}, "bf16: true"),
        ({"loss_on": "answers"}, "loss_on"),
        ({"data": "nowhere/nothing"}, "cannot be loaded from the hub"),
        ({"trainer": {"packing": True}}, "packing"),
        ({"max_length": 2}, "cuts away the answer of every row"),
        ({"max_length": 400, "data": "LONG"}, "the model reads 256"),
        ({"task": "dpo"}, "no column 'prompt'"),
        ({"task": "classification", "labels": ["a", "b"], "evaluate": [{"judge": "bits_per_byte"}]}, "language models"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, values, said):
    if values.get("data") == "LONG":
        values = {**values, "data": str(tiny_sft.write(tmp_path / "long.jsonl", [{"text": "z" * 300}] * 6))}
    with pytest.raises(BadInput, match=said) as error:
        trained(tmp_path, **values)
    assert "\n" not in str(error.value)


def test_none_needs_no_head(tmp_path):
    import tiny

    with pytest.raises(BadInput, match="method: none"):
        run(make(tiny.recipe(tmp_path, method="none")))


@pytest.mark.parametrize(
    ("judgement", "times"),
    [
        ({"judge": "bits_per_byte", "data": "a.jsonl"}, 2),
        ({"judge": "lm_eval", "task": "a"}, 2),
        ({"judge": "lm_eval", "task": "a", "include": "own"}, 3),  # files that may change under their names
    ],
)
def test_the_base_is_judged_again_where_what_decides_it_may_have_changed(tmp_path, monkeypatch, judgement, times):
    monkeypatch.setattr(base_verdicts, "cache_folder", lambda: tmp_path / "cache")
    made = []
    folder = str(tiny_sft.model(tmp_path / "model"))

    def judge():
        made.append(1)
        return Verdict("a", "b", {"b": 1.0}, [0], {"b": [1.0]}, "")

    for release in ("1", "1", "2"):
        monkeypatch.setattr(base_verdicts, "VERSION", release)
        assert base_verdicts.kept(folder, {}, from_data(judgement), None, judge).value == 1
    assert len(made) == times


def test_an_answer_ends_where_the_model_says_that_it_does(tmp_path):
    tokenizer, model = load_tokenizer(str(tiny_sft.model(tmp_path / "model"))), load(tmp_path)
    first = Chat(model, tokenizer, max_new_tokens=1).say("the cat", lambda text: None)
    assert len(Chat(model, tokenizer, max_new_tokens=8).say("the cat", lambda text: None)) > len(first)
    model.generation_config.eos_token_id = list(range(320))
    assert Chat(model, tokenizer, max_new_tokens=8).say("the cat", lambda text: None) == first


def test_smollm2_alone_is_a_recipe():
    recipe = make({"model": "smollm2"}).resolved()
    assert (recipe.task, recipe.evaluate) == ("conversations", [{"judge": "bits_per_byte"}])
    assert make({"model": "smollm2", "task": "sft", "data": "x"}).task == "sft"
    assert make({}).task == "movie_reviews"
