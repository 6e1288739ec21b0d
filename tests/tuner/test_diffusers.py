"""Models that draw, by diffusers' own calls: a U-net with convolutions, and a transformer."""

import pytest
import torch
from peft import PeftModel, get_peft_model

from cases import each
from subspace_tuning import SSB, LoRA, SubspaceConfig
from subspace_tuning.methods import IA3, OFT, DoRA
from subspace_tuning.testing.law import relative

diffusers = pytest.importorskip("diffusers")


def unet():
    torch.manual_seed(0)
    sizes = {"layers_per_block": 1, "block_out_channels": (16, 32), "norm_num_groups": 8, "attention_head_dim": 8}
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    model = diffusers.UNet2DConditionModel(sample_size=8, cross_attention_dim=32, **sizes, **blocks)
    return model.eval(), {
        "sample": torch.randn(2, 4, 8, 8),
        "timestep": torch.tensor([3, 5]),
        "encoder_hidden_states": torch.randn(2, 5, 32),
    }


def transformer():
    torch.manual_seed(0)
    sizes = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8, "caption_projection_dim": 16}
    inputs = {"sample_size": 8, "in_channels": 4, "joint_attention_dim": 16, "pooled_projection_dim": 16}
    model = diffusers.SD3Transformer2DModel(**sizes, **inputs, out_channels=4, pos_embed_max_size=8)
    return model.eval(), {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "timestep": torch.tensor([3, 5]),
        "encoder_hidden_states": torch.randn(2, 5, 16),
        "pooled_projections": torch.randn(2, 16),
    }


def drawn(model, inputs, **kwargs):
    with torch.no_grad():
        return model(**inputs, **kwargs).sample


def config(method, convolutions=False):
    targets = ["to_q", "to_k", "to_v", "to_out.0", *(["conv1"] if convolutions else [])]
    return SubspaceConfig(method=method, target_modules=targets, init_weights=False)


METHODS = [SSB(), LoRA(r=2), DoRA(r=2), IA3(), OFT(b=4), SSB() | LoRA(r=2)]


@pytest.mark.filterwarnings("ignore:.*no adapter is active:UserWarning")
@each(make=[unet, transformer])
@each(method=METHODS)
def test_added_weakened_disabled_fused_and_deleted(method, make):
    model, inputs = make()
    base = drawn(model, inputs)
    model.add_adapter(config(method, make is unet), "mine")
    tuned = drawn(model, inputs)
    assert relative(tuned, base) > 1e-3
    model.set_adapters("mine", 0.5)
    assert 0 < relative(drawn(model, inputs), base) < relative(tuned, base)
    model.set_adapters("mine", 1.0)
    model.disable_adapters()
    assert torch.equal(drawn(model, inputs), base)
    model.enable_adapters()
    model.fuse_lora()
    assert relative(drawn(model, inputs), tuned) < 1e-5
    model.unfuse_lora()
    assert torch.equal(drawn(model, inputs), tuned)
    model.delete_adapters("mine")
    assert torch.equal(drawn(model, inputs), base)


def test_a_scale_for_one_call():
    model, inputs = unet()
    model.add_adapter(config(SSB()), "mine")
    model.set_adapters("mine", 0.3)
    want = drawn(model, inputs)
    model.set_adapters("mine", 1.0)
    whole = drawn(model, inputs)
    assert relative(drawn(model, inputs, cross_attention_kwargs={"scale": 0.3}), want) < 1e-6
    assert torch.equal(drawn(model, inputs), whole)


@each(make=[unet, transformer])
@each(method=[SSB(), LoRA(r=2)])
def test_trained_saved_and_opened_again(method, make, tmp_path):
    model, inputs = make()
    tuned = get_peft_model(model, config(method))
    tuned(**inputs).sample.square().mean().backward()
    trained = {k: p for k, p in tuned.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained
    assert all("subspace_params" in k for k in trained)
    torch.optim.SGD(trained.values(), lr=0.1).step()
    tuned.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(make()[0], tmp_path)
    assert torch.equal(drawn(again, inputs), drawn(tuned, inputs))
    merged = again.merge_and_unload()
    assert relative(drawn(merged, inputs), drawn(tuned, inputs)) < 1e-5
    merged.save_pretrained(tmp_path / "merged")  # by diffusers' own calls, as any model
    assert torch.equal(drawn(type(merged).from_pretrained(tmp_path / "merged"), inputs), drawn(merged, inputs))
