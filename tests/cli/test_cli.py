"""The commands, from the words typed to what is printed, written and returned."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import tiny_sft
from command import subspace, words_of
from subspace_tuning import __version__
from subspace_tuning.method.registry import METHODS
from subspace_tuning.run.predict import Predictor
from tiny import data, jsonl, model, recipe, rows

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with runs made on the command line: ssb, full, and lora held to a nonlinearity, which cannot merge."""
    folder = tmp_path_factory.mktemp("cli")
    values = recipe(folder, epochs=1)
    for name, method in {"ssb": ["method=ssb"], "full": ["method=full"], "mpc_n": ["method=lora", "mpc=n"]}.items():
        code, _, err = subspace("train", *words_of(values), *method, "--output", folder / name)
        assert code == 0, err
    return folder


def test_train_by_recipe_words_and_options_the_later_winning(tmp_path):
    values = recipe(tmp_path, epochs=1, seed=1)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    words = ["method=lora", "seed=2", "--set", "r=2", "--mpc", "o", "--json"]
    code, out, _ = subspace("train", tmp_path / "recipe.yaml", *words)
    assert code == 0
    result = json.loads(out)
    assert (result["method"], result["seed"]) == ("lora(r=2)+mpc_o", 2)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["method"]["r"] == 2
    code, out, err = subspace("train", tmp_path / "recipe.yaml", *words)
    assert code == 0
    assert "finished already" in err
    code, _, err = subspace("train", tmp_path / "run" / "config.yaml", "--again")
    assert code == 0
    assert "finished already" not in err


def test_a_run_without_output_is_named_for_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = subspace("train", *words_of(recipe(tmp_path, epochs=1)), "method=ssb|lora", "method.r=2")
    assert code == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("classification-model-ssb-lora-r-2-seed0-")
    assert str(run.relative_to(tmp_path)) in out


def run_of_a_language_model(folder, path, rows):
    """Judged by few rows, retention by those it is trained on: the carried texts are not fetched here."""
    tiny_sft.model(folder / "model", max_position_embeddings=1024)
    data = tiny_sft.data(folder / "data", rows)
    text = tiny_sft.write(folder / "text.jsonl", [{"text": "the cat"}])
    kept = f"retention=[{{judge: bits_per_byte, name: kept, data: {text}}}]"
    where = [f"model={folder}/model", f"data={data}", f"output={folder}/run", kept]
    if "task: conversations" in path.read_text():
        where.append("task=sft")
    code, out, err = subspace("train", path, *where, "max_steps=2", "save_every=never", "--json")
    assert code == 0, err
    assert json.loads(out)["steps"] == 2


TEXTS_IN_TASKS = ("multi_label", "question_answering", "ranking", "seq2seq", "token_classification")
IN_TASKS = (*TEXTS_IN_TASKS, "audio_classification", "ctc", "digits", "segmentation", "speech_to_text")  # tests/tasks
HERE = [p for p in RECIPES.glob("*.yaml") if "task" in yaml.safe_load(p.read_text()) and p.stem not in IN_TASKS]


def test_every_sweep_has_a_test():
    """Here, in tests/tasks and in tests/sweep."""
    sweeps = {p.stem for p in RECIPES.glob("*.yaml") if "task" not in yaml.safe_load(p.read_text())}
    of_tasks, of_studies = {"digits_sweep", "similarity_sweep"}, {"minilm_glue", "minilm_long"}
    assert sweeps == {"sweep", "lm_study", "lm_study_openbookqa"} | of_tasks | of_studies


@pytest.mark.parametrize("path", sorted(HERE), ids=lambda p: p.stem)
def test_every_recipe_runs(tmp_path, path):
    """Shrunk: a tiny model, few rows and steps; the rest as written. Sweeps have tests of their own."""
    recipe = yaml.safe_load(path.read_text())
    task = recipe["task"]
    if task in ("sft", "conversations"):
        run_of_a_language_model(tmp_path, path, tiny_sft.choices if recipe.get("form") == "cloze" else tiny_sft.chats)
        return
    model(tmp_path / "model")
    usual = ("sentence1", "sentence2") if task in ("rte", "stsb") else ("text", "other")
    names = recipe.get("columns", usual) if task in ("similarity", "retrieval") else usual
    for part, size in (("train", 40), ("validation", 20)):
        content = [{names[0]: r["text"], names[1]: r["other"], "label": r["label"]} for r in rows(size)]
        jsonl(tmp_path / "data" / f"{part}.jsonl", content)
    shrunk = [f"model={tmp_path}/model", f"data={tmp_path}/data", "max_steps=2", "evaluate_every=2", "save_every=never"]
    code, out, err = subspace("train", path, *shrunk, f"output={tmp_path}/run", "--json")
    assert code == 0, err
    assert json.loads(out)["steps"] == 2


