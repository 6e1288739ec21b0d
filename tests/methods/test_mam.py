"""MAM: keys and values in front of attention, a bottleneck beside the whole feed-forward, against plain matrices."""

import contextlib
import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from torch import nn
from torch.nn import functional as F

import tiny
from cases import each
from model_types import ARCHITECTURES, DECODERS, MIXED
from models import batch, bert, deberta_v2, distilbert, electra, gpt2, llama, mistral, qwen2, qwen3, roberta, t5
from papers import FIXTURES
from subspace_tuning import SSB, LoRA, SubspaceConfig
from subspace_tuning.errors import BadInput
from subspace_tuning.methods import MAM
from subspace_tuning.run import recipe as recipes
from subspace_tuning.run.merged import merge
from subspace_tuning.run.predict import Predictor
from subspace_tuning.run.train import run
from subspace_tuning.testing.cases import adapter_parameters
from subspace_tuning.testing.law import relative
from subspace_tuning.tuner.blocks import seen_too
from subspace_tuning.tuner.budget import budget
from subspace_tuning.tuner.targets import default_targets
from subspace_tuning.weights import Unsupported

METHOD = MAM(tokens=3, r=5, s=4.0)
MODELS = [bert, roberta, electra, llama, qwen2, qwen3, mistral]


def mam(model, **values):
    """A model with MAM from random parameters, switched to evaluation."""
    return get_peft_model(model, SubspaceConfig(method=METHOD, init_weights=False, **values)).eval()


def seats(model):
    """Of each block, its attention and the parameters of MAM."""
    found = {}
    for name, p in adapter_parameters(model).items():
        path, _, own = name.rpartition(".subspace_params.default.")
        found.setdefault(path, {})[own] = p
    return [(model.get_submodule(path.rpartition(".")[0]), values) for path, values in found.items()]


def plain(layer):
    return getattr(layer, "base_layer", layer)


def heads(t, count):
    return t.unflatten(-1, (count, -1)).transpose(-2, -3)


def attend(Q, K, V, seen):
    """softmax(Q K^T / sqrt(d)) V of one head after the other; seen (queries, keys)."""
    scores = Q @ K.transpose(-1, -2) / math.sqrt(Q.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -torch.inf), -1) @ V


# --- against plain matrices ------------------------------------------------------------------------------------------


def test_berts_block_is_the_equation():
    """One whole layer of BERT, padding included, written out anew."""
    model = mam(bert(num_hidden_layers=1).double())
    ((_, p),) = seats(model)
    layer = model.base_model.model.bert.encoder.layer[0]
    own, out, ff1, ff2 = layer.attention.self, layer.attention.output, layer.intermediate.dense, layer.output
    ids, mask = torch.randint(4, 40, (2, 6)), torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    x = model.base_model.model.bert.embeddings(ids)
    Q, K, V = (heads(plain(f)(x), 2) for f in (own.query, own.key, own.value))
    front_K, front_V = (heads(p[k], 2).expand(2, -1, -1, -1) for k in "KV")
    seen = torch.cat([torch.ones(2, 3), mask], 1).bool()[:, None, None, :]
    mixed = attend(Q, torch.cat([front_K, K], 2), torch.cat([front_V, V], 2), seen).transpose(1, 2).flatten(2)
    y = out.LayerNorm(out.dense(mixed) + x)
    beside = 4.0 * torch.relu(y @ p["A"]) @ p["B"]
    want = ff2.LayerNorm(ff2.dense(F.gelu(ff1(y))) + y + beside)
    got = model.base_model.model.bert(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(got[mask.bool()], want[mask.bool()], rtol=1e-9, atol=1e-9)


def test_llamas_block_is_the_equation():
    """One decoder layer, causal, with fewer heads for keys than for queries: written out anew."""
    base = llama().double()
    config = copy.deepcopy(base.config)
    config.num_hidden_layers, config.num_key_value_heads = 1, 1
    model = mam(type(base)(config).double())
    ((_, p),) = seats(model)
    inner = model.base_model.model.model
    layer, ids = inner.layers[0], torch.randint(4, 40, (2, 6))
    own, x = layer.self_attn, inner.embed_tokens(ids)
    cos, sin = inner.rotary_emb(x, torch.arange(6)[None])

    def turned(t):
        first, second = t.chunk(2, -1)
        return t * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]

    h = layer.input_layernorm(x)
    Q, K, V = (heads(plain(f)(h), n) for f, n in ((own.q_proj, 2), (own.k_proj, 1), (own.v_proj, 1)))
    K, V = torch.cat([p["K"].expand(2, 1, -1, -1), turned(K)], 2), torch.cat([p["V"].expand(2, 1, -1, -1), V], 2)
    seen = torch.cat([torch.ones(6, 3), torch.ones(6, 6).tril()], 1).bool()
    y = x + own.o_proj(attend(turned(Q), K, V, seen).transpose(1, 2).flatten(2))
    h = layer.post_attention_layernorm(y)
    beside = 4.0 * torch.relu(h @ p["A"]) @ p["B"]
    want = inner.norm(y + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(h)) * layer.mlp.up_proj(h)) + beside)
    torch.testing.assert_close(inner(ids).last_hidden_state, want, rtol=1e-9, atol=1e-9)


