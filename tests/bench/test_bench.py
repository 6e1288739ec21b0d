"""`subspace bench` and `train --floor`: what is measured is told, written and plausible."""

import json
from pathlib import Path

import pytest

from command import subspace, words_of
from tiny import recipe

CONFIG = Path(__file__).parents[1] / "fixtures" / "floor" / "config.json"
SMALL = [CONFIG, "--layers", 1, "--batch", 1, "--length", 8, "--rank", 2, "--rounds", 1]


@pytest.mark.parametrize("how", [[], ["--autocast"], ["--dtype", "bfloat16"]], ids=" ".join)
def test_every_contender_is_timed_against_the_floor(tmp_path, how):
    path = tmp_path / "made" / "step.json"
    code, out, err = subspace("bench", "step", *SMALL, *how, "--methods", "ssb,lora", "--output", path, "--json")
    assert code == 0, err
    data = json.loads(out)
    assert json.loads(path.read_text()) == data
    lines = data["contenders"]
    assert [(c["name"], c["source"]) for c in lines] == [
        ("floor", "floor"),
        ("full", "full"),
        ("ssb", "ours"),
        ("lora", "ours"),
        ("lora", "peft"),
    ]
    assert lines[0]["flops_ratio"] == lines[0]["saved_bytes_ratio"] == 1.0
    assert all(c["seconds"] > 0 and c["time_low"] <= c["time_ratio"] <= c["time_high"] for c in lines)
    full, ours, theirs = lines[1], lines[3], lines[4]
    assert full["flops_ratio"] > ours["flops_ratio"]
    assert ours["trained"] == theirs["trained"]
    assert ours["saved_mb"] < theirs["saved_mb"]


@pytest.mark.parametrize("command", ["step", "saved", "profile"])
def test_more_tokens_than_positions_are_refused(command):
    method = ["lora"] if command != "step" else []
    code, _, err = subspace("bench", command, *method, CONFIG, "--length", 4000)
    assert code == 2
    assert "error: --length 4000 is more than the" in err


def test_both_sides_change_the_same_weights():
    for name in ("ia3", "vera"):
        code, out, err = subspace("bench", "step", *SMALL, "--methods", name, "--untimed", "--json")
        assert code == 0, err
        *_, ours, theirs = json.loads(out)["contenders"]
        assert (ours["trained"], ours["flops_ratio"]) == (
            theirs["trained"],
            pytest.approx(theirs["flops_ratio"], abs=0.02),
        )


def test_named_modules_are_the_ones_tuned():
    code, out, _ = subspace("bench", "step", *SMALL, "--methods", "ssl", "--modules", "query", "--untimed", "--json")
    assert code == 0
    assert json.loads(out)["contenders"][-1]["trained"] == json.loads(CONFIG.read_text())["hidden_size"]


def test_a_profile_shows_what_a_method_adds():
    words = [*SMALL[:7], "--rank", 2, "--rounds", 1, "--json"]
    code, out, err = subspace("bench", "profile", "lora", *words)
    assert code == 0, err
    rows = {row["operation"]: row for row in json.loads(out)["operations"]}
    products = [row["calls"] - row["floor_calls"] for name, row in rows.items() if name in ("aten::mm", "aten::addmm")]
    assert sum(products) >= 6 * 2  # x A and (x A) B for six weights
    code, _, err = subspace("bench", "profile", "ssb", *words, "--peer")
    assert code != 0
    assert "PEFT has no ssb" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--graphs"], "CUDA"),
        (["--dtype", "float64"], "float32 or bfloat16"),
        (["--methods", "lroa"], "lora"),
    ],
)
def test_what_cannot_be_timed_is_told(words, told):
    code, out, err = subspace("bench", "step", *SMALL, *words)
    assert code != 0
    assert told in err
    assert "Traceback" not in out + err


def test_train_tells_its_distance_from_the_floor(tmp_path):
    values = recipe(tmp_path, epochs=1)
    code, out, err = subspace("train", *words_of(values), "method=ssb", "--floor", "--output", tmp_path / "run")
    assert code == 0, err
    assert "of the floor" in out
    assert json.loads((tmp_path / "run" / "result.json").read_text())["floor_ratio"] > 0