def test_predict_texts_and_files(made, tmp_path):
    code, out, _ = subspace("predict", made / "ssb", "the film was great", "a dull story", "--json")
    assert code == 0
    found = json.loads(out)
    assert [p["text"] for p in found] == ["the film was great", "a dull story"]
    assert all(p["answer"] in ("bad", "good") and 0.5 <= p["score"] <= 1 for p in found)
    (tmp_path / "texts.txt").write_text("the film was great\n\na dull story\n")
    nothing = {"text": "", "answer": None, "score": None}
    by_line = json.loads(subspace("predict", made / "ssb", tmp_path / "texts.txt", "--json")[1])
    assert by_line == [found[0], nothing, found[1]]
    code, out, _ = subspace("predict", made / "full", "the film was great")
    assert code == 0
    assert re.fullmatch(r"(bad|good) 0\.\d{3}  the film was great\n", out)


def test_predict_pairs_and_numbers(tmp_path):
    values = recipe(tmp_path, task="regression", columns=["text", "other"], label="number", epochs=1)
    del values["labels"]
    assert subspace("train", *words_of(values), "--output", tmp_path / "run")[0] == 0
    code, out, _ = subspace("predict", tmp_path / "run", "a film\ta story", "--json")
    assert code == 0
    assert isinstance(json.loads(out)[0]["answer"], float)
    assert json.loads(out)[0]["score"] is None
    assert json.loads(out)[0]["text"] == ["a film", "a story"]
    code, _, err = subspace("predict", tmp_path / "run", "a film")
    assert code == 2
    assert "text TAB other" in err


