"""Numbers that are none: refused where they come in, and never in what is written."""

import json

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file

from command import subspace
from models import bert
from subspace_tuning import SubspaceConfig
from subspace_tuning.convert.certificate import Certificate, Layer
from subspace_tuning.convert.probe import Differences

NAN = float("nan")


@pytest.fixture
def made(tmp_path):
    """Two models, and an adapter of the first."""
    for name in ("base", "tuned"):
        torch.manual_seed(len(name))
        bert().save_pretrained(tmp_path / name)
    config = SubspaceConfig(method="lora", r=2, init_weights=False, modules_to_save=["classifier"])
    model = get_peft_model(type(bert()).from_pretrained(tmp_path / "base"), config)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path


def spoil(path, part, value=NAN):
    held = {k: v.clone() for k, v in load_file(path).items()}
    next(v for k, v in held.items() if part in k).view(-1)[0] = value
    save_file(held, path, metadata={"format": "pt"})


def refused(*words):
    code, out, err = subspace(*words)
    assert code == 2, (out, err)
    (sentence,) = [line for line in err.splitlines() if line.startswith("error: ")]
    return sentence


@pytest.mark.parametrize("value", [NAN, float("inf")])
@pytest.mark.parametrize("part", [".A", "classifier"])
def test_an_adapter_with_nan_is_refused_by_every_command(made, part, value):
    adapter, out = made / "adapter", made / "out"
    good = made / "good"
    adapter.rename(good)
    import shutil

    shutil.copytree(good, adapter)
    spoil(adapter / "adapter_model.safetensors", part, value)
    for words in (
        ("export", adapter, out),
        ("export", adapter, out, "--to", "merged"),
        ("combine", good, adapter, "--out", out),
        ("combine", adapter, good, "--out", out),
        ("analyze", adapter),
        ("diff", good, adapter),
    ):
        assert "holds NaN or infinite numbers" in refused(*words)
        assert not out.exists()


@pytest.mark.parametrize("weights", ["inf,1", "nan,1", "1e308,1e308"])
def test_weights_of_a_sum_are_finite_and_so_is_what_they_make(made, weights):
    said = refused("combine", made / "adapter", made / "adapter", "--weights", weights, "--out", made / "out")
    assert "finite" in said
    assert not (made / "out").exists()


@pytest.mark.parametrize("scales", ["nan", "0,inf"])
def test_scales_are_finite(made, scales):
    assert "--scales are finite numbers" in refused("analyze", made / "adapter", "--scales", scales)


def test_a_fit_of_what_is_no_number_is_not_saved(made):
    spoil(made / "tuned" / "model.safetensors", "query.weight")
    said = refused("fit", made / "base", made / "tuned", "--save", "lora", made / "out", "--output", made / "work")
    assert "NaN" in said
    assert not (made / "out").exists()


def test_a_certificate_is_json_whatever_its_numbers():
    layer = Layer((2, 2), 1, True, NAN, False, "unchanged")
    none = Differences(NAN, float("inf"), -float("inf"), 0.5)
    told = Certificate("", [], [], "", "lora", {"rank": None}, True, NAN, 0.5, "x", {"x": layer}, "", none, none)
    data = json.loads(told.to_json(), parse_constant=pytest.fail)
    assert data["error"] is None
    assert data["layers"]["x"]["error"] is None
    assert data["layers"]["x"]["shape"] == [2, 2]
    assert (data["logits"]["largest"], data["logits"]["agreement"]) == (None, 0.5)
