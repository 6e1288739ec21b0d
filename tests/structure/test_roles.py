"""What a weight is called is what it does: seen from the attention that its outputs make."""

import copy
from functools import cache

import pytest
import torch
from torch import Tensor

from model_types import ARCHITECTURES
from subspace_tuning.structure.blocks import language_tower, read
from subspace_tuning.structure.fused import fused
from subspace_tuning.structure.roles import (
    ATTENTION,
    DOWN,
    EXPERTS,
    FEED_FORWARD,
    GATE,
    GATE_UP,
    KEY,
    KV,
    OUTPUT,
    QKV,
    QUERY,
    UP,
    VALUE,
    Weight,
    roles,
    within,
)
from subspace_tuning.tuner.targets import default_targets
from subspace_tuning.weights.slices import Fused

AT = 1  # the token that is disturbed
FURTHER = {
    "falcon, keys shared by some": ("falcon", {"new_decoder_architecture": True, "num_attention_heads": 4}),
    "falcon, keys shared by all": ("falcon", {"multi_query": True}),
    "gpt_bigcode, keys of each": ("gpt_bigcode", {"multi_query": False}),
    "phi3, keys of each": ("phi3", {"num_key_value_heads": 2}),
}


@cache
def eager(name):
    """A model that says how its tokens look at each other, its inputs, and its weights."""
    kind, changes = FURTHER.get(name, (name, {}))
    architecture = ARCHITECTURES[kind]
    model = architecture._replace(values={**architecture.values, **changes}).model(kind)
    model.set_attn_implementation("eager")
    tower = language_tower(model)
    return model, architecture.inputs(), [w for w in read(model) if within(w.name, tower)]


def attention(model, inputs) -> Tensor:
    """How much each token of the first block looks at each."""
    torch.manual_seed(0)  # some pick the patches that they see
    found = model(**inputs, output_attentions=True)
    held = next(v for k, v in found.items() if k in ("attentions", "encoder_attentions") and v is not None)
    return held[0].detach()


def looks(model, inputs, weight, columns) -> str:
    """What changes when some outputs of a weight do, at one token: how it looks, how it is looked at, or neither."""

    def disturb(module, args, output):
        output = output.clone()
        output[..., AT, columns] += 3 * torch.randn(*output.shape[:-2], len(columns))
        return output

    before = attention(model, inputs)
    handle = model.get_submodule(weight.name).register_forward_hook(disturb)
    change = (attention(model, inputs) - before).abs() > 1e-6
    handle.remove()
    others = torch.arange(change.shape[-2]) != AT
    return KEY if change[..., others, :].any() else QUERY if change.any() else VALUE


UNSEEN = {
    **dict.fromkeys(("convnext", "fnet", "resnet", "mamba", "falcon_mamba", "mamba2"), "no attention"),
    **dict.fromkeys(("squeezebert", "clip", "siglip", "qwen2_vl", "blip-2"), "hands out its attention otherwise"),
    **dict.fromkeys(("longformer", "led", "nystromformer"), "not between each token and each"),
    **dict.fromkeys(("xlnet", "wavlm"), "its layers are not called"),
    "deepseek_v3": "keys and values in two steps",
}


@pytest.mark.parametrize("name", [name for name in (*ARCHITECTURES, *FURTHER) if name not in UNSEEN])
def test_queries_look_keys_are_looked_at_and_values_neither(name):
    model, inputs, weights = eager(name)
    block = next(w.block for w in weights if w.part == ATTENTION and w.role in (QUERY, QKV))
    seen = set()
    for w in weights:
        if w.block == block and w.part == ATTENTION and w.role in (QUERY, KEY, VALUE, QKV):
            layout = fused(model, w, weights) or Fused(1, ((w.role, w.m),))
            for role, _ in layout.run:
                assert looks(model, inputs, w, layout.columns(role)) == role, (w.name, role)
                seen.add(role)
    assert seen == {QUERY, KEY, VALUE}


@pytest.mark.parametrize("name", ["phi3", "glm", "modernbert"])
def test_what_is_gated_is_doubled_and_the_gate_is_not(name):
    model, _, weights = eager(name)
    w = next(w for w in weights if w.role == GATE_UP)
    layout = fused(model, w, weights)
    block = model.get_submodule(w.name.rpartition(".")[0])
    x = torch.randn(2, 5, w.n)
    y = block(x)
    for role, doubles in ((UP, True), (GATE, False)):
        other = copy.deepcopy(block)
        with torch.no_grad():
            other.get_submodule(w.name.rpartition(".")[2]).weight[layout.columns(role)] *= 2
        assert torch.allclose(other(x), 2 * y, atol=1e-6) == doubles


def test_experts_are_told_with_their_layout():
    for name, run in (("mixtral", ((GATE, 24), (UP, 24))), ("gpt_oss", ((GATE, 1), (UP, 1)))):
        model, _, weights = eager(name)
        w = next(w for w in weights if w.role == GATE_UP)
        assert (w.part, w.is_layer, w.copies, w.n, w.m) == (EXPERTS, False, 2, 16, 48)
        assert fused(model, w, weights).run == run


def test_columns_cover_the_weight_once():
    layout = Fused(2, ((QUERY, 2), (KEY, 1), (VALUE, 1)))
    assert layout.columns(QUERY).tolist() == [0, 1, 4, 5]
    assert layout.columns(VALUE).tolist() == [3, 7]
    assert layout.width == 8
    with pytest.raises(ValueError, match="no column is called 'gate'; there are query, key, value"):
        layout.columns(GATE)


def test_an_unknown_layout_is_not_guessed():
    model, _, weights = eager("gpt2")
    model.config.model_type = "something else"
    try:
        assert fused(model, next(w for w in weights if w.role == QKV), weights) is None
    finally:
        model.config.model_type = "gpt2"


def test_a_wrapped_layer_goes_by_the_name_of_what_wraps_it():
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    found = roles([Weight(f"self_attn.{name}.linear", 16, 16) for name in names])
    assert [role for _, role in found.values()] == [QUERY, KEY, VALUE, OUTPUT]


def test_a_feed_forward_called_key_and_value_is_no_attention():
    found = roles([Weight("ff.key", 16, 24), Weight("ff.receptance", 16, 16), Weight("ff.value", 24, 16)])
    assert {name: found[name] for name in ("ff.key", "ff.value")} == {
        "ff.key": (FEED_FORWARD, UP),
        "ff.value": (FEED_FORWARD, DOWN),
    }


def test_the_order_of_registration_does_not_matter_where_sizes_tell():
    weights = [Weight("mlp.b", 24, 16), Weight("mlp.a", 16, 24), *(Weight(f"att.{n}", 16, 16) for n in "qkvo")]
    assert {name: role for name, (_, role) in roles(weights).items() if "mlp" in name} == {"mlp.a": UP, "mlp.b": DOWN}


def test_keys_and_values_in_two_steps_are_taken_where_they_are_made():
    model, _, weights = eager("deepseek_v3")
    told = {w.short: w.role for w in weights if w.part == ATTENTION}
    assert told == {
        "self_attn.q_a_proj": "query_latent",
        "self_attn.q_b_proj": QUERY,
        "self_attn.kv_a_proj_with_mqa": "key_value_latent",
        "self_attn.kv_b_proj": KV,
        "self_attn.o_proj": OUTPUT,
    }
    taken = default_targets("key_value_ff", model)
    assert taken == {"self_attn.kv_b_proj", "mlp.up_proj", "mlp.shared_experts.up_proj", "mlp.experts.gate_up_proj"}
