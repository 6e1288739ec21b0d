"""A recipe says what stands in it."""

import pytest
import yaml

import tiny
from command import subspace
from subspace_tuning import METHODS
from subspace_tuning.run.recipe import make, override, read, words
from subspace_tuning.run.train import run
from subspace_tuning.sweep.recipe import read_sweep

WORDS = [
    "no",
    "yes",
    "on",
    "off",
    "true",
    "False",
    "1",
    "007",
    "-1",
    "1.0",
    "1e3",
    "null",
    "~",
    "2024-01-01",
    "1:30",
    "x",
]


def test_which_keys_hold_texts():
    texts = words()
    assert {"model", "task", "columns", "label", "labels", "target_modules", "report_to", "mpc"} <= texts
    assert not texts & {"seed", "method", "evaluate_every", "layers_to_transform", "rank_pattern", "trainer", "floor"}


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_list_of_words_is_a_list_of_words(tmp_path, mark):
    inline = f"labels: [{', '.join(WORDS)}]\n"
    (tmp_path / "inline.yaml").write_text(mark + inline, encoding="utf-8")
    (tmp_path / "block.yaml").write_text("labels:\n" + "".join(f"  - {word}\n" for word in WORDS))
    (tmp_path / "sweep.yaml").write_text(
        f"output: out\nmethods: [ssb]\nbase: {{{inline.strip()}}}\n"
        f"tasks: [{{task: classification, {inline.strip()}}}]\n"
    )
    for name in ("inline", "block"):
        assert make(read(tmp_path / f"{name}.yaml")).labels == WORDS
    assert make(override({}, [f"labels=[{', '.join(WORDS)}]"])).labels == WORDS
    sweep = read_sweep(tmp_path / "sweep.yaml")
    assert sweep.base["labels"] == sweep.task_fields[0]["labels"] == WORDS


def test_a_word_is_a_word_and_nothing_is_nothing():
    for word in WORDS:
        assert make(override({}, [f"label={word}"])).label == (None if word in ("null", "~") else word)
    assert make(override({}, ["seed=7", "learning_rate=5e-5", "hold_out=yes", "method.r=4"])).method["r"] == 4
    assert override({}, ["learning_rate=5e-5", "trainer={adam_epsilon: 1e-9}"])["trainer"]["adam_epsilon"] == 1e-9


def test_what_a_recipe_dumps_it_reads(tmp_path):
    given = make({"task": "classification", "labels": WORDS, "label": "no", "columns": ["on", "1"]})
    (tmp_path / "recipe.yaml").write_text(given.dump())
    assert make(read(tmp_path / "recipe.yaml")) == given


@pytest.mark.parametrize("name", sorted(METHODS))
def test_fields_of_a_method_are_its_own(tmp_path, name):
    """Whatever a task calls by the same name: `tokens` is a number of soft prompts and a column of tags' words."""
    given = make({"method": {"name": name, **vars(METHODS[name]())}})
    (tmp_path / "recipe.yaml").write_text(given.dump())
    again = make(read(tmp_path / "recipe.yaml"))
    assert again == given
    assert again.digest() == given.digest()
    assert override({}, [f"method={yaml.safe_dump(given.method, default_flow_style=True)}"])["method"] == given.method


@pytest.mark.parametrize("labels", [["no", "yes"], ["on", "off"], ["True", "False"], ["1", "0"], ["2", "1"]])
@pytest.mark.parametrize("form", ["csv", "tsv"])
def test_from_a_recipe_or_the_command_line_to_the_answer(tmp_path, labels, form):
    """The names that stand in the file are the names that come out."""
    given = tiny.recipe(tmp_path, method="lora", learning_rate=0.02, epochs=8, output=str(tmp_path / "run"))
    parts = "," if form == "csv" else "\t"
    rows = [f"{row['text']}{parts}{labels[row['label']]}" for row in tiny.rows(96)]
    (tmp_path / f"rows.{form}").write_text("\n".join([f"text{parts}label", *rows]) + "\n")
    names = f"[{', '.join(labels[::-1])}]"
    if form == "csv":  # the words as they stand in a recipe
        del given["labels"]
        (tmp_path / "recipe.yaml").write_text(f"{yaml.safe_dump(given)}labels: {names}\n")
        given = override(read(tmp_path / "recipe.yaml"), [f"data={tmp_path}/rows.csv"])
    else:
        given = override(given, [f"data={tmp_path}/rows.tsv", f"labels={names}"])
    run(make(given))
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["labels"] == labels[::-1]
    code, out, err = subspace("predict", tmp_path / "run", "the film was great", "a dull story")
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines()] == [labels[1], labels[0]]


def test_a_run_of_a_relative_model_says_where_it_looked(tmp_path, monkeypatch):
    tiny.recipe(tmp_path)
    monkeypatch.chdir(tmp_path)
    run(make(tiny.recipe(tmp_path, model="model", data="data", epochs=1, output="run")))
    assert subspace("predict", "run", "a film")[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, err = subspace("predict", "../run", "a film")
    assert code == 2
    assert f"there is no folder {tmp_path}/elsewhere/model" in err
    code, _, err = subspace("export", "../run", "out")
    assert code == 2
    assert f"there is no folder {tmp_path}/elsewhere/model" in err
