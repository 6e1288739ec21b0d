"""Tiny random models of every architecture whose default modules are known."""

import torch
import transformers as hf
from torch import nn

_BLOCK = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
_CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_TEXT = {**_BLOCK, **_CALM, "vocab_size": 40, "max_position_embeddings": 32}
_CAUSAL = {**_BLOCK, "vocab_size": 40, "num_key_value_heads": 2, "max_position_embeddings": 32}
_IMAGE = {**_BLOCK, "image_size": 8, "patch_size": 4}


def bert(**values) -> nn.Module:
    """A classifier of two labels."""
    return hf.BertForSequenceClassification(hf.BertConfig(**{**_TEXT, **values})).eval()


def roberta() -> nn.Module:
    return hf.RobertaForSequenceClassification(hf.RobertaConfig(**_TEXT)).eval()


def electra() -> nn.Module:
    return hf.ElectraForSequenceClassification(hf.ElectraConfig(**_TEXT, embedding_size=16)).eval()


def deberta_v2() -> nn.Module:
    relative = {"relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True}
    shape = {**_TEXT, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0, "position_biased_input": False}
    return hf.DebertaV2ForSequenceClassification(hf.DebertaV2Config(**shape, **relative)).eval()


def distilbert() -> nn.Module:
    shape = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "vocab_size": 40, "max_position_embeddings": 32}
    return hf.DistilBertForSequenceClassification(hf.DistilBertConfig(**shape)).eval()


def llama() -> nn.Module:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**_CAUSAL)).eval()


def qwen2() -> nn.Module:
    return hf.Qwen2ForCausalLM(hf.Qwen2Config(**_CAUSAL)).eval()


def qwen3() -> nn.Module:
    return hf.Qwen3ForCausalLM(hf.Qwen3Config(**_CAUSAL, head_dim=8)).eval()


def mistral() -> nn.Module:
    return hf.MistralForCausalLM(hf.MistralConfig(**_CAUSAL)).eval()


def gpt2() -> nn.Module:
    shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": 40}
    return hf.GPT2LMHeadModel(hf.GPT2Config(**shape, bos_token_id=1, eos_token_id=2)).eval()


def t5(**values) -> nn.Module:
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": 40}
    return hf.T5ForConditionalGeneration(hf.T5Config(**shape, decoder_start_token_id=0, **values)).eval()


def t5_gated() -> nn.Module:
    return t5(feed_forward_proj="gated-gelu")


def vit() -> nn.Module:
    return hf.ViTForImageClassification(hf.ViTConfig(**_IMAGE)).eval()


def dinov2() -> nn.Module:
    return hf.Dinov2ForImageClassification(hf.Dinov2Config(**_IMAGE, mlp_ratio=2)).eval()


TEXT = [bert, roberta, electra, deberta_v2, distilbert]
CAUSAL = [llama, qwen2, qwen3, mistral, gpt2]
SEQ2SEQ = [t5, t5_gated]
VISION = [vit, dinov2]
ALL = [*TEXT, *CAUSAL, *SEQ2SEQ, *VISION]


def batch(make=bert, size: int = 3) -> dict[str, torch.Tensor]:
    """Inputs and labels for a model."""
    if make in VISION:
        return {"pixel_values": torch.randn(size, 3, 8, 8), "labels": torch.arange(size) % 2}
    ids = torch.randint(4, 40, (size, 7))
    return {"input_ids": ids, "labels": torch.arange(size) % 2 if make in TEXT else ids}
