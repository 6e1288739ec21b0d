"""Bad input ends in one clear sentence and the right exit code, and nothing half-written stays behind."""

import errno
import json
import shutil

import pytest
import yaml
from safetensors import SafetensorError
from typer.testing import CliRunner

from subspace_tuning.cli import app
from subspace_tuning.errors import BadInput
from subspace_tuning.run import train
from subspace_tuning.run.recipe import make, override, read
from tiny import jsonl, model, recipe, rows

BAD, FAILED = 2, 1

SOFT_PROMPTS = ("prompt", "prefix", "p_tuning")


def said(*words, code):
    """The one sentence on standard error with which a command ends."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, (done.exit_code, done.output, done.exception)
    assert isinstance(done.exception, SystemExit), done.exception
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.output
    return sentence


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad-input")
    recipe(folder)
    return folder


@pytest.fixture(scope="module")
def finished(home):
    """A finished run of LoRA."""
    values = recipe(home, method="lora", epochs=1, output=str(home / "finished"))
    train.run(make(values))
    return home / "finished"


def trained(home, tmp_path, *words, code=BAD, **changes):
    """What `subspace train` says about a changed recipe, whose run must leave no result and no weights."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(home, **{"output": str(tmp_path / "run"), "epochs": 1, **changes})))
    sentence = said("train", path, *words, code=code)
    left = {p.name for p in (tmp_path / "run").rglob("*")} if (tmp_path / "run").exists() else set()
    assert left <= {"config.yaml", "metrics.jsonl", "checkpoints", "notes.txt"}
    return sentence


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "lorra"}, ["unknown method 'lorra'", "did you mean 'lora'?"]),
        ({"method": {"name": "lora", "rang": 4}}, ["'rang'", "its fields are"]),
        ({"method": "no_such_module:Method"}, ["cannot load the method", "no_such_module"]),
        ({"method": 3}, ["a method is a name", "3"]),
        ({"target_modules": ["no_such_layer"]}, ["no_such_layer"]),
        ({"method": {"name": "svft", "pattern": "banded", "d": 20}}, ["d=20", "16 x 16 weight"]),
        ({"method": {"name": "lora", "r": 0}}, ["the rank r is a whole number above 0", "r=0"]),
        ({"method": {"name": "lora", "r": -1}}, ["r=-1"]),
        ({"method": "ssb", "target_modules": ["LayerNorm"]}, ["LayerNorm", "sits on weight matrices"]),
        ({"method": "bitfit", "target_modules": ["word_embeddings"]}, ["sits on biases"]),
        ({"method": "ssb", "mpc": "o"}, ["mpc='o' needs factors A and B"]),
        ({"method": "lora", "mpc": "x"}, ["mpc", "'x'"]),
        ({"method": "full", "mpc": "o"}, ["method: full trains every weight"]),
        ({"method": "head", "target_modules": ["key"]}, ["method: head trains the head alone"]),
        ({"checkpoint": "best", "evaluate_every": "end"}, ["set evaluate_every"]),
        ({"early_stopping": 2}, ["set checkpoint: best"]),
        ({"epochs": "many"}, ["epochs", "'many'", "number"]),
        ({"batch_size": 0}, ["batch_size", "0"]),
        ({"method": "mam", "weight_decay": 0.1}, ["weight_decay: 0.1 does not lead back", "each query's attention"]),
        *(({"method": name, "weight_decay": 0.1}, ["weight_decay: 0.1 does not lead"]) for name in SOFT_PROMPTS),
        ({"learning_rate": -1}, ["learning_rate", "-1"]),
        ({"task": "cola "}, ["unknown task 'cola '", "did you mean 'cola'?"]),
        ({"task": "rte"}, ["has its own labels"]),
        ({"labels": ["only"]}, ["two names or more"]),
        ({"labels": ["a", "b", "a"]}, ["'a' stands there twice"]),
        ({"labels": ["a", ""]}, ["not empty"]),
        ({"encoding": "utf-9"}, ["'utf-9' is not known"]),
        ({"columns": []}, ["one or two columns"]),
        ({"columns": "text"}, ["columns is 'text'", "tuple"]),
        ({"task": "regression"}, ["regression has no 'labels'"]),
        ({"columns": ["text", "text"]}, ["another one of labels"]),
        ({"label": "text"}, ["another one of labels"]),
        ({"seed": -1}, ["seed is -1"]),
        ({"seed": 2**32}, ["seed is 4294967296"]),
        ({"learning_rate": float("inf")}, ["learning_rate is inf", "finite"]),
        ({"layers_to_transform": []}, ["layers_to_transform is []"]),
        ({"target_modules": "["}, ["target_modules holds '['", "no regular expression"]),
        ({"exclude_modules": "("}, ["exclude_modules holds '('", "no regular expression"]),
        ({"method": "lora", "rank_pattern": {"[": 2}}, ["rank_pattern holds '['", "no regular expression"]),
        ({"method": "lora", "alpha_pattern": {"*": 2.0}}, ["alpha_pattern holds '*'", "no regular expression"]),
        ({"target_modules": ["key", "valeu"]}, ["target_modules: 'valeu' matches no"]),
        ({"target_modules": ["key"], "layers_to_transform": [1, 7]}, ["layers_to_transform: 7 matches no"]),
        ({"target_modules": ["key", "value"], "exclude_modules": ["keys"]}, ["exclude_modules: 'keys' matches no"]),
        ({"modules_to_save": ["poller"]}, ["modules_to_save: 'poller' matches no module"]),
        (
            {"method": "lora", "target_modules": ["key"], "rank_pattern": {"query": 2}},
            ["rank_pattern: 'query' matches"],
        ),
        ({"method": "lora", "alpha_pattern": {"layer.9.*": 2.0}}, ["alpha_pattern: 'layer.9.*' matches no"]),
        ({"method": {"name": "lora", "alpha": "x"}}, ["alpha is 'x'"]),
        ({"method": {"name": "lora", "alpha": 1e300}}, ["alpha is 1e+300", "a finite number"]),
        ({"method": {"name": "lora", 1: 2}}, ["no field"]),
        ({"metric": "acuracy"}, ["did you mean 'accuracy'?"]),
        ({"columns": ["a", "b", "c"]}, ["one or two columns"]),
        ({"trainer": {"optimm": "adamw"}}, ["'optimm'", "did you mean 'optim'?"]),
        ({"schedule": "linnear"}, ["linnear"]),
        ({"model": "/nowhere/to/be/found"}, ["cannot load", "there is no folder /nowhere/to/be/found"]),
    ],
)
def test_a_recipe_that_cannot_be_run(home, tmp_path, changes, words):
    sentence = trained(home, tmp_path, **changes)
    for word in words:
        assert word in sentence


