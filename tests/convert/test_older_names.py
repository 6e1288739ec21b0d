"""Adapters that PEFT saved with an older transformers, whose modules have other names today."""

import json

import peft
import pytest
import torch
import transformers as hf
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from subspace_tuning.convert.from_peft import import_peft
from subspace_tuning.errors import BadInput
from subspace_tuning.testing.law import relative
from subspace_tuning.tuner.adapter import read

TEXT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 40}
SIGHT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 8}


def llava():
    sight = hf.CLIPVisionConfig(**SIGHT, patch_size=4)
    text = hf.LlamaConfig(**TEXT, num_key_value_heads=2)
    return hf.LlavaForConditionalGeneration(hf.LlavaConfig(vision_config=sight, text_config=text)).eval()


@pytest.fixture
def older(tmp_path):
    """A LoRA on a model that sees and reads, under the names of before; what it computes, and the model."""
    llava().save_pretrained(tmp_path / "base")
    model = base(tmp_path)
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj", "v_proj"], exclude_modules=r".*vision.*", rank_pattern={"v_proj": 3}
    )
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for p in adapted.parameters():
            if p.requires_grad:
                p.normal_(std=0.3)
    adapted.save_pretrained(tmp_path / "older")
    x = torch.randint(40, (2, 5), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = adapted(input_ids=x).logits
    path = tmp_path / "older" / "adapter_model.safetensors"
    today = {k: v.clone() for k, v in load_file(path).items()}
    before = {k.replace("model.model.language_model.", "model.language_model.model."): v for k, v in today.items()}
    assert set(before).isdisjoint(today)
    save_file(before, path, metadata={"format": "pt"})
    return tmp_path, x, want


@torch.no_grad()
def logits(model, x):
    return model.eval()(input_ids=x).logits


def base(home):
    return hf.LlavaForConditionalGeneration.from_pretrained(home / "base")


def test_an_import_takes_the_names_of_today(older):
    home, x, want = older
    assert relative(logits(PeftModel.from_pretrained(base(home), home / "older"), x), want) < 1e-6  # as PEFT does
    config, compared = import_peft(home / "older", home / "ours")
    assert compared == str(home / "base")
    assert all(name.startswith("model.language_model.layers.") for name in config.target_modules)
    assert relative(logits(PeftModel.from_pretrained(base(home), home / "ours"), x), want) < 1e-5
    assert relative(logits(read(home / "older").on(base(home)), x), want) < 1e-5


def test_names_that_match_nothing_are_refused(older):
    home, _, _ = older
    path = home / "older" / "adapter_model.safetensors"
    save_file({k.replace("layers", "blocks"): v.clone() for k, v in load_file(path).items()}, path)
    with pytest.raises(BadInput, match=r"has no module .*blocks"):
        import_peft(home / "older", home / "ours")
    assert not (home / "ours").exists()


def test_without_the_base_model_the_import_says_so(older):
    home, _, _ = older
    path = home / "older" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(home / "gone")}))
    assert import_peft(home / "older", home / "ours").base is None
    with pytest.raises(BadInput, match="nowhere"):
        import_peft(home / "older", home / "again", base=str(home / "nowhere"))
