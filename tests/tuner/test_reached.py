"""Layers that the model never calls are named, and `subspace train` stops at them."""

import warnings

import pytest
import torch
import transformers as hf
from peft import get_peft_model
from torch import nn

import tiny
from cases import each
from models import batch, bert, t5
from subspace_tuning import SSB, BitFit, LoRA, SubspaceConfig
from subspace_tuning.errors import BadInput
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from subspace_tuning.tuner.reached import Bypassed


def said(model, inputs, times=2):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(times):
            model.train()(**inputs)
    return [w for w in found if issubclass(w.category, Bypassed) or "took no part" in str(w.message)]


def mamba():
    return hf.MambaModel(
        hf.MambaConfig(hidden_size=16, state_size=4, num_hidden_layers=1, vocab_size=40, time_step_rank=4)
    )


def test_weights_that_their_owner_reads_are_named_once():
    model = get_peft_model(mamba(), SubspaceConfig(method="lora", r=2, target_modules=["in_proj", "dt_proj"]))
    (warning,) = said(model, {"input_ids": torch.randint(4, 40, (2, 6))})
    assert warning.category is Bypassed
    assert "layers.0.mixer.dt_proj are read" in str(warning.message)
    assert "in_proj" not in str(warning.message)
    model.add_adapter("second", SubspaceConfig(method="ssb", target_modules=["dt_proj"]))
    model.set_adapter("second")
    (warning,) = said(model, {"input_ids": torch.randint(4, 40, (2, 6))})
    assert "dt_proj are read" in str(warning.message)


def test_modules_that_take_no_part_are_named():
    model = get_peft_model(t5(), SubspaceConfig(method="lora", r=2, target_modules=["q", "shared"]))
    (warning,) = said(model, batch(t5))
    assert "shared took no part" in str(warning.message)


@each(method=[LoRA(r=2), SSB(), BitFit(), "houlsby", "mam"])
def test_models_that_call_their_layers_hear_nothing(method):
    model = get_peft_model(bert(), SubspaceConfig(method=method))
    assert said(model, batch()) == []
    model.add_adapter("other", SubspaceConfig(method="ssb"))
    model.set_adapter("other")
    assert said(model, batch()) == []


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)

    def forward(self, x):
        return self.layer(x)


def test_attention_of_torch_is_refused_where_it_reads_and_its_blocks_call_what_is_tuned():
    with pytest.raises(ValueError, match=r"layer.self_attn.out_proj: nn.MultiheadAttention reads this weight"):
        get_peft_model(Encoder(), SubspaceConfig(method="lora", r=2, target_modules=["out_proj"]))
    x, net = torch.randn(3, 5, 8), Encoder().eval()
    plain = net(x)
    model = get_peft_model(net, SubspaceConfig(method="lora", r=2, target_modules=["linear1"], init_weights=False))
    with torch.no_grad():
        tuned = model.eval()(x)
    assert not torch.allclose(tuned, plain)  # without gradients torch would take a fused kernel of plain weights
    torch.testing.assert_close(model(x), tuned)
    torch.testing.assert_close(model.merge_and_unload()(x), tuned)


def test_a_run_stops_at_layers_that_are_never_called(tmp_path, monkeypatch):
    recipe = make(tiny.recipe(tmp_path, target_modules=["query", "value"], epochs=1))

    def read_only(self, x):
        return nn.functional.linear(x, self.weight, self.bias)

    from subspace_tuning.tuner.layer import SubspaceLayer

    monkeypatch.setattr(SubspaceLayer, "__call__", read_only)
    with pytest.raises(BadInput, match="never called: a method there has no effect"):
        run(recipe)
