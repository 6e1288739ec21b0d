"""Which modules a method takes when none are named: the paper's choice, for each architecture.

key_value_ff  key, value and first feed-forward weight of each block (SSL, SSB, (IA)3)
query_value   query and value weight of each self-attention (VeRA); with a fused weight, all that is fused in it
all           all weights of each block: query, key, value, attention output, both feed-forward
biases        every layer of the encoder that has a bias (BitFit)
sublayer_outputs  the last weights of attention and of feed-forward (Houlsby adapters)
ff_output     the last weight of the feed-forward (Pfeiffer adapters)
key           the key weight of each self-attention, where methods that sit on a block have their parameters (MAM)
"""

from __future__ import annotations

import re

from torch import nn

from subspace_tuning.weights import Unsupported, has_bias, weight_of

_BERT = {
    "key_value_ff": ["attention.self.key", "attention.self.value", "intermediate.dense"],
    "rest": ["attention.self.query", "attention.output.dense", "output.dense"],
}
_DEBERTA = {
    "key_value_ff": ["attention.self.key_proj", "attention.self.value_proj", "intermediate.dense"],
    "rest": ["attention.self.query_proj", "attention.output.dense", "output.dense"],
}
_LLAMA = {"key_value_ff": ["k_proj", "v_proj", "up_proj"], "rest": ["q_proj", "o_proj", "gate_proj", "down_proj"]}
_VIT = {
    "key_value_ff": ["k_proj", "v_proj", "fc1", "attention.key", "attention.value", "intermediate.dense"],
    "rest": ["q_proj", "o_proj", "fc2", "attention.query", "output.dense"],
}
BLOCKS: dict[str, dict[str, list[str]]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "electra": _BERT,
    "deberta": {"key_value_ff": ["in_proj", "intermediate.dense"], "rest": ["attention.output.dense", "output.dense"]},
    "deberta-v2": _DEBERTA,
    "distilbert": {"key_value_ff": ["k_lin", "v_lin", "ffn.lin1"], "rest": ["q_lin", "out_lin", "ffn.lin2"]},
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "mistral": _LLAMA,
    "gpt2": {"key_value_ff": ["attn.c_attn", "mlp.c_fc"], "rest": ["attn.c_proj", "mlp.c_proj"]},
    "t5": {
        "key_value_ff": ["k", "v", "wi", "wi_0", "wi_1"],
        "rest": ["q", "o", "wo"],
    },
    "vit": _VIT,
    "dinov2": _VIT,
}
QUERY_VALUE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra"), ("attention.self.query", "attention.self.value")),
    "deberta": ("in_proj",),
    "deberta-v2": ("attention.self.query_proj", "attention.self.value_proj"),
    "distilbert": ("q_lin", "v_lin"),
    **dict.fromkeys(("llama", "qwen2", "qwen3", "mistral"), ("q_proj", "v_proj")),
    "gpt2": ("attn.c_attn",),
    "t5": ("q", "v"),
    **dict.fromkeys(("vit", "dinov2"), ("q_proj", "v_proj", "attention.query", "attention.value")),
}
# the last weights of attention and of feed-forward, as regular expressions for the end of a module's name
OUTPUTS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("bert", "roberta", "xlm-roberta", "electra", "deberta", "deberta-v2"),
        (r"attention\.output\.dense", r"\d+\.output\.dense"),
    ),
    "distilbert": (r"attention\.out_lin", r"ffn\.lin2"),
    **dict.fromkeys(("llama", "qwen2", "qwen3", "mistral"), (r"o_proj", r"down_proj")),
    "gpt2": (r"attn\.c_proj", r"mlp\.c_proj"),
    "t5": (r"o", r"wo"),
    **dict.fromkeys(("vit", "dinov2"), (r"attention\.o_proj|attention\.output\.dense", r"mlp\.fc2|\d+\.output\.dense")),
}
# the weight that makes the keys, and nothing else, of attentions that take keys and values of before
KEYS: dict[str, str] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra"), "attention.self.key"),
    **dict.fromkeys(("llama", "qwen2", "qwen3", "mistral"), "k_proj"),
}
HEADS = {
    "classifier",
    "pre_classifier",
    "score",
    "pooler",
    "qa_outputs",
    "lm_head",
    "cls",
    "predictions",
    "sop_classifier",
    "layernorm_head",
    "out_proj",
}


def default_targets(places: str, model_type: str | None, model: nn.Module, kept: list[str] | None) -> set[str]:
    """Module names (suffixes, as ``target_modules`` takes them) for a kind of place in a model."""
    if places == "biases":
        return _with_bias(model, HEADS | set(kept or ()))
    if places == "key":
        if model_type not in KEYS:
            raise ValueError(
                f"blocks of the model type {model_type!r} are not known (known: {', '.join(sorted(KEYS))})"
            )
        return {KEYS[model_type]}
    block = BLOCKS.get(model_type or "")
    if block is None:
        raise ValueError(
            f"no default modules are known for the model type {model_type!r} (known: {', '.join(sorted(BLOCKS))}); "
            "name them with target_modules=[...] or target_modules='all-linear'"
        )
    if places in ("sublayer_outputs", "ff_output"):
        attention, ff = OUTPUTS[model_type or ""]
        ending = re.compile(rf"(?:.*\.)?(?:{ff if places == 'ff_output' else attention + '|' + ff})")
        return {name for name, _ in model.named_modules() if ending.fullmatch(name)}
    if places == "query_value":
        return set(QUERY_VALUE[model_type or ""])
    if places == "key_value_ff":
        return set(block["key_value_ff"])
    return set(block["key_value_ff"]) | set(block["rest"])


def _with_bias(model: nn.Module, heads: set[str]) -> set[str]:
    names = set()
    inside: tuple[str, ...] = ()  # modules that read the weights of their children and never call them
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            inside += (f"{name}.",)
        parts = name.split(".")
        if any(p in heads or p == "base_layer" or p.startswith("subspace_") for p in parts) or name.startswith(inside):
            continue
        layer = getattr(module, "base_layer", module)
        if not has_bias(layer):
            continue
        try:
            weight_of(layer)
        except Unsupported:
            continue
        names.add(name)
    if not names:
        raise ValueError(
            f"{type(model).__name__} has no bias outside its head: a method on biases finds nothing to train"
        )
    return names