def test_unknown_key_suggests_the_nearest(home, tmp_path):
    assert "unknown key 'learnig_rate': did you mean 'learning_rate'?" in trained(home, tmp_path, learnig_rate=1)
    assert "unknown key '1'" in trained(home, tmp_path, **{"1": 2})
    assert "did you mean 'method.r'?" in trained(home, tmp_path, "r=4")
    assert "expected key=value" in trained(home, tmp_path, "seed")


def test_recipe_that_is_none(tmp_path):
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "expected keys and values" in said("train", tmp_path / "list.yaml", code=BAD)
    assert "is not YAML" in said("train", tmp_path / "broken.yaml", code=BAD)
    assert "cannot read the recipe" in said("train", tmp_path / "binary.yaml", code=BAD)
    assert "cannot read the recipe" in said("train", tmp_path / "absent.yaml", code=BAD)
    (tmp_path / "twice.yaml").write_text("seed: 1\nmethod: ssb\nseed: 2\n")
    assert "line 3 gives 'seed' a second time" in said("train", tmp_path / "twice.yaml", code=BAD)
    (tmp_path / "number.yaml").write_text("1: 2\n")
    assert "unknown key '1'" in said("train", tmp_path / "number.yaml", code=BAD)
    with pytest.raises(BadInput, match="unknown key 1"):
        make({1: 2})
    with pytest.raises(BadInput, match="no fields to set"):
        override({"model": "x"}, ["model.name=y"])
    assert override({}, ["learning_rate=1e-3"]) == {"learning_rate": 0.001}
    with pytest.raises(BadInput):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent.csv", None, ["there is no data file or folder", "absent.csv"]),
        ("rows.xlsx", b"x", ["expected a file that ends in", ".parquet"]),
        ("rows.parquet", b"no parquet", ["cannot read the data file", "as parquet"]),
        ("rows.jsonl", b'{"text": "a"\n', ["cannot read the data file", "as jsonl"]),
        ("rows.csv", b"", ["is empty"]),
        ("rows.csv", b"text,label\n", ["is empty: expected at least one row"]),
        ("rows.csv", b"text,label\na,0\nb,1\n", ["2 rows are too few"]),
        ("rows.csv", b"txt,label\na,0\n", ["has no column 'text': did you mean 'txt'?", "txt, label"]),
        ("rows.csv", b"text,label\na,0\nb,2\n", ["line 3: the label '2' is outside the range; expected 0 or 'bad'"]),
        ("rows.csv", b"text,label\na,0\nb,-1\n", ["line 3: the label '-1' is outside the range"]),
        ("rows.csv", b"text,label\na,0\nb,meh\n", ["the label 'meh' is outside the range"]),
        ("rows.csv", b"text,label\na,0\n,1\n", ["line 3: column 'text' has no value"]),
        (
            "rows.csv",
            b"text,label\na,0\nb, c,1\n",
            ["line 3: found 3 field(s), expected 2", "stands in quotation marks"],
        ),
        ("rows.csv", b"text,label\na,0\n\nb,1\n", ["line 3: found nothing, expected 2"]),
        ("rows.csv", b'text,label\n"a" film,0\nb,1\n', ["line 2", "its own are doubled"]),
        ("rows.csv", b'text,label\na,0\n"b,1\nc,0\n', ["line 3", "unexpected end of data"]),
        ("rows.csv", b"text,text,label\na,b,0\n", ["two columns 'text'"]),
        ("rows.csv", b"text,label\na,bad\nb,1\n", ["mixes names and numbers", "'bad' in line 2", "'1' in line 3"]),
        ("rows.csv", "text,label\na,0\ncafé,1\n".encode("cp1252"), ["is not utf-8: line 3", "0xe9", "encoding:"]),
        ("rows.csv", "text,label\na,0\n".encode("utf-16"), ["begins as utf-16 does", "encoding:"]),
        ("rows.jsonl", b'{"text": "a", "label": 0}\n{"text": "b"}\n', ["line 2: column 'label' has no value"]),
        ("rows.jsonl", b'{"text": "a", "text": "b", "label": 0}\n', ["line 1 has two columns 'text'"]),
        ("rows.jsonl", b'{"text": 5, "label": 0}\n', ["line 1: column 'text' holds 5, expected a text"]),
        ("rows.jsonl", b'{"text": "a", "label": true}\n', ["line 1: the label is true", "['false', 'true']"]),
        ("rows.jsonl", b'{"text": "a", "label": 0}\n7\n', ["line 2 is 7, expected an object"]),
        ("rows.json", b"[1]", ["row 1 is 1, expected an object"]),
        ("rows.json", b'{"text": {"0": "a"}, "label": {"1": 0}}', ["'text' and 'label' have different rows"]),
        ("rows.json", b"[" * 100_000, ["cannot read the data file", "as json"]),
        ("rows.tsv", b'text\tlabel\n"a"\t0\nb\t1\n', ["line 2: the field '\"a\"' could be quoted", ".csv or .jsonl"]),
    ],
)
def test_data_that_cannot_be_used(home, tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    sentence = trained(home, tmp_path, data=str(tmp_path / name))
    for word in words:
        assert word in sentence


def test_data_folder_without_training_rows(home, tmp_path):
    jsonl(tmp_path / "data" / "validation.jsonl", rows(4))
    assert "has no training rows" in trained(home, tmp_path, data=str(tmp_path / "data"))
    (tmp_path / "data" / "train.jsonl").touch()
    assert "is empty" in trained(home, tmp_path, data=str(tmp_path / "data"))


def test_regression_wants_numbers(home, tmp_path):
    jsonl(tmp_path / "data" / "train.jsonl", [{"text": "a", "label": "high"}])
    sentence = trained(home, tmp_path, task="regression", labels=None, data=str(tmp_path / "data"))
    assert "the label is 'high', expected a number" in sentence


def test_loss_that_is_no_number(home, tmp_path):
    changes = {"method": "full", "learning_rate": 1e30, "log_every": 1, "warmup": 0, "max_grad_norm": 1e9}
    sentence = trained(home, tmp_path, code=FAILED, **changes)
    assert "the loss is nan at step" in sentence
    assert "lower the learning rate" in sentence


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/0"),
    ],
)
@pytest.mark.parametrize("method", ["ssb", "full"])
def test_full_disk(home, tmp_path, monkeypatch, error, method):
    def write_half(trainer, recipe, folder, *_):
        (folder / "model.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setattr(train, "save", write_half)
    assert "the disk is full" in trained(home, tmp_path, code=FAILED, method=method, save_every="never")


def test_full_disk_while_a_checkpoint_is_written_leaves_the_last_whole_one(home, tmp_path, monkeypatch):
    from subspace_tuning.run.trainer import RunTrainer

    values = make(recipe(home, epochs=2, output=str(tmp_path / "run")))
    whole = train.run(make(recipe(home, epochs=2, output=str(tmp_path / "whole"))))
    write = RunTrainer._save_optimizer_and_scheduler

    def full(self, folder):
        if self.state.global_step > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, folder)

    monkeypatch.setattr(RunTrainer, "_save_optimizer_and_scheduler", full)
    with pytest.raises(train.RunFailed, match="the disk is full"):
        train.run(values)
    monkeypatch.undo()
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["checkpoint-6"]
    result = train.run(values)
    assert (result.resumed_from_step, result.score) == (6, whole.score)


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished run to do damage to."""
    return shutil.copytree(finished, tmp_path / "copy")


def test_corrupted_adapter(copy):
    weights = copy / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "is damaged" in said("predict", copy, "a film", code=BAD)
    weights.write_bytes(b"")
    assert "is damaged" in said("merge", copy, copy / "merged", code=BAD)
    assert not (copy / "merged").exists()


def test_pickled_adapter_is_never_opened(copy):
    (copy / "adapter" / "adapter_model.safetensors").rename(copy / "adapter" / "adapter_model.bin")
    assert "never opened" in said("predict", copy, "a film", code=BAD)


def test_corrupted_adapter_config(copy):
    config = copy / "adapter" / "adapter_config.json"
    good = json.loads(config.read_text())
    config.write_text("{")
    assert "cannot read the adapter's config" in said("predict", copy, "a film", code=BAD)
    config.write_text(json.dumps({**good, "peft_type": "LORA"}))
    assert "is not the config of an adapter made by subspace-tuning" in said("predict", copy, "a film", code=BAD)
    config.write_text(json.dumps({**good, "method": {"name": "from_elsewhere"}}))
    assert "from_elsewhere" in said("predict", copy, "a film", code=BAD)


def test_adapter_for_another_shape(copy, tmp_path):
    config = yaml.safe_load((copy / "config.yaml").read_text())
    for name, shape in {"wide": {"hidden_size": 32}, "deep": {"num_hidden_layers": 3}}.items():
        config["model"] = str(model(tmp_path / name, **shape))
        (copy / "config.yaml").write_text(yaml.safe_dump(config))
        assert "does not fit this model" in said("predict", copy, "a film", code=BAD)


def test_folder_that_is_no_run(tmp_path, finished, home):
    assert "is not a run" in said("predict", tmp_path, "a film", code=BAD)
    assert "is not a run" in said("merge", tmp_path / "absent", tmp_path / "merged", code=BAD)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert "is not empty and not a run" in trained(home, tmp_path)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_folder_of_another_run_is_left_alone(finished, home, tmp_path):
    before = (finished / "result.json").read_text()
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(home, seed=7, output=str(finished))))
    assert "holds a run of another config" in said("train", tmp_path / "recipe.yaml", code=BAD)
    assert (finished / "result.json").read_text() == before


def test_unfinished_run_cannot_be_merged(copy):
    (copy / "result.json").unlink()
    assert "is not finished" in said("merge", copy, copy / "merged", code=BAD)


def test_damaged_result(copy, home, tmp_path):
    (copy / "result.json").write_text('{"method": ')
    assert "is damaged" in said("merge", copy, copy / "merged", code=BAD)


def test_no_text_to_predict(finished, tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    assert "there is no text" in said("predict", finished, tmp_path / "empty.txt", code=BAD)
    assert "is not utf-8: line 1" in said("predict", finished, tmp_path / "binary.txt", code=BAD)
    assert "there is no file" in said("predict", finished, tmp_path / "absent.txt", code=BAD)
    assert "cannot import no_such" in said("predict", finished, "a film", "--import", "no_such", code=BAD)


def test_budget_of_what_is_no_model(tmp_path, home):
    config = tmp_path / "config.json"
    config.write_text("{}")
    assert "names no model_type" in said("budget", config, "--method", "ssb", code=BAD)
    config.write_text('{"model_type": "no_such_model"}')
    assert "no_such_model" in said("budget", config, "--method", "ssb", code=BAD)
    assert "cannot read" in said("budget", tmp_path / "absent.json", "--method", "ssb", code=BAD)
    assert "neither a folder" in said("budget", tmp_path / "absent", "--method", "ssb", code=BAD)
    assert "no field 'r'" in said("budget", home / "model", "--method", "ssb", "--rank", "2", code=BAD)
    assert "leave out --rank" in said("budget", home / "model", "--method", "full", "--rank", "2", code=BAD)
    assert "nothing" in said("budget", home / "model", "--method", "ssb", "--target-modules", "nothing", code=BAD)


def gpt2(folder, home, **shape):
    """A decoder whose tokenizer has neither a padding token nor an end of text."""
    from transformers import AutoTokenizer, GPT2Config, GPT2Model

    tokenizer = AutoTokenizer.from_pretrained(home / "model")
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "vocab_size": len(tokenizer)} | shape
    GPT2Model(GPT2Config(**sizes, eos_token_id=None, bos_token_id=None)).save_pretrained(folder)
    return folder


def test_texts_longer_than_the_model_reads(home, tmp_path):
    jsonl(tmp_path / "long.jsonl", [{**row, "text": "film " * 50} for row in rows(10)])
    sentence = trained(home, tmp_path, data=str(tmp_path / "long.jsonl"), max_length=33)
    assert "a row has 33 tokens, more than the 32 positions of the model; set max_length: 32" in sentence
    assert "max_length: 2 leaves no room" in trained(home, tmp_path, "--again", max_length=2)
    assert "expected 5 or more" in trained(home, tmp_path, "--again", max_length=4, columns=["text", "other"])


def test_tokenizer_of_another_model(home, tmp_path):
    small = gpt2(tmp_path / "small", home, vocab_size=6)
    sentence = trained(home, tmp_path, model=str(small))
    assert "does not belong to the model" in sentence
    assert "embeddings for 6" in sentence


def test_without_padding_and_end_of_text_token_0_pads_and_changes_no_answer(home, tmp_path):
    from subspace_tuning.run.predict import Predictor

    values = recipe(home, model=str(gpt2(tmp_path / "gpt2", home)), epochs=1, output=str(tmp_path / "run"))
    train.run(make(values))
    predictor = Predictor(tmp_path / "run")
    assert predictor.tokenizer.pad_token_id == predictor.model.config.pad_token_id == 0
    texts = [("good film",), ("the film was a great story of two people",)]
    together, alone = predictor(texts), [predictor([text])[0] for text in texts]
    assert [a.score for a in together] == pytest.approx([a.score for a in alone], abs=1e-5)
