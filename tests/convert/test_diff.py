"""Two checkpoints, tensor by tensor."""

import json

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from subspace_tuning.cli import app
from subspace_tuning.convert.diff import diff
from subspace_tuning.errors import BadInput


@pytest.fixture
def pair(tmp_path):
    a = {"w": torch.ones(2, 3), "b": torch.zeros(3), "gone": torch.ones(1), "ids": torch.arange(3), "v": torch.ones(4)}
    b = {
        "w": torch.full((2, 3), 1.5),
        "b": torch.zeros(3),
        "new": torch.ones(2),
        "ids": torch.arange(3),
        "v": torch.ones(5),
    }
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    save_file(a, tmp_path / "a" / "model.safetensors")
    names = list(b)
    save_file({k: b[k] for k in names[:2]}, tmp_path / "b" / "model-00001-of-00002.safetensors")
    save_file({k: b[k] for k in names[2:]}, tmp_path / "b" / "model-00002-of-00002.safetensors")
    return str(tmp_path / "a"), str(tmp_path / "b")


def test_every_tensor_has_its_state(pair):
    found = {d.name: d for d in diff(*pair)}
    assert {name: d.state for name, d in found.items()} == {
        "w": "changed", "b": "same", "gone": "only in A", "ids": "same", "v": "reshaped", "new": "only in B"
    }  # fmt: skip
    assert found["w"].relative == pytest.approx(0.5)
    assert found["w"].largest == pytest.approx(0.5)
    assert found["v"].shape == (5,)


def test_a_checkpoint_is_the_same_as_itself(pair):
    assert {d.state for d in diff(pair[0], pair[0])} == {"same"}


def test_the_command_line(pair, tmp_path):
    run = CliRunner().invoke
    done = run(app, ["diff", *pair])
    assert done.stdout.splitlines()[-1] == "2 same, 1 changed, 1 reshaped, 1 only in A, 1 only in B"
    assert "ids" not in done.stdout
    assert "ids" in run(app, ["diff", *pair, "--all"]).stdout
    assert len(json.loads(run(app, ["diff", *pair, "--json"]).stdout)) == 6
    assert run(app, ["diff", pair[0], str(tmp_path / "none")]).exit_code == 2


def test_names_match_across_the_prefix_of_a_base_model(tmp_path):
    """Of a base model and a classifier made from it, whichever comes first."""
    from models import bert

    model = bert()
    model.bert.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight.mul_(2)
    model.save_pretrained(tmp_path / "tuned")
    for a, b, prefix, head in (("base", "tuned", "bert.", "only in B"), ("tuned", "base", "", "only in A")):
        states = {d.name: d.state for d in diff(tmp_path / a, tmp_path / b)}
        changed = f"{prefix}encoder.layer.0.output.dense.weight"
        assert {name for name, state in states.items() if state == head} == {"classifier.weight", "classifier.bias"}
        assert {name for name, state in states.items() if state == "changed"} == {changed}
        assert set(states.values()) == {"same", "changed", head}


def test_a_model_of_an_unknown_kind_keeps_its_names(pair):
    for folder in pair:
        with open(f"{folder}/config.json", "w", encoding="utf-8") as file:
            json.dump({"model_type": "of-another-world"}, file)
    assert {d.state for d in diff(pair[0], pair[0])} == {"same"}


def test_what_is_no_checkpoint_is_told(pair, tmp_path):
    with pytest.raises(BadInput, match=r"no \.safetensors file"):
        diff(pair[0], tmp_path)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadInput, match="cannot read the weights"):
        diff(pair[0], tmp_path / "bad")
