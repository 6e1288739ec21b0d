"""Tiny random mixtures of experts of several architectures, whose routers send tokens to all experts."""

import torch
import transformers as hf
from torch import nn

MODELS = {
    "mixtral": hf.MixtralConfig,
    "qwen2_moe": hf.Qwen2MoeConfig,
    "qwen3_moe": hf.Qwen3MoeConfig,
    "gpt_oss": hf.GptOssConfig,
    "deepseek_v3": hf.DeepseekV3Config,
    "olmoe": hf.OlmoeConfig,
    "llama4_text": hf.Llama4TextConfig,
}
SMALL = {"hidden_size": 16, "intermediate_size": 24, "moe_intermediate_size": 12, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 40, "eos_token_id": 2}
SMALL |= {"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "pad_token_id": 0}
SMALL |= {"shared_expert_intermediate_size": 12, "intermediate_size_mlp": 24, "interleave_moe_layer_step": 1}
SMALL |= {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
SMALL |= {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "max_position_embeddings": 32}


def mixture(name: str = "mixtral", how: str = "eager", **values) -> nn.Module:
    """A causal language model. how: its ``experts_implementation``."""
    torch.manual_seed(0)
    sizes = {k: v for k, v in (SMALL | values).items() if (name, k) != ("deepseek_v3", "head_dim")}
    net = hf.AutoModelForCausalLM.from_config(MODELS[name](**sizes), experts_implementation=how).eval()
    for p in net.parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=0.3)
    return net
