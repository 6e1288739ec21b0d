"""Kinds of weight side by side under one adapter, in models as they come: trained, merged, back, and from the disk."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model

from cases import each
from model_types import ARCHITECTURES
from subspace_tuning import IA3, SSB, LoRA, SubspaceConfig
from subspace_tuning.methods import OFT, DoRA
from subspace_tuning.testing.law import relative

SEATS = {
    "gpt_oss": ["self_attn.k_proj", "mlp.experts.gate_up_proj"],
    "qwen2_moe": ["shared_expert_gate", "experts.down_proj"],  # one output, and a weight of each expert
    "phi3": ["qkv_proj.key", "gate_up_proj.up", "o_proj"],  # slices of two fused weights
    "jamba": ["mamba.out_proj", "mamba.conv1d", "experts.down_proj"],  # what a kernel reads, and experts
    "mamba": ["conv1d", "dt_proj", "x_proj"],
    "gpt2": ["c_attn.key", "wte"],  # a slice, and an embedding that is tied to the head
    "bloom": ["query_key_value.value", "word_embeddings"],
    "modernbert": ["Wqkv.query", "Wi.up"],
    "segformer": ["dwconv.dwconv", "patch_embeddings.proj"],  # convolutions, in groups and not
}


def stepped(model, inputs):
    """One step against the sign of the gradient, which every trained tensor has."""
    model.train()(**inputs).logits.square().mean().backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                assert p.grad is not None
                p.sub_(p.grad.sign(), alpha=0.02)
    return model.eval()


@pytest.mark.filterwarnings("ignore")
@each(method=[LoRA(r=2), SSB(), DoRA(r=2), OFT(), IA3()])
@pytest.mark.parametrize("name", SEATS)
def test_kinds_of_weight_side_by_side(name, method, tmp_path):
    torch.manual_seed(0)
    base, inputs = ARCHITECTURES[name].model(name), ARCHITECTURES[name].inputs()
    inputs.pop("labels", None)
    config = SubspaceConfig(method=method, target_modules=SEATS[name], init_weights=False)
    model = stepped(get_peft_model(copy.deepcopy(base), config), inputs)
    with torch.no_grad():
        want, held = model(**inputs).logits, copy.deepcopy(model.state_dict())
        assert relative(want, base(**inputs).logits) > 1e-5
        model.merge_adapter()
        assert relative(model(**inputs).logits, want) < 1e-4
        model.unmerge_adapter()
        assert all(torch.equal(value, held[key]) for key, value in model.state_dict().items())
        model.save_pretrained(tmp_path / "adapter")
        again = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        assert torch.equal(again(**inputs).logits, want)
        whole = model.merge_and_unload()
        whole.save_pretrained(tmp_path / "merged")
        assert relative(type(whole).from_pretrained(tmp_path / "merged").eval()(**inputs).logits, want) < 1e-4
