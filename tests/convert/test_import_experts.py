"""PEFT's LoRA on parameters of experts computes the same when imported."""

import json

import peft
import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from mixtures import MODELS, mixture
from subspace_tuning.convert import import_peft, read_peft
from subspace_tuning.errors import BadInput
from subspace_tuning.testing.law import relative

FUSED = ["experts.gate_up_proj", "experts.down_proj"]
IDS = torch.arange(4, 18).reshape(2, 7)


def says(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.fixture
def made(tmp_path):
    """Makes a mixture and PEFT's adapter with random numbers on it, on disk; returns the model."""

    def make(name, **values):
        mixture(name).save_pretrained(tmp_path / "base")
        torch.manual_seed(1)
        config = peft.LoraConfig(
            **{"r": 2, "lora_alpha": 5, "target_parameters": FUSED, "target_modules": [], **values}
        )
        model = get_peft_model(again(tmp_path), config).eval()
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p.add_(torch.randn_like(p), alpha=0.3)
        model.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
        return model

    return make


def again(folder):
    return AutoModelForCausalLM.from_pretrained(folder / "base").eval()


@pytest.mark.parametrize("name", MODELS)
def test_it_computes_what_pefts_does(name, made, tmp_path):
    values = {"target_modules": ["o_proj"], "rank_pattern": {"o_proj": 3}, "use_rslora": name == "mixtral"}
    theirs = made(name, **values)
    import_peft(tmp_path / "theirs", tmp_path / "ours")
    ours = PeftModel.from_pretrained(again(tmp_path), tmp_path / "ours").eval()
    assert relative(says(theirs), says(again(tmp_path))) > 0.02
    assert relative(says(ours), says(theirs)) < 1e-4
    assert relative(says(ours.merge_and_unload()), says(theirs)) < 1e-4


def test_what_does_not_fit_is_refused(made, tmp_path):
    made("mixtral", target_parameters=FUSED[:1])
    with pytest.raises(BadInput, match="read by `subspace import` alone"):
        read_peft(tmp_path / "theirs")
    config, weights = tmp_path / "theirs/adapter_config.json", tmp_path / "theirs/adapter_model.safetensors"
    said, held = json.loads(config.read_text()), load_file(weights)
    config.write_text(json.dumps({**said, "base_model_name_or_path": None}))
    with pytest.raises(BadInput, match="name it with --base"):
        import_peft(tmp_path / "theirs", tmp_path / "ours")
    key = next(key for key in held if "lora_A" in key)
    broken = {
        "lacks A or B": {k: v for k, v in held.items() if k != key},
        "takes|unflatten": held | {key: held[key][:5]},
    }
    for said, tensors in broken.items():
        save_file({k: v.contiguous() for k, v in tensors.items()}, weights)
        with pytest.raises(BadInput, match=said):
            import_peft(tmp_path / "theirs", tmp_path / "ours", base=str(tmp_path / "base"))
    assert not (tmp_path / "ours").exists()
