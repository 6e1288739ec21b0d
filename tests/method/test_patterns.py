"""Modules may go by methods, ranks and scales of their own."""

import pytest
import torch
from peft import PeftModel, get_peft_model

import models
from subspace_tuning import IA3, SSL, FLoRA, LoRA, SubspaceConfig
from subspace_tuning.testing.law import relative

TARGETS = ["key", "value", "intermediate.dense"]


def mixed(**values):
    patterns = {"intermediate.dense": SSL(), r"layer\.1\..*value": "lora"}
    return SubspaceConfig(method="ia3", method_pattern=patterns, target_modules=TARGETS, **values)


def methods_of(model):
    return {name: module.methods["default"] for name, module in model.named_modules() if hasattr(module, "methods")}


def test_a_pattern_names_another_method():
    found = methods_of(get_peft_model(models.bert(), mixed()))
    assert len(found) == 6
    for name, method in found.items():
        if name.endswith("intermediate.dense"):
            assert method == SSL()
        elif name.endswith("layer.1.attention.self.value"):
            assert method == LoRA()
        else:
            assert method == IA3()


def test_patterns_combine():
    config = mixed(rank_pattern={"value": 2}, alpha_pattern={"value": 3.0})
    assert config.resolved("bert.layer.1.attention.self.value") == LoRA(r=2, alpha=3.0)
    assert config.resolved("bert.layer.0.attention.self.value") == IA3()
    held = SubspaceConfig(method="lora", mpc="o", method_pattern={"key": "flora"}, rank_pattern={"key": 2})
    assert held.resolved("layer.0.key").describe() == f"{FLoRA(r=2).describe()} + MPC_o"


def test_a_saved_adapter_keeps_its_patterns(tmp_path):
    base = models.bert()
    state = {k: v.clone() for k, v in base.state_dict().items()}
    model = get_peft_model(base, mixed(init_weights=False)).eval()
    batch = models.batch()
    with torch.no_grad():
        want = model(**batch).logits
        model.save_pretrained(tmp_path, save_embedding_layers=False)
        again = models.bert()
        again.load_state_dict(state)
        loaded = PeftModel.from_pretrained(again, tmp_path).eval()
        assert relative(loaded(**batch).logits, want) < 1e-6
    assert methods_of(loaded) == methods_of(model)


def test_a_pattern_with_an_unknown_method_says_so():
    with pytest.raises(ValueError, match="unknown method 'lore'"):
        SubspaceConfig(method="ia3", method_pattern={"key": "lore"})