@each(make=MODELS)
def test_both_kinds_of_attention_agree_with_and_without_padding(make):
    inputs = batch(make)
    masks = [None, torch.tensor([[1] * 7, [0] * 2 + [1] * 5, [0] * 6 + [1]])]
    model = mam(make())
    for mask in masks:
        logits = []
        for how in ("sdpa", "eager"):
            model.base_model.model.set_attn_implementation(how)
            logits.append(model(input_ids=inputs["input_ids"], attention_mask=mask).logits)
        kept = slice(None) if mask is None or logits[0].dim() == 2 else mask.bool()
        torch.testing.assert_close(logits[0][kept], logits[1][kept], rtol=1e-4, atol=1e-5)


@each(make=[llama, qwen3])
def test_generating_token_by_token_is_one_forward(make):
    model, ids = mam(make()), torch.randint(4, 40, (2, 7))
    whole = model(input_ids=ids).logits
    cache, steps = None, []
    for piece in (ids[:, :4], ids[:, 4:5], ids[:, 5:]):
        out = model(input_ids=piece, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        steps.append(out.logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-4, atol=1e-5)
    assert cache.get_seq_length() == 7  # what is in front is nobody's past


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 3))
def test_a_mask_of_numbers_and_one_of_truths_say_the_same(queries, more, past):
    seen = torch.ones(1, 1, queries, past + queries, dtype=torch.bool).tril(past)
    added = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)
    wide = seen_too(seen, more)
    assert torch.equal(wide, seen_too(added, more) == 0)
    assert wide[..., :more].all()
    assert torch.equal(wide[..., more:], seen)


def test_a_cache_of_fixed_length_generates_the_same():
    model, ids = mam(llama()), torch.randint(4, 40, (2, 5))
    how = {"input_ids": ids, "max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    want = model.generate(**how, use_cache=False)
    assert want.shape == (2, 9)
    assert torch.equal(model.generate(**how), want)
    assert torch.equal(model.generate(**how, cache_implementation="static", disable_compile=True), want)


@pytest.mark.skipif(
    torch.__version__ < "2.7", reason="torch 2.6 cannot trace transformers' models whole, with or without"
)
@each(make=[bert, llama])
def test_compilers_trace_it_whole(make):
    model, inputs = mam(make()), batch(make)
    want = model(**inputs).logits
    compiled = torch.compile(model.base_model.model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(**inputs).logits, want)


# --- training, saving, switching -------------------------------------------------------------------------------------


@each(make=MODELS, checkpointing=[False, True])
def test_gradients_reach_its_parameters_alone(make, checkpointing):
    model = mam(make()).train()
    if checkpointing:
        model.base_model.model.gradient_checkpointing_enable({"use_reentrant": False})
    model(**batch(make)).loss.backward()
    mine = adapter_parameters(model)
    assert len(seats(model)) == 2
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in mine), name
        assert name not in mine or parameter.grad.abs().max() > 0, name


