"""Weights that several modules share: a method on one of them changes that one only, merged or not."""

import copy

import pytest
import torch
import transformers as hf
from peft import PeftModel, get_peft_model
from torch import nn

import models
from cases import each
from subspace_tuning import SSB, LoRA, SAMParser, SubspaceConfig
from subspace_tuning.methods import DoRA
from subspace_tuning.testing.law import relative
from subspace_tuning.tuner.layer import SubspaceLayer


def llama():
    config = hf.LlamaConfig(**models._CAUSAL, tie_word_embeddings=True)
    return hf.LlamaForCausalLM(config).eval()


def masked_bert():
    return hf.BertForMaskedLM(hf.BertConfig(**models._TEXT)).eval()


SEATS = {
    llama: ["embed_tokens", "lm_head"],
    models.gpt2: ["wte", "lm_head"],
    masked_bert: ["word_embeddings", "decoder"],
    models.t5: ["embed_tokens", "lm_head"],
}
CHOICES = [(make, seats) for make, (a, b) in SEATS.items() for seats in ([a], [b], [a, b])]


def inputs_of(make):
    ids = torch.randint(4, 40, (3, 7))
    return {"input_ids": ids, "labels": ids} if make is models.t5 else {"input_ids": ids}


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


@each(method=[LoRA(r=2), SSB(), SAMParser(), DoRA(r=2)])
@pytest.mark.parametrize(("make", "seats"), CHOICES)
def test_merging_into_tied_weights_is_the_adapted_model(make, seats, method, tmp_path):
    base, inputs = make(), inputs_of(make)
    plain, shared = logits(base, inputs), base.get_input_embeddings().weight
    if seats == SEATS[make][1:]:
        assert base.get_output_embeddings().weight is shared
    model = get_peft_model(base, SubspaceConfig(method=method, target_modules=seats, init_weights=False)).eval()
    want = logits(model, inputs)
    assert relative(want, plain) > 1e-4
    model.merge_adapter()
    assert relative(logits(model, inputs), want) < 1e-5
    model.unmerge_adapter()
    assert torch.equal(logits(model, inputs), want)
    assert {id(base.get_input_embeddings().weight), id(base.get_output_embeddings().weight)} == {id(shared)}
    if make is models.t5:  # its config cannot say that nothing is tied
        with pytest.raises(ValueError, match="shares its weight with other modules, and no checkpoint of T5"):
            model.merge_and_unload()
        assert torch.equal(logits(model, inputs), want)
        return
    merged = model.merge_and_unload()
    assert relative(logits(merged, inputs), want) < 1e-5
    merged.save_pretrained(tmp_path)
    again = type(merged).from_pretrained(tmp_path).eval()
    assert not again.config.tie_word_embeddings
    assert torch.equal(logits(again, inputs), logits(merged, inputs))
    assert torch.equal(logits(copy.deepcopy(merged), inputs), logits(merged, inputs))


ONE_PHI = [(make, seat) for make, seats in SEATS.items() for seat in seats if make is not models.t5]
ONE_PHI += [(models.t5, "shared"), (models.t5, "lm_head")]  # embed_tokens are two, of the encoder and of the decoder


