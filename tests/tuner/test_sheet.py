"""What `subspace modules` tells of a model is what methods do there."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest
import torch
from peft import get_peft_model

from model_types import ARCHITECTURES
from subspace_tuning import SSB, LoRA, SubspaceConfig
from subspace_tuning.methods import Pfeiffer
from subspace_tuning.structure.fused import slices
from subspace_tuning.tuner.layer import SubspaceLayer
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
        if kind in found.defaults:
            assert meant(found.defaults[kind], every) == meant(default_targets(kind, model), every)
        told = {line.name for b in found.blocks if b.by_default for line in b.lines if kind in line.kinds}
        if not told:
            with pytest.raises(ValueError, match="no default modules"):
                default_targets(kind, model)
            continue
        taken = default_targets(kind, model)
        assert all(any(name.endswith(short) for name in taken) for short in told)
        assert all(k.endswith(tuple(told)) for k in meant(taken, every))


def meant(names, every):
    """The modules of a model that ``target_modules`` means, as PEFT reads it."""
    if isinstance(names, str):
        return {k for k in every if re.fullmatch(names, k)}
    return {k for k in every if k in names or k.endswith(tuple(f".{t}" for t in names))}


@pytest.mark.parametrize("name", ["bert", "mobilebert", "llava", "qwen2_moe", "gpt2", "switch_transformers"])
def test_what_is_told_to_be_named_puts_the_method_where_it_goes_by_default(name):
    model = ARCHITECTURES[name].model(name)
    defaults = sheet(model).defaults
    for method in (Pfeiffer(), SSB(), LoRA()):
        seats = [
            tuned_layers(model, SubspaceConfig(method=method, target_modules=t))
            for t in (None, defaults[method.places])
        ]
        assert seats[0] == seats[1] != []


def tuned_layers(model, config):
    tuned = get_peft_model(model, config)
    found = sorted(k for k, layer in tuned.named_modules() if isinstance(layer, SubspaceLayer))
    tuned.unload()
    return found


def test_what_no_role_is_known_of_is_told_with_its_shape():
    (block,) = sheet(ARCHITECTURES["mamba"].model("mamba")).blocks
    assert [(own.name, own.shape, own.is_layer) for own in block.beside] == [
        ("mixer.A_log", (32, 4), False),
        ("mixer.conv1d", (4, 32), True),
    ]
    encoder, _ = sheet(ARCHITECTURES["t5"].model("t5")).blocks  # the first of them alone has it
    assert [(own.name, own.blocks) for own in encoder.beside] == [("layer.0.SelfAttention.relative_attention_bias", 1)]


def test_a_router_called_classifier_is_no_head():
    assert sheet(ARCHITECTURES["switch_transformers"].model("switch_transformers")).head == ("lm_head",)


def test_what_to_name_is_told_where_no_place_is_known_and_it_works():
    architecture = ARCHITECTURES["resnet"]
    model, inputs = architecture.model("resnet"), architecture.inputs()
    advice = sheet(model).advice
    assert "layers.0.layer.1.convolution 18 x 2 (role unknown)" in advice
    assert "all-linear" not in advice
    names = ast.literal_eval(advice.partition("target_modules=")[2])
    for method in (SSB(), LoRA(r=2)):
        tuned = get_peft_model(model.eval(), SubspaceConfig(method=method, target_modules=names, init_weights=False))
        want = tuned(**inputs).logits
        assert sum(isinstance(layer, SubspaceLayer) for layer in tuned.modules()) == 7
        model = tuned.merge_and_unload()
        assert torch.allclose(model(**inputs).logits, want, atol=1e-5)


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
