"""Seats on which a LoRA of PEFT's would compute something else, or nothing, are not exported as one."""

import pytest
import torch
import transformers as hf
from peft import get_peft_model
from torch import nn

import models
from mixtures import mixture
from subspace_tuning import SubspaceConfig
from subspace_tuning.convert import lora_experts
from subspace_tuning.convert.lora import check_holds
from subspace_tuning.errors import BadInput
from subspace_tuning.tuner.saved import named_layers


class Reads(nn.Module):
    """Attention of torch's, which reads its weights and calls nothing."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


def tied():
    return hf.LlamaForCausalLM(hf.LlamaConfig(**models._CAUSAL, tie_word_embeddings=True))


SEATS = {
    "go by one phi": (tied, "embed_tokens", {"ensure_weight_tying": True}),
    "reads its weight and never calls it": (Reads, "out_proj", {}),
    "is a ConvTranspose1d": (lambda: nn.Sequential(nn.ConvTranspose1d(4, 6, 3)), "0", {}),
    "is a Conv2d in groups": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3, groups=2)), "0", {}),
}


@pytest.mark.parametrize("why", SEATS)
def test_what_no_lora_of_pefts_can_say_is_refused(why):
    make, seat, values = SEATS[why]
    model = get_peft_model(make(), SubspaceConfig(method="lora", r=2, target_modules=[seat], **values))
    ((name, layer),) = named_layers(model, "default")
    with pytest.raises(BadInput, match=rf"{why}, which a LoRA of PEFT's cannot say: write --to merged"):
        check_holds(name, layer)


def test_a_plain_linear_layer_holds_one():
    model = get_peft_model(nn.Sequential(nn.Linear(4, 6)), SubspaceConfig(method="lora", r=2, target_modules=["0"]))
    ((name, layer),) = named_layers(model, "default")
    check_holds(name, layer)


def test_where_peft_takes_other_modules_nothing_is_written(monkeypatch):
    """A PEFT that reads the names otherwise, however they are put."""
    tried = []
    monkeypatch.setattr(lora_experts, "seats", lambda theirs: tried.append(theirs) or iter([("elsewhere", None)]))
    torch.manual_seed(0)
    fused = {"model.layers.0.mlp.experts.down_proj": 2}
    with pytest.raises(BadInput, match=r"PEFT takes other modules than these .*--to merged"):
        lora_experts.placed(lambda: mixture("mixtral", "eager"), {}, fused)
    assert len(tried) == 2