@pytest.mark.parametrize("run", ["ssb", "full"])
def test_merged_model_is_a_plain_one_and_says_the_same(made, tmp_path, run):
    code, _, err = subspace("merge", made / run, tmp_path / "merged")
    assert code == 0, err
    names = {p.name for p in (tmp_path / "merged").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert "adapter_model.safetensors" not in names
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    tokens = AutoTokenizer.from_pretrained(tmp_path / "merged")(["the film was great"], return_tensors="pt")
    (ours,) = Predictor(made / run)(["the film was great"])
    with torch.no_grad():
        sure = plain(**tokens).logits.softmax(-1)[0]
    assert ours.answer == plain.config.id2label[int(sure.argmax())]
    assert ours.score == pytest.approx(sure.max().item(), abs=1e-5)
    assert pipeline("text-classification", str(tmp_path / "merged"))("a film")[0]["label"] in ("bad", "good")
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "accuracy on the rows held out for it" in card
    assert "seed: 0" in card


def test_merge_says_what_cannot_be_merged(made, tmp_path):
    code, _, err = subspace("merge", made / "mpc_n", tmp_path / "merged")
    assert code == 2
    assert "cannot be merged" in err
    assert not (tmp_path / "merged").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    code, _, err = subspace("merge", made / "ssb", tmp_path / "full")
    assert code == 2
    assert "exists already" in err


def test_methods_lists_every_method():
    code, out, _ = subspace("methods", "--json")
    assert code == 0
    entries = {entry["name"]: entry for entry in json.loads(out)}
    assert set(entries) == set(METHODS)
    assert entries["ssb"]["equation"] == "phi(W) = D1 W D2, D1 = diag(1 + delta1), D2 = diag(1 + delta2)"
    assert entries["ssb"]["parameters"] == "n + m"
    assert entries["lora"]["fields"]["r"] == 8
    assert {"category", "mode", "sits_on", "mergeable", "paper"} <= set(entries["ssb"])
    code, out, _ = subspace("methods")
    assert all(entry["equation"] in out for entry in entries.values())


def test_budget_counts_without_weights(tmp_path):
    model(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    for where in (tmp_path / "model", tmp_path / "model" / "config.json"):
        code, out, _ = subspace("budget", where, "--method", "lora", "--rank", "2", "--json")
        assert code == 0
        found = json.loads(out)
        assert found["trainable"] == 2 * 2 * (4 * (16 + 16) + 2 * (16 + 24))
        assert found["permille"] == 1000 * found["trainable"] / found["total"]
    full = json.loads(subspace("budget", tmp_path / "model", "--method", "full", "--json")[1])
    assert full["trainable"] == full["total"] == found["total"]
    only = subspace("budget", tmp_path / "model", "--method", "ssl", "--target-modules", "query,key", "--json")[1]
    assert json.loads(only)["trainable"] == 2 * 2 * 16


def test_budget_is_what_a_run_trains(made):
    budget = json.loads(subspace("budget", made / "model", "--method", "ssb", "--json")[1])
    result = json.loads((made / "ssb" / "result.json").read_text())
    assert {key: result[key] for key in budget} == budget


def test_versions_are_told_as_the_form_for_faults_asks():
    asked = (RECIPES.parent / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text()
    assert "`subspace --version`" in asked
    code, out, _ = subspace("--version")
    assert code == 0
    assert out.startswith(f"subspace-tuning {__version__}\n")
    assert {line.split()[0] for line in out.splitlines()} >= {"python", "torch", "transformers", "peft"}


@pytest.mark.parametrize("command", ["train", "predict", "merge", "methods", "budget", "demo"])
def test_every_command_helps_with_examples(command):
    code, out, _ = subspace(command, "--help")
    assert code == 0
    assert "Examples" in out
    assert f"subspace {command}" in out


def test_method_from_outside_the_package(tmp_path, monkeypatch):
    (tmp_path / "half_scale.py").write_text(
        "from dataclasses import dataclass\n"
        "from subspace_tuning.algebra import Diag\n"
        "from subspace_tuning.method import Method, ones\n"
        "@dataclass(frozen=True)\n"
        "class HalfScale(Method):\n"
        "    '''phi(W) = D W.'''\n"
        "    category, formula, paper = 'reconstruction', 'n', 'none'\n"
        "    def parameters(self, n, m):\n"
        "        return {'d': ones(n)}\n"
        "    def phi(self, W, p):\n"
        "        return Diag(p.d) @ W\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    values = recipe(tmp_path, method="half_scale:HalfScale", epochs=1)
    assert subspace("train", *words_of(values), "--output", tmp_path / "run")[0] == 0
    assert subspace("predict", tmp_path / "run", "a film")[0] == 0
    METHODS.pop("half_scale:HalfScale")
    monkeypatch.delitem(sys.modules, "half_scale")
    code, _, err = subspace("predict", tmp_path / "run", "a film")
    assert code == 2
    assert "import half_scale" in err
    assert subspace("predict", tmp_path / "run", "a film", "--import", "half_scale")[0] == 0
    METHODS.pop("half_scale:HalfScale")


@pytest.mark.parametrize(
    ("missing", "words", "extra"),
    [("typer", [], "train"), ("statsmodels", ["reproduce", "si2024", "--dry-run"], "study")],
)
def test_without_an_extra_it_says_what_to_install(missing, words, extra):
    script = f"import sys; sys.modules[{missing!r}] = None; sys.argv[1:] = {words}\n"
    script += "from subspace_tuning.__main__ import main\nmain()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].endswith(f"run `pip install 'subspace-tuning[{extra}]'`")
    assert "Traceback" not in done.stderr


def test_demo_table_and_picture(made, tmp_path, monkeypatch):
    from subspace_tuning.files import assets
    from subspace_tuning.run import demo

    data(tmp_path / "data")
    lines = {"base": {**recipe(made, epochs=1), "max_steps": 2, "evaluate_every": "end"}, "quick": {"eval_samples": 10}}
    lines["base"].pop("output")
    lines["contenders"] = [{"title": t, "method": m} for t, m in (("all", "full"), ("SSB", "ssb"), ("SSL | x", "ssl"))]
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "demo.yaml").write_text(yaml.safe_dump(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(assets, "fetch", lambda package: tmp_path)
    monkeypatch.setattr(assets, "movie_reviews", list)
    code, out, err = subspace("demo", "--quick")
    assert code == 0, err
    folder = tmp_path / "runs" / "demo"
    summary = json.loads((folder / "summary.json").read_text())
    assert [row["title"] for row in summary["results"]] == ["SSL | x", "SSB", "all"]
    assert summary["results"][-1]["percent_of_full"] == 100
    assert (folder / "score_against_parameters.png").read_bytes()[:4] == b"\x89PNG"
    assert "SSB" in (folder / "score_against_parameters.svg").read_text()
    table = (folder / "summary.md").read_text()
    assert "| SSL \\| x | reconstruction |" in table
    assert demo.HEADER[3] in table
    assert "SSB" in out


def test_the_demos_recipe_is_sound_and_goes_with_the_package(tmp_path, monkeypatch):
    from subspace_tuning.run.demo import Demo

    monkeypatch.chdir(tmp_path)  # no clone
    for quick in (False, True):
        contenders = Demo.read(quick).contenders
        assert len(contenders) == 11
        assert len({c.slug for c in contenders}) == 11
        assert all(c.recipe.resolved().learning_rate for c in contenders)


def test_modules_shows_blocks_from_a_config_alone(tmp_path):
    config = {"model_type": "mixtral", "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 24}
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, out, err = subspace("modules", tmp_path / "config.json")
    assert code == 0, err
    assert re.search(r"^layers\.0, one of 32 that are alike$", out, re.M)
    assert re.search(r"self_attn\.q_proj +query +32 x 32 +query_value, all$", out, re.M)
    assert re.search(r"mlp\.experts\.down_proj +down +8 x 24 x 32 +all; one parameter of all experts$", out, re.M)
    assert "target_modules=['self_attn.k_proj', 'self_attn.v_proj', 'mlp.experts.gate_up_proj']" in out
    code, out, _ = subspace("modules", tmp_path / "config.json", "--json")
    (block,) = json.loads(out)["blocks"]
    assert {line["role"] for line in block["lines"] if line["part"] == "attention"} == {
        *("query", "key", "value", "output")
    }
    code, _, err = subspace("modules", tmp_path / "nothing.json")
    assert (code, err.count("\n")) == (2, 1)
