"""The new kind of task in CONTRIBUTING.md, run as it stands there, and what the interface allows."""

import json
import re
import sys
from pathlib import Path

import pytest
from test_tasks_page import run_section
from transformers import Trainer, TrainingArguments

import tiny
from command import subspace
from subspace_tuning import tasks
from subspace_tuning.run.predict import Predictor
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from subspace_tuning.run.trainer import RunTrainer
from subspace_tuning.tasks import KINDS, registry, task_of

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")


class Own(Trainer):
    def __init__(self, *args, own, **kwargs):
        super().__init__(*args, **kwargs)
        self.own = own


class Arguments(TrainingArguments):
    """Another class, for what it is known by."""


(CODE,) = re.findall(r"## A new kind of task\n.*?```python\n(.*?)```", TEXT, flags=re.S)


@pytest.fixture
def stars():
    try:
        exec(compile(CODE, "CONTRIBUTING.md", "exec"), space := {"__name__": "contributing_example"})
        yield space["Stars"]
    finally:
        KINDS.pop("stars", None)


def recipe(folder, **changes):
    values = tiny.recipe(folder, task="stars", label="number", epochs=1, **changes)
    del values["labels"]
    return make(values)


def test_the_example_trains_judges_answers_and_is_listed(stars, tmp_path):
    result = run(recipe(tmp_path, most=4))
    assert result.metric == "within_one"
    assert set(result.scores) == {"within_one", "pearson", "spearman"}
    assert result.score == result.scores["within_one"]
    (told,) = Predictor(tmp_path / "run")(["a good film"])
    assert told.answer in (0.0, 1.0, 2.0, 3.0, 4.0)
    code, out, _ = subspace("tasks", "--json")
    assert code == 0
    assert [t["keys"] for t in json.loads(out) if t["kind"] == "stars"] == [["metric", "columns", "label", "most"]]


def test_a_kind_brings_its_own_trainer_and_arguments(stars, tmp_path, monkeypatch):
    seen = []

    def judge(task, trainer):
        assert isinstance(trainer, Own)
        assert isinstance(trainer, RunTrainer)
        assert isinstance(trainer.args, Arguments)
        seen.append(trainer.own)
        return {"within_one": 0.5, "kept": 1.0}

    parts = stars.parts
    monkeypatch.setattr(stars, "trainer", lambda task: Own)
    monkeypatch.setattr(stars, "arguments", lambda task: (Arguments, {"label_names": ["labels"]}))
    monkeypatch.setattr(stars, "parts", lambda task, *given: {**parts(task, *given), "own": "own"})
    monkeypatch.setattr(stars, "judge", judge)
    result = run(recipe(tmp_path, evaluate_every="end"))
    assert seen == ["own"]
    assert (result.score, result.scores) == (0.5, {"within_one": 0.5, "kept": 1.0})


@pytest.mark.filterwarnings("ignore::subspace_tuning.tasks.metrics.Undefined")
def test_inside_the_package_it_is_a_file_an_import_and_a_section(tmp_path, monkeypatch):
    """The file stands beside those of the package; whatever else it takes would be missing here."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "stars.py").write_text(CODE)
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path / "tasks")])
    monkeypatch.chdir(tmp_path)
    (section,) = re.findall(r"```markdown\n## stars\n(.*?)```", TEXT, re.S)
    try:
        exec("from subspace_tuning.tasks import stars")
        assert f"A row is {KINDS['stars'].row}." in section
        run_section("stars", section.replace("~~~", "```"))
    finally:
        KINDS.pop("stars", None)
        sys.modules.pop("subspace_tuning.tasks.stars", None)
        vars(tasks).pop("stars", None)


@pytest.mark.parametrize("decorated", [True, False])
def test_an_installed_package_publishes_it(tmp_path, monkeypatch, decorated):
    """As pip would leave it: the module, and the entry point of CONTRIBUTING in its metadata."""
    (group, name, module, kind) = re.search(
        r'entry-points\."([\w.]+)"\]\n(\w+) = "([\w.]+):(\w+)"', TEXT.partition("## A new kind of task")[2]
    ).groups()
    path = tmp_path / f"{module.replace('.', '/')}.py"
    path.parent.mkdir()
    path.write_text(CODE if decorated else CODE.replace('@register("stars")\n', ""))
    (tmp_path / "reviews-1.dist-info").mkdir()
    (tmp_path / "reviews-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: reviews\nVersion: 1\n")
    (tmp_path / "reviews-1.dist-info" / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:{kind}\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry._published.cache_clear()
    try:
        assert task_of("stars", {"most": 3}).to_data()["most"] == 3
        assert run(recipe(tmp_path / "home", max_steps=1)).metric == "within_one"
        assert "stars" in subspace("tasks")[1]
    finally:
        KINDS.pop("stars", None)
        for held in [held for held in sys.modules if held.partition(".")[0] == "reviews"]:
            del sys.modules[held]
        monkeypatch.undo()
        registry._published.cache_clear()