def test_without_what_is_in_front_it_starts_as_the_identity():
    base, inputs = bert(), batch()
    want = base(**inputs).logits
    model = get_peft_model(base, SubspaceConfig(method=METHOD)).eval()
    assert relative(model(**inputs).logits, want) > 1e-4
    for attention, _ in seats(model):
        attention._forward_pre_hooks.clear()
    torch.testing.assert_close(model(**inputs).logits, want)


@each(make=[bert, llama])
def test_round_trip(make, tmp_path):
    base, inputs = make(), batch(make)
    fresh, plainly = copy.deepcopy(base), base(**inputs).logits
    model = mam(base)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(fresh, tmp_path).eval()
    want = model(**inputs).logits
    assert again.peft_config["default"].method == METHOD
    assert torch.equal(again(**inputs).logits, want)
    assert torch.equal(copy.deepcopy(again)(**inputs).logits, want)
    with again.disable_adapter():
        assert torch.equal(again(**inputs).logits, plainly)
    unloaded = again.unload()
    assert torch.equal(unloaded(**inputs).logits, plainly)


def test_it_lives_beside_other_adapters():
    model, inputs = mam(bert()), batch()
    alone = model(**inputs).logits
    model.add_adapter("lora", SubspaceConfig(method=LoRA(r=2), init_weights=False))
    assert torch.equal(model(**inputs).logits, alone)
    model.set_adapter("lora")
    lora = model(**inputs).logits
    assert relative(lora, alone) > 1e-4
    with pytest.raises(ValueError, match="sits on whole blocks"):
        model(**inputs, adapter_names=["default", "lora", "default"])
    model.delete_adapter("default")
    assert torch.equal(model(**inputs).logits, lora)


@each(make=MODELS)
def test_the_count_is_the_formula(make):
    model = mam(make())
    d = 16
    for attention, values in seats(model):
        layer = next(m for m in attention.children() if hasattr(m, "subspace_params"))
        n, m = layer.frozen.shape
        assert n == d
        assert sum(v.numel() for v in values.values()) == 2 * 3 * m + 2 * 5 * d == METHOD.count(n, m)


def test_the_budget_is_the_formula():
    path = str(FIXTURES / "roberta-base" / "config.json")
    assert budget(path, SubspaceConfig(method="mam")).trainable == 12 * (2 * 30 * 768 + 2 * 512 * 768)


def test_a_run_trains_predicts_and_refuses_to_merge(tmp_path):
    recipe = recipes.make(tiny.recipe(tmp_path, method={"name": "mam", "tokens": 3, "r": 5}, epochs=1))
    result = run(recipe)
    assert result.trainable == 2 * METHOD.count(16, 16)
    (judged,) = Predictor(tmp_path / "run")([("the film was good",)])
    assert judged.answer in ("good", "bad")
    with pytest.raises(BadInput, match=r"mam.* is not a map of the weight alone and cannot be merged"):
        merge(tmp_path / "run", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_transformers_own_loading_knows_it(tmp_path):
    base, inputs = bert(), batch()
    fresh = copy.deepcopy(base)
    base.add_adapter(SubspaceConfig(method=METHOD, init_weights=False))
    base.save_pretrained(tmp_path)
    fresh.load_adapter(str(tmp_path))
    assert torch.equal(fresh.eval()(**inputs).logits, base.eval()(**inputs).logits)


def test_it_computes_under_a_half_precision_base():
    model = mam(bert()).to(torch.bfloat16)
    for p in adapter_parameters(model).values():
        p.data = p.data.float()
    inputs = batch()
    assert model(**inputs).logits.dtype == torch.bfloat16
    model.train()(**inputs).loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in adapter_parameters(model).values())


# --- what it refuses -------------------------------------------------------------------------------------------------


REFUSED = {
    deberta_v2: "takes none of before",
    distilbert: "takes none of before",
    gpt2: r"no default modules of the kind key .* attn.c_attn 16 x 48 \(query\+key\+value\)",
    t5: "takes none of before",
}


