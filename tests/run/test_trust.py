"""What a run's folder names is not imported, and what a model's index names stays in its folder."""

import json
import shutil
import sys

import pytest
import yaml

from command import subspace
from subspace_tuning import METHODS
from subspace_tuning.errors import BadInput
from subspace_tuning.run import train
from subspace_tuning.run.recipe import make
from tiny import recipe

OUTSIDE = '''
from dataclasses import dataclass
from pathlib import Path

from subspace_tuning.methods import SSB

Path(__file__).with_name("imported").touch()


@dataclass(frozen=True)
class Mine(SSB):
    """phi(W) = D1 W D2."""

    name = ""
'''


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A finished run of a method of ours, in a folder."""
    folder = tmp_path_factory.mktemp("trust")
    train.run(make(recipe(folder, epochs=1)))
    return folder


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A package that leaves a file when it is imported."""
    (tmp_path / "canary_mine.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = dict(METHODS)
    yield tmp_path / "imported"
    METHODS.clear()
    METHODS.update(before)
    sys.modules.pop("canary_mine", None)


COMMANDS = {
    "predict": lambda run, out: ("predict", run, "a film"),
    "merge": lambda run, out: ("merge", run, out),
    "export": lambda run, out: ("export", run, out),
    "export_to_peft": lambda run, out: ("export", run, out, "--to", "peft"),
    "combine": lambda run, out: ("combine", run, run, "--out", out),
    "analyze": lambda run, out: ("analyze", run),
}


@pytest.mark.parametrize("where", ["recipe", "adapter", "both"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_imports_what_a_run_names(command, where, home, canary, tmp_path):
    run = shutil.copytree(home / "run", tmp_path / "run")
    named = {"name": "canary_mine:Mine", "import": "canary_mine"}
    if where != "adapter":
        config = yaml.safe_load((run / "config.yaml").read_text())
        (run / "config.yaml").write_text(yaml.safe_dump({**config, "method": named}))
    if where != "recipe":
        path = run / "adapter" / "adapter_config.json"
        data = {**json.loads(path.read_text()), "method": named}
        del data["peft_version"]
        path.write_text(json.dumps(data))
    words = COMMANDS[command](run, tmp_path / "out")
    code, _, err = subspace(*words)
    assert not canary.exists()
    assert "canary_mine" not in sys.modules
    if where != "recipe":  # what computes is in the adapter; the recipe's name is looked at by `merge` alone
        assert code == 2
        assert "run `import canary_mine` first" in err
        code, _, err = subspace(*words, "--import", "canary_mine")
        assert canary.exists()
        assert code in (0, 2), err
        assert "first" not in err


@pytest.mark.parametrize("more", [{}, {"weight_decay": 0.01}], ids=str)
def test_a_recipe_to_train_names_a_class(home, canary, tmp_path, more):
    values = recipe(home, method="canary_mine:Mine", epochs=1, output=str(tmp_path / "run"), **more)
    assert train.run(make(values)).method
    assert canary.exists()


def test_what_does_not_go_with_a_class_is_said_once_it_is_here(home, canary, tmp_path):
    values = recipe(home, method="canary_mine:Mine", optimizer="lora_plus", output=str(tmp_path / "run"))
    with pytest.raises(BadInput, match="for methods with factors A and B, not for canary_mine:Mine"):
        train.run(make(values))
    assert not (tmp_path / "run").exists()


def test_shards_outside_the_folder_are_not_opened(home, tmp_path):
    model = shutil.copytree(home / "model", tmp_path / "model")
    (model / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    run = shutil.copytree(home / "run", tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "model": str(model)}))
    for name in (
        "../elsewhere.safetensors",
        str(tmp_path / "elsewhere.safetensors"),
        "pytorch_model.bin",
        "",
        "a/../b",
    ):
        index = {"metadata": {}, "weight_map": {"embeddings.word_embeddings.weight": name}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        for words in (
            ("predict", run, "a film"),
            ("merge", run, tmp_path / "out"),
            ("export", run, tmp_path / "out"),
            ("analyze", run),
            ("diff", model, home / "model"),
            ("fit", model, home / "model", "--output", tmp_path / "work"),
        ):
            code, _, err = subspace(*words)
            assert code == 2, (name, words)
            assert "expected a .safetensors file of the same folder" in err


def test_code_beside_a_model_is_not_run(home, tmp_path):
    """A config's auto_map names files of the model's own folder; nobody is asked, and nothing is run."""
    model = shutil.copytree(home / "model", tmp_path / "model")
    (model / "modeling_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config = json.loads((model / "config.json").read_text())
    own = {"AutoConfig": "modeling_own.C", "AutoModelForSequenceClassification": "modeling_own.M"}
    (model / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": own}))
    for words in (
        ("export", home / "run", tmp_path / "out", "--base", model),
        ("analyze", home / "run", "--base", model),
    ):
        code, _, err = subspace(*words)
        assert (code, (tmp_path / "ran").exists()) == (2, False), err
