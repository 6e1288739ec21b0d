"""Laws of a run: same seed, same score; interrupted or not; whole or not there at all."""

import json

import pytest
import torch
import yaml
from transformers import AutoModel, TrainerCallback

from subspace_tuning.errors import BadInput
from subspace_tuning.files.aside import whole_folder, write
from subspace_tuning.run.folder import Result, RunFolder
from subspace_tuning.run.predict import Predictor
from subspace_tuning.run.pretrained import load_model
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import encoded, fit_to_data, run
from tiny import data, jsonl, model, recipe, rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of one finished run and its result."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, run(make(recipe(folder)))


def test_a_run_is_a_folder(finished):
    folder, result = finished
    path = folder / "run"
    assert sorted(p.name for p in path.iterdir()) == ["adapter", "config.yaml", "metrics.jsonl", "result.json"]
    assert Result.from_json((path / "result.json").read_text()) == result
    config = yaml.safe_load((path / "config.yaml").read_text())
    assert config["method"] == {"name": "ssb"}
    assert config["learning_rate"] == 0.01
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    assert any("loss" in line for line in lines)
    assert any("eval_accuracy" in line for line in lines)
    assert not list(path.rglob("*.bin")) + list(path.rglob("*.pt")) + list(path.rglob("*.pth"))


def test_result_says_what_was_trained(finished):
    _, result = finished
    in_block = 16 * 3 + 16 * 2 + 24  # key, value and first feed-forward: each n + m
    assert result.trainable == 2 * in_block
    assert result.trainable_with_head == result.trainable + 2 * 16 + 2
    assert result.permille == 1000 * result.trainable / result.total
    assert (result.method, result.category, result.metric, result.seed) == ("ssb", "reconstruction", "accuracy", 0)
    assert result.steps == 12
    assert result.checkpoint == "last"
    assert result.peak_memory_mb > 0
    assert result.seconds >= result.seconds_per_step > 0
    assert {"torch", "transformers", "peft", "subspace-tuning"} <= set(result.versions)


def test_the_linear_probe_trains_the_head_alone(tmp_path):
    result = run(make(recipe(tmp_path, method="head", epochs=1)))
    assert (result.method, result.category, result.trainable, result.trainable_with_head) == ("head", "head", 0, 34)
    start = AutoModel.from_pretrained(tmp_path / "model")
    trained = AutoModel.from_pretrained(tmp_path / "run" / "model")
    for (name, before), after in zip(start.named_parameters(), trained.parameters(), strict=True):
        assert torch.equal(before, after), name
    assert Predictor(tmp_path / "run")([("a good film",)])


def test_same_seed_same_score_another_seed_another_model(finished, tmp_path):
    folder, result = finished
    again = run(make(recipe(folder, output=str(tmp_path / "a"))))
    other = run(make(recipe(folder, output=str(tmp_path / "b"), seed=1)))
    weights = [(p / "adapter" / "adapter_model.safetensors").read_bytes() for p in (folder / "run", tmp_path / "a")]
    assert again.score == result.score
    assert again.config_hash == result.config_hash
    assert weights[0] == weights[1]
    assert other.config_hash != result.config_hash


def test_it_learns(finished, tmp_path):
    folder, _ = finished
    result = run(make(recipe(folder, method="lora", learning_rate=0.02, epochs=8, output=str(tmp_path / "run"))))
    assert result.score > 0.75


