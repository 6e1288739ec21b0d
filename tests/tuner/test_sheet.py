"""What `subspace modules` tells of a model is what methods do there."""

import importlib.util
from pathlib import Path

import pytest
import torch

from model_types import ARCHITECTURES
from subspace_tuning.tuner.fused import slices
from subspace_tuning.tuner.sheet import by_kind, sheet
from subspace_tuning.tuner.targets import KINDS, default_targets
from subspace_tuning.weights.experts import with_experts

ROOT = Path(__file__).parents[2]


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_kinds_that_are_told_are_the_modules_that_are_taken(name):
    with torch.device("meta"):
        model = ARCHITECTURES[name].model(name)
    found = sheet(model)
    every = {k for k, _ in with_experts(model)} | set(slices(model))
    for kind in KINDS:
        told = {line.name for b in found.blocks if b.by_default for line in b.lines if kind in line.kinds}
        if not told:
            with pytest.raises(ValueError, match="no default modules"):
                default_targets(kind, model)
            continue
        taken = default_targets(kind, model)
        assert all(any(name.endswith(short) for name in taken) for short in told)
        meant = {k for k in every if k in taken or k.endswith(tuple(f".{t}" for t in taken))}
        assert all(k.endswith(tuple(told)) for k in meant)


def test_blocks_that_are_alike_are_told_once():
    (block,) = sheet(ARCHITECTURES["llama"].model("llama")).blocks
    assert (block.name, block.count, block.by_default) == ("model.layers.0", 2, True)
    dense, sparse = sheet(ARCHITECTURES["deepseek_v3"].model("deepseek_v3")).blocks
    assert (dense.count, sparse.count) == (1, 1)
    experts = [line for line in sparse.lines if line.part == "experts"]
    assert [(line.role, line.copies, line.is_layer, line.kinds) for line in experts] == [
        ("gate+up", 2, False, ("key_value_ff", "all")),
        ("down", 2, False, ("all",)),
    ]


def test_what_is_fused_and_what_is_tied_is_told():
    found = sheet(ARCHITECTURES["gpt_neox"].model("gpt_neox"))
    fused = next(line.fused for line in found.blocks[0].lines if line.fused)
    assert fused.run == (("query", 8), ("key", 8), ("value", 8))
    assert sheet(ARCHITECTURES["gpt2"].model("gpt2")).tied == {"lm_head.weight": "transformer.wte.weight"}
    assert sheet(torch.nn.Linear(2, 2)).blocks == ()


def test_other_towers_are_told_apart():
    blocks = sheet(ARCHITECTURES["llava"].model("llava")).blocks
    assert {b.name: b.by_default for b in blocks} == {
        "model.vision_tower.encoder.layers.0": False,
        "model.language_model.layers.0": True,
    }


def test_every_method_on_modules_has_its_kind():
    assert {"lora", "ssb", "houlsby", "vera", "mam"} <= {name for names in by_kind().values() for name in names}


def test_the_page_of_models_says_what_they_are():
    spec = importlib.util.spec_from_file_location("architectures_page", ROOT / "benchmarks" / "architectures.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text(encoding="utf-8") == script.page()
