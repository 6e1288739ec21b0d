"""Which modules a method takes: the paper's for each architecture, or those that are named, as in PEFT."""

import re

import pytest
import torch
from peft import get_peft_model

from cases import ON_LAYERS, each
from model_types import ARCHITECTURES
from models import ALL, batch, bert, deberta_v2, distilbert, gpt2, llama, qwen2, t5, t5_gated, vit
from subspace_tuning import METHODS, SSB, BitFit, LoRA, SubspaceConfig
from subspace_tuning.errors import BadInput
from subspace_tuning.methods import VeRA
from subspace_tuning.testing.cases import adapter_parameters
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.tuner.names import Unmatched
from subspace_tuning.tuner.put_on import put_on

LLAMA = (
    ["self_attn.k_proj", "self_attn.v_proj", "mlp.up_proj"],
    [
        *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
        *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    ],
)
BERT = (
    ["attention.self.key", "attention.self.value", "intermediate.dense"],
    [
        *("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
        *("intermediate.dense", "output.dense"),
    ],
)
DEBERTA = tuple(
    [n.replace("key", "key_proj").replace("value", "value_proj").replace("query", "query_proj") for n in b]
    for b in BERT
)
VIT = (
    ["attention.k_proj", "attention.v_proj", "mlp.fc1"],
    [
        *("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj", "mlp.fc1", "mlp.fc2"),
    ],
)
# architecture -> (key, value and first feed-forward; all weights) of one block, and where the blocks stand
BLOCKS = {
    "bert": (*BERT, "bert.encoder.layer.{}"),
    "roberta": (*BERT, "roberta.encoder.layer.{}"),
    "electra": (*BERT, "electra.encoder.layer.{}"),
    "deberta_v2": (*DEBERTA, "deberta.encoder.layer.{}"),
    "distilbert": (
        ["attention.k_lin", "attention.v_lin", "ffn.lin1"],
        ["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2"],
        "distilbert.transformer.layer.{}",
    ),
    "llama": (*LLAMA, "model.layers.{}"),
    "qwen2": (*LLAMA, "model.layers.{}"),
    "qwen3": (*LLAMA, "model.layers.{}"),
    "mistral": (*LLAMA, "model.layers.{}"),
    "gpt2": (
        ["attn.c_attn.key", "attn.c_attn.value", "mlp.c_fc"],
        ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
        "transformer.h.{}",
    ),
    "vit": (*VIT, "vit.layers.{}"),
    "dinov2": (*VIT, "dinov2.encoder.layer.{}"),
}
QUERY_VALUE = {
    **dict.fromkeys(("bert", "roberta", "electra"), ("attention.self.query", "attention.self.value")),
    "deberta_v2": ("attention.self.query_proj", "attention.self.value_proj"),
    "distilbert": ("attention.q_lin", "attention.v_lin"),
    **dict.fromkeys(("llama", "qwen2", "qwen3", "mistral"), ("self_attn.q_proj", "self_attn.v_proj")),
    "gpt2": ("attn.c_attn.query", "attn.c_attn.value"),
    **dict.fromkeys(("vit", "dinov2"), ("attention.q_proj", "attention.v_proj")),
}


def tuned(model):
    """Names of the tuned modules."""
    inner = getattr(getattr(model, "base_model", None), "model", model)
    return {name for name, module in inner.named_modules() if isinstance(module, SubspaceLayer)}


def apply(make, method, **values):
    return get_peft_model(make(), SubspaceConfig(method=method, **values))


def expected(name, places):
    few, every, where = BLOCKS[name]
    chosen = few if places == "key_value_ff" else QUERY_VALUE[name] if places == "query_value" else every
    return {f"{where.format(i)}.{part}" for i in range(2) for part in chosen}


@each(method=[SSB(), LoRA(r=2), SSB() | LoRA(r=2), VeRA(r=2)], make=[m for m in ALL if m.__name__ in BLOCKS])
def test_the_papers_modules_are_the_default(make, method):
    assert tuned(apply(make, method)) == expected(make.__name__, method.places)


@each(name=ON_LAYERS)
def test_every_methods_default_modules(name):
    places = METHODS[name].places
    found = tuned(apply(bert, name))
    if places in ("all", "key_value_ff"):
        assert found == expected("bert", places)
    assert found
    assert not any("classifier" in module or "pooler" in module for module in found)


OUTPUTS = {  # architecture -> the last weights of attention and of feed-forward
    **dict.fromkeys(("bert", "roberta", "electra", "deberta_v2"), ("attention.output.dense", "output.dense")),
    "distilbert": ("attention.out_lin", "ffn.lin2"),
    **dict.fromkeys(("llama", "qwen2", "qwen3", "mistral"), ("self_attn.o_proj", "mlp.down_proj")),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    **dict.fromkeys(("vit", "dinov2"), ("attention.o_proj", "mlp.fc2")),
}


@each(make=[m for m in ALL if m.__name__ in BLOCKS])
def test_adapters_sit_after_the_sublayers(make):
    *_, where = BLOCKS[make.__name__]
    for name, parts in (("houlsby", OUTPUTS[make.__name__]), ("pfeiffer", OUTPUTS[make.__name__][1:])):
        model = apply(make, name)
        assert tuned(model) == {f"{where.format(i)}.{part}" for i in range(2) for part in parts}
        model.add_adapter("second", SubspaceConfig(method=name))
        assert model.peft_config["second"].target_modules == model.peft_config["default"].target_modules


@each(make=[t5, t5_gated])
def test_adapters_of_t5_sit_after_every_sublayer(make):
    assert len(tuned(apply(make, "houlsby"))) == 2 * (2 + 3)  # the decoder attends twice in each block
    assert len(tuned(apply(make, "pfeiffer"))) == 2 * 2


@each(make=[t5, t5_gated])
def test_t5_takes_every_attention_and_feed_forward(make):
    inputs = ["wi_0", "wi_1"] if make is t5_gated else ["wi"]
    for method, attention, ff in ((SSB(), "kv", inputs), (LoRA(r=2), "qkvo", [*inputs, "wo"])):
        found = tuned(apply(make, method))
        assert {name.rsplit(".", 1)[1] for name in found} == {*attention, *ff}
        assert len(found) == 2 * (3 * len(attention) + 2 * len(ff))  # self-attention twice, cross-attention once


HEADS = ("classifier", "pooler", "score", "lm_head", "pre_classifier", "qa_outputs")


@each(make=ALL)
def test_bitfit_takes_every_bias_but_the_heads(make):
    plain = make()
    biased = {name for name, p in plain.named_parameters() if name.split(".")[-1] == "bias"}
    wanted = {name.removesuffix(".bias") for name in biased if not set(name.split(".")) & set(HEADS)}
    if not wanted:
        with pytest.raises(ValueError, match="has no bias outside its head"):
            apply(make, BitFit())
        return
    model = apply(make, BitFit())
    assert tuned(model) == wanted
    assert sum(p.numel() for p in adapter_parameters(model).values()) == sum(
        plain.get_parameter(f"{name}.bias").numel() for name in wanted
    )
    model(**batch(make)).loss.backward()
    assert all(p.grad is not None for p in adapter_parameters(model).values())


HEADS_OF = [(bert, {"classifier"}), (deberta_v2, {"classifier"}), (distilbert, {"classifier", "pre_classifier"})]


def test_the_head_is_trained_whole_and_not_tuned():
    for make, own in HEADS_OF:
        model = apply(make, LoRA(r=2), task_type="SEQ_CLS")
        assert not any(set(name.split(".")) & set(HEADS) for name in tuned(model))
        head = {k for k, p in model.named_parameters() if p.requires_grad} - set(adapter_parameters(model))
        assert {name.split(".")[2] for name in head} == own
        assert all(".modules_to_save.default." in name for name in head)


def test_names_a_regular_expression_and_all_linear():
    assert {n.rsplit(".", 1)[1] for n in tuned(apply(bert, SSB(), target_modules=["query", "key"]))} == {"query", "key"}
    found = tuned(apply(bert, SSB(), target_modules=r".*layer\.1\.attention\.self\.(query|value)"))
    assert found == {f"bert.encoder.layer.1.attention.self.{n}" for n in ("query", "value")}
    plain = bert()
    linear = {n for n, m in plain.named_modules() if isinstance(m, torch.nn.Linear) and n != "classifier"}
    assert tuned(apply(bert, SSB(), target_modules="all-linear", task_type="SEQ_CLS")) == linear
    assert len(tuned(apply(llama, LoRA(r=2), target_modules="all-linear", task_type="CAUSAL_LM"))) == 14
    assert len(tuned(apply(gpt2, LoRA(r=2), target_modules="all-linear", task_type="CAUSAL_LM"))) == 8


def test_excluded_modules_and_chosen_layers():
    assert not any(".key" in n for n in tuned(apply(bert, SSB(), exclude_modules=["key"])))
    assert not any("layer.0" in n for n in tuned(apply(bert, LoRA(r=2), exclude_modules=r".*layer\.0.*")))
    only = tuned(apply(bert, LoRA(r=2), layers_to_transform=[1]))
    assert only == {n for n in expected("bert", "all") if "layer.1" in n}
    named = tuned(apply(llama, LoRA(r=2), layers_to_transform=0, layers_pattern="layers", target_modules=["q_proj"]))
    assert named == {"model.layers.0.self_attn.q_proj"}
    with pytest.raises(ValueError, match="layers_to_transform"):
        SubspaceConfig(method="ssb", target_modules=".*query", layers_to_transform=[1])
    with pytest.raises(ValueError, match="layers_to_transform"):
        SubspaceConfig(method="ssb", target_modules=["query"], layers_pattern="layer")


@each(name=["houlsby", "pfeiffer", "bitfit", "ssb"])
def test_chosen_layers_hold_for_every_kind_of_place(name):
    every = tuned(apply(bert, name))
    only = tuned(apply(bert, name, layers_to_transform=[1]))
    assert only == {n for n in every if "layer.0" not in n}
    assert only < every


def test_embeddings_and_convolutions_can_be_named():
    model = apply(bert, SSB(), target_modules=["word_embeddings"])
    assert tuned(model) == {"bert.embeddings.word_embeddings"}
    model(**batch()).loss.backward()
    model = apply(vit, LoRA(r=2), target_modules=["projection"])
    assert len(tuned(model)) == 1
    model(**batch(vit)).loss.backward()
    assert all(p.grad is not None for p in adapter_parameters(model).values())


def test_patterns_override_rank_and_scale():
    model = apply(
        bert,
        LoRA(r=4, alpha=8.0),
        target_modules=["query", "key", "value"],
        rank_pattern={"query": 2, r"layer\.1\.attention\.self\.value": 3},
        alpha_pattern={"key": 1.0},
    )
    methods = {n: m.methods["default"] for n, m in model.named_modules() if isinstance(m, SubspaceLayer)}
    for name, method in methods.items():
        r = 2 if "query" in name else 3 if "1.attention.self.value" in name else 4
        assert (method.r, method.alpha) == (r, 1.0 if "key" in name else 8.0)
    shapes = {k: p.shape for k, p in adapter_parameters(model).items() if k.endswith(".A")}
    assert all(
        shape[1] == (2 if "query" in k else 3 if "1.attention.self.value" in k else 4) for k, shape in shapes.items()
    )


def test_patterns_reach_the_members_of_a_composition_and_constrained_methods():
    model = apply(bert, SSB() | LoRA(r=4), mpc="o", target_modules=["query", "key"], rank_pattern={"query": 2})
    for name, layer in model.named_modules():
        if isinstance(layer, SubspaceLayer):
            assert layer.subspace_params["default"]["1_A"].shape[1] == (2 if "query" in name else 4)


def test_an_unknown_architecture_asks_for_names():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = torch.nn.Linear(4, 4)

        def forward(self, x):
            return self.lin(x)

    with pytest.raises(ValueError, match="target_modules"):
        get_peft_model(Odd(), SubspaceConfig(method="ssb"))
    assert tuned(get_peft_model(Odd(), SubspaceConfig(method="ssb", target_modules="all-linear"))) == {"lin"}


def test_what_cannot_be_told_is_said_with_what_there_is():
    with pytest.raises(ValueError, match=r"no repeated blocks.* target_modules=\['lin'\]"):
        get_peft_model(torch.nn.ModuleDict({"lin": torch.nn.Linear(4, 4)}), SubspaceConfig(method="ssb"))
    fnet = ARCHITECTURES["fnet"].model("fnet")
    ready = r"target_modules=\['intermediate.dense', 'output.dense'\]"
    with pytest.raises(ValueError, match=rf"query_value .* intermediate.dense 16 x 24 \(up\), .*{ready}"):
        get_peft_model(fnet, SubspaceConfig(method="vera"))


def test_biases_of_attention_outputs_are_no_heads():
    model = ARCHITECTURES["bart"].model("bart")
    found = tuned(get_peft_model(model, SubspaceConfig(method="bitfit")))
    assert "model.encoder.layers.0.self_attn.out_proj" in found


def test_language_towers_are_taken_and_peers_both():
    llava = tuned(get_peft_model(ARCHITECTURES["llava"].model("llava"), SubspaceConfig(method="ssb")))
    assert llava == {f"model.language_model.layers.0.{n}" for n in LLAMA[0]}
    for name in ("clip", "siglip"):
        towers = {n.split(".")[0] for n in tuned(get_peft_model(ARCHITECTURES[name].model(name), SubspaceConfig()))}
        assert towers == {"text_model", "vision_model"}


def test_head_of_qwen_is_left_alone():
    assert not any("lm_head" in n for n in tuned(apply(qwen2, LoRA(r=2))))


@each(
    given=[
        {"target_modules": ["key", "valeu"]},
        {"target_modules": ["key"], "layers_to_transform": [1, 7]},
        {"target_modules": ["key"], "modules_to_save": ["classifier", "poller"]},
        {"target_modules": ["key"], "exclude_modules": ["quary"]},
        {"target_modules": ["key"], "rank_pattern": {"keys": 3}},
    ]
)
def test_a_name_that_matches_nothing_is_named_beside_others_that_do(given):
    (lost,) = {"valeu", "7", "poller", "quary", "keys"} & set(re.findall(r"\w+", str(given)))
    with pytest.warns(Unmatched, match=rf"'?{lost}'? matches no"):
        model = get_peft_model(bert(), SubspaceConfig(method=LoRA(r=2), **given))
    with pytest.warns(Unmatched, match=rf"'?{lost}'? matches no"):
        model.add_adapter("other", SubspaceConfig(method=LoRA(r=2), **given))
    with pytest.raises(BadInput, match=rf"'?{lost}'? matches no"):
        put_on(bert(), SubspaceConfig(method=LoRA(r=2), **given))