class Interrupt(TrainerCallback):
    """Stops the run as Ctrl-C does, after some step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


ADALORA = {"name": "adalora", "r": 2, "init_r": 4, "delta_t": 2}  # remembers something from step to step


@pytest.mark.parametrize("method", ["ssb", "full", ADALORA], ids=["ssb", "full", "adalora"])
def test_interrupted_run_goes_on_to_the_same_end(finished, tmp_path, method):
    folder, _ = finished
    values = recipe(folder, method=method, output=str(tmp_path / "run"))
    whole = run(make({**values, "output": str(tmp_path / "whole")}))
    with pytest.raises(KeyboardInterrupt):
        run(make(values), callbacks=[Interrupt(9)])
    assert not (tmp_path / "run" / "result.json").exists()
    said = []
    result = run(make(values), say=said.append)
    assert result.resumed_from_step == 6
    assert "goes on from checkpoint-6" in said[0]
    assert result.score == whole.score
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    kind = "model/model" if method == "full" else "adapter/adapter_model"
    a, b = ((tmp_path / name / f"{kind}.safetensors").read_bytes() for name in ("run", "whole"))
    assert a == b


def test_metrics_show_the_penalty_on_its_own(finished, tmp_path):
    folder, _ = finished
    run(make(recipe(folder, method=ADALORA, output=str(tmp_path / "run"), log_every=3)))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    penalties = [line["penalty"] for line in lines if "loss" in line]
    assert len(penalties) == 4
    assert all(0.1 < p < 0.3 for p in penalties)  # 0.1 times norms of 4 x 4 matrices near I, at first


def test_finished_run_is_read_not_run_again(finished):
    folder, result = finished
    said = []
    assert run(make(recipe(folder)), callbacks=[Interrupt(1)], say=said.append) == result
    assert "finished already" in said[0]


def test_full_fine_tuning_trains_everything(finished, tmp_path):
    folder, _ = finished
    result = run(make(recipe(folder, method="full", output=str(tmp_path / "run"))))
    assert result.permille == 1000
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert (tmp_path / "run" / "model" / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    "changes",
    [
        {"method": {"name": "flora", "r": 2}, "mpc": "o"},
        {"method": "ssb|lora"},
        {"method": "bitfit"},
        {"method": {"name": "lora", "r": 4}, "target_modules": ["query"], "rank_pattern": {"layer.1.*query": 2}},
        {"method": "ssb", "checkpoint": "best", "early_stopping": 1, "epochs": 4},
        {"method": "ssb", "bf16": "auto"},
        {"method": "ssb", "bf16": True, "gradient_accumulation": 2, "gradient_checkpointing": True},
        {"columns": ["text", "other"], "metric": "f1"},
        {"task": "regression", "labels": None, "columns": ["text", "other"], "label": "number"},
        {"max_steps": 3, "evaluate_every": "end", "save_every": "never", "group_by_length": False},
        {"trainer": {"lr_scheduler_type": "cosine"}, "evaluate_every": 4},
    ],
)
def test_what_a_recipe_can_say(finished, tmp_path, changes):
    folder, _ = finished
    result = run(make(recipe(folder, **{"epochs": 1, "output": str(tmp_path / "run"), **changes})))
    assert -1 <= result.score <= 1
    assert RunFolder(tmp_path / "run").result() == result


def test_a_regression_starts_at_the_mean_of_its_labels(finished):
    folder, _ = finished
    change = {"task": "regression", "labels": None, "columns": ["text", "other"], "label": "number"}
    given = make(recipe(folder, **change)).resolved()
    rows, _ = encoded(given, given.task_object())
    mean = sum(row["labels"] for row in rows) / len(rows)
    pretrained = load_model(given.model, given.task_object())
    fit_to_data(pretrained, given)
    assert pretrained.model.classifier.bias.tolist() == pytest.approx([mean])
    with torch.no_grad():
        pretrained.model.classifier.bias.fill_(0.25)
    fit_to_data(pretrained, given)
    assert pretrained.model.classifier.bias.tolist() == [0.25], "a head that knows something keeps it"


def test_pooler_that_the_checkpoint_lacks_belongs_to_the_head(tmp_path):
    from safetensors.torch import load_file, save_file

    values = recipe(tmp_path)
    weights = tmp_path / "model" / "model.safetensors"
    save_file({k: v for k, v in load_file(weights).items() if "pooler" not in k}, weights, {"format": "pt"})
    result = run(make(values))
    assert result.trainable_with_head - result.trainable == (2 * 16 + 2) + (16 * 16 + 16)
    saved = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert any("pooler" in name for name in saved)


def test_decoder_without_a_padding_token(tmp_path):
    from transformers import AutoTokenizer, GPT2Config, GPT2Model

    values = recipe(tmp_path, epochs=1, modules_to_save=["ln_f"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    tokenizer.save_pretrained(tmp_path / "gpt2")
    shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": len(tokenizer)}
    GPT2Model(GPT2Config(**shape, eos_token_id=3, pad_token_id=None)).save_pretrained(tmp_path / "gpt2")
    result = run(make({**values, "model": str(tmp_path / "gpt2")}))
    assert result.trainable == 2 * ((16 + 48) + (16 + 64)) + 2 * 16
    assert result.trainable_with_head == result.trainable + 2 * 16
    assert Predictor(tmp_path / "run")([("a film",), ("the film was a great story",)])[0].answer in ("bad", "good")


def test_model_with_another_head_gets_a_new_one(tmp_path):
    values = recipe(tmp_path, epochs=1)
    first = run(make({**values, "method": "full"}))
    jsonl(tmp_path / "three.jsonl", [{"text": r["text"], "label": i % 3} for i, r in enumerate(rows(60))])
    other = {"data": str(tmp_path / "three.jsonl"), "labels": ["a", "b", "c"], "output": str(tmp_path / "second")}
    result = run(make({**values, "model": str(tmp_path / "run" / "model"), **other}))
    assert first.trainable == result.total
    assert result.trainable_with_head - result.trainable == 3 * 16 + 3


def test_held_out_rows_come_from_the_training_rows(tmp_path):
    (tmp_path / "model").mkdir()
    model(tmp_path / "model")
    data(tmp_path / "data", train=60, validation=10)
    from subspace_tuning.tasks import load

    task = make(recipe(tmp_path)).task_object()
    train, validation = load(task, str(tmp_path / "data"), hold_out=True)
    assert (len(train), len(validation)) == (48, 12)


def test_changed_data_is_read_anew(tmp_path):
    from subspace_tuning.run.train import encoded

    values = make(recipe(tmp_path))
    task = values.task_object()
    first = encoded(values, task)
    assert encoded(values, task) is first
    jsonl(tmp_path / "data" / "train.jsonl", rows(10))
    assert len(encoded(values, task)[0]) == 10


def test_again_removes_runs_only(tmp_path):
    values = recipe(tmp_path, epochs=1)
    run(make(values))
    assert run(make({**values, "seed": 1}), again=True).seed == 1
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "weights").touch()
    with pytest.raises(BadInput, match="not a run"):
        run(make({**values, "output": str(tmp_path / "mine")}), again=True)
    (tmp_path / "mine" / "config.yaml").write_text("name: of something else")
    with pytest.raises(BadInput, match="unknown key 'name'"):
        run(make({**values, "output": str(tmp_path / "mine")}), again=True)
    assert (tmp_path / "mine" / "model" / "weights").exists()


def test_a_folder_is_whole_or_not_there(tmp_path):
    def fill(folder):
        (folder / "half").write_text("x")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"), whole_folder(tmp_path / "adapter") as folder:
        fill(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_whole_or_as_it_was(tmp_path):
    write(tmp_path / "a", "old")
    with pytest.raises(UnicodeEncodeError):
        write(tmp_path / "a", "new \ud800")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_several_runs_side_by_side(finished, tmp_path):
    from subspace_tuning.run.side_by_side import run_all

    folder, alone = finished
    good = make(recipe(folder, output=str(tmp_path / "good")))
    bad = make(recipe(folder, output=str(tmp_path / "bad"), data=str(tmp_path / "nowhere")))
    outcomes = dict(run_all([good, bad], workers=2))
    assert outcomes[0].score == alone.score
    assert "nowhere" in str(outcomes[1])


@pytest.mark.parametrize(("told", "each"), [("", 2), ("3", 3), ("0", 2), ("many", 2)])
def test_processes_take_the_threads_that_are_told_or_share_the_cores(told, each, monkeypatch):
    from subspace_tuning.run import side_by_side

    monkeypatch.setattr(side_by_side, "cores", lambda: 5)
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert side_by_side.threads_each(2) == each


@pytest.mark.parametrize("units", [True, False])
def test_bf16_is_computed_where_the_machine_has_units_for_it_or_is_told_to(units, finished, tmp_path, monkeypatch):
    from subspace_tuning.run import precision, train
    from subspace_tuning.run import recipe as recipes

    for room in (precision, recipes, train):
        monkeypatch.setattr(room, "has_bf16", lambda: units)
    folder, _ = finished
    told = {}
    for bf16 in ("auto", True, False):
        values = recipe(folder, epochs=1, max_steps=1, bf16=bf16, output=str(tmp_path / str(bf16)))
        said = []
        run(make(values), say=said.append)
        assert make(values).in_bf16 is (units if bf16 == "auto" else bf16)
        assert RunFolder(tmp_path / str(bf16)).recipe().bf16 is (units if bf16 == "auto" else bf16)
        told[bf16] = any("without units" in text for text in said)
    assert told == {"auto": False, True: not units, False: False}