@each(make=list(REFUSED))
def test_other_architectures_are_refused(make):
    with pytest.raises(ValueError, match=REFUSED[make]):
        mam(make())


def test_wrong_uses_end_in_one_sentence():
    model = bert()
    want = model(**(inputs := batch())).logits
    with pytest.raises(ValueError, match="at their key weight"):
        mam(model, target_modules=["query"])
    assert torch.equal(model(**inputs).logits, want)
    with pytest.raises(ValueError, match="at their key weight"):
        get_peft_model(nn.Sequential(nn.Linear(4, 4)), SubspaceConfig(method=METHOD, target_modules=["0"]))
    with pytest.raises(ValueError, match="composes with nothing"):
        SSB() | METHOD
    with pytest.raises(ValueError, match="sits on a block"):
        SubspaceConfig(method=METHOD, mpc="o")
    with pytest.raises(ValueError, match="not a map of the weight alone"):
        mam(bert()).merge_adapter()
    with pytest.raises(ValueError, match="tokens is a whole number"):
        MAM(tokens=0)


# --- blocks of other architectures -----------------------------------------------------------------------------------


def seated(name, how="eager"):
    """An architecture with MAM on its blocks, or None where it is refused in a sentence."""
    torch.manual_seed(0)
    model = ARCHITECTURES[name].model(name)
    with contextlib.suppress(ValueError):
        model.set_attn_implementation(how)
    with contextlib.suppress(Unsupported):
        return mam(model)
    return None


def is_causal(model, ids):
    other = torch.cat([ids[:, :-1], (ids[:, -1:] + 1) % 40], 1)
    return torch.allclose(model(input_ids=other).logits[:, :-1], model(input_ids=ids).logits[:, :-1], atol=1e-5)


def has_keys(name):
    """Whether an architecture has a weight for keys alone in its blocks."""
    with contextlib.suppress(ValueError):
        return bool(default_targets("key", ARCHITECTURES[name].model(name)))
    return False


TAKEN = {
    *("bert", "roberta", "xlm-roberta", "camembert", "electra", "ernie", "data2vec-text", "roberta-prelayernorm"),
    *("xmod", "eurobert", "llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text", "phi", "stablelm"),
    *("starcoder2", "olmo", "olmo2", "cohere", "granite", "smollm3", "glm", "nemotron", "helium", "llava"),
    *("paligemma", "qwen2_vl"),
}


def test_these_architectures_are_taken():
    assert {name for name in ARCHITECTURES if has_keys(name) and seated(name)} == TAKEN


@each(name=sorted(TAKEN))
def test_each_query_sees_what_is_put_in_front(name):
    model, inputs = seated(name), ARCHITECTURES[name].inputs()
    found = model(**inputs, output_attentions=True)
    looks = next(v for k, v in found.items() if k.endswith("attentions") and not k.startswith("cross") and v)[0]
    length = inputs["input_ids"].shape[1]
    assert looks.shape[-2:] == (length, length + METHOD.tokens)
    assert (looks[..., : METHOD.tokens] > 0).all()
    assert torch.allclose(looks.sum(-1), torch.ones(()))
    found.loss.backward()
    moved = {k.rpartition(".")[2] for k, p in adapter_parameters(model).items() if p.grad.any()}
    assert moved == {"K", "V", "A", "B"}


@each(name=[name for name in sorted(TAKEN) if name in DECODERS or name in MIXED], how=["eager", "sdpa"])
def test_no_token_sees_a_later_one_and_caches_change_nothing(name, how):
    model, inputs = seated(name, how), {"input_ids": ARCHITECTURES[name].inputs()["input_ids"]}
    with model.disable_adapter():
        if not is_causal(model, inputs["input_ids"]):
            pytest.skip("reads both ways")
    assert is_causal(model, inputs["input_ids"])
    whole = model(**inputs, use_cache=False).logits
    first = model(input_ids=inputs["input_ids"][:, :5], use_cache=True)
    rest = model(input_ids=inputs["input_ids"][:, 5:], past_key_values=first.past_key_values)
    assert torch.allclose(torch.cat([first.logits, rest.logits], 1), whole, atol=1e-5)