@each(method=[LoRA(r=2), SSB(), DoRA(r=2)])
@pytest.mark.parametrize(("make", "seat"), ONE_PHI)
def test_one_phi_for_all_that_share_a_weight(make, seat, method, tmp_path):
    base, inputs = make(), inputs_of(make)
    plain, shared = copy.deepcopy(base), base.get_input_embeddings().weight
    config = SubspaceConfig(method=method, target_modules=[seat], init_weights=False, ensure_weight_tying=True)
    model = get_peft_model(base, config).eval()
    (layer,) = [m for m in model.modules() if isinstance(m, SubspaceLayer)]
    with torch.no_grad():  # the truth: one tensor, that of both
        plain.get_input_embeddings().weight.copy_(layer.frozen.as_stored(layer.tuned(["default"]).E.dense()))
    want = logits(plain, inputs)
    assert relative(logits(model, inputs), want) < 1e-5
    model(**inputs).logits.square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
    with model.disable_adapter():
        assert relative(logits(model, inputs), want) > 1e-4
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(make_like(make, base), tmp_path / "adapter")
    assert relative(logits(again, inputs), want) < 1e-5
    model.merge_adapter()
    assert relative(logits(model, inputs), want) < 1e-5
    assert base.get_output_embeddings().weight is layer.base_layer.weight or seat == SEATS[make][1]
    model.unmerge_adapter()
    assert {id(base.get_input_embeddings().weight), id(base.get_output_embeddings().weight)} == {id(shared)}
    merged = model.merge_and_unload()
    assert merged.get_output_embeddings().weight is merged.get_input_embeddings().weight
    merged.save_pretrained(tmp_path / "merged")
    read = type(merged).from_pretrained(tmp_path / "merged").eval()
    assert read.config.tie_word_embeddings
    assert relative(logits(read, inputs), want) < 1e-5


def make_like(make, tuned):
    """A fresh model with the frozen numbers of a tuned one."""
    fresh = make()
    held = {k.replace(".base_layer", ""): v for k, v in tuned.state_dict().items() if "subspace_" not in k}
    fresh.load_state_dict(held)
    return fresh


def test_one_phi_is_refused_where_nothing_shares_and_where_both_are_named():
    def put(**values):
        return get_peft_model(llama(), SubspaceConfig(ensure_weight_tying=True, **values))

    with pytest.raises(ValueError, match="no module shares its weight with one of those that are tuned"):
        put(method=LoRA(r=2), target_modules=["q_proj"])
    with pytest.raises(ValueError, match="name one"):
        put(method=LoRA(r=2), target_modules=["embed_tokens", "lm_head"])
    with pytest.raises(ValueError, match="dropout drops entries of rows"):
        put(method=LoRA(r=2, dropout=0.1), target_modules=["embed_tokens"])
    model = put(method=LoRA(r=2), target_modules=["embed_tokens"])
    with pytest.raises(ValueError, match="say ensure_weight_tying for this adapter too"):
        model.add_adapter("other", SubspaceConfig(method=SSB(), target_modules=["embed_tokens"]))


def test_unloading_leaves_weights_tied():
    base = llama()
    model = get_peft_model(base, SubspaceConfig(method=LoRA(r=2), target_modules=["lm_head"], init_weights=False))
    model.merge_adapter()
    model.unmerge_adapter()
    plain = model.unload()
    assert plain.lm_head.weight is plain.model.embed_tokens.weight
    assert plain.config.tie_word_embeddings


class Twice(nn.Module):
    """One module at two places."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.second = self.first
        self.other = nn.Linear(5, 5, bias=False)
        self.other.weight = self.first.weight

    def forward(self, x):
        return self.other(self.second(self.first(x).tanh()).tanh())


@each(method=[LoRA(r=2), SSB()])
def test_a_module_at_two_places_is_tuned_at_both(method):
    net, x = Twice(), torch.randn(3, 5)
    plain = net(x)
    model = get_peft_model(net, SubspaceConfig(method=method, target_modules=["first"], init_weights=False)).eval()
    tuned = model(x)
    assert net.first is net.second
    assert isinstance(net.second, SubspaceLayer)
    W, b = (v.detach() for v in (net.first.tuned(["default"]).E.dense(), net.first.tuned(["default"]).b.now()))
    torch.testing.assert_close(tuned, net.other(((x @ W + b).tanh() @ W + b).tanh()))
    model.merge_adapter()
    torch.testing.assert_close(model(x), tuned)
    model.unmerge_adapter()
    assert net.other.weight is net.first.weight
    merged = copy.deepcopy(model).merge_and_unload()
    assert merged.first is merged.second
    torch.testing.assert_close(merged(x), tuned)
    assert torch.equal(model.unload()(x), plain)
