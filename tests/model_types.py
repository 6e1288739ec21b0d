"""Tiny random models of many architectures: one table, from the model type to its class, its sizes and its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers as hf
from torch import nn

_BLOCK = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
_CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_WORDS = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_TEXT = {**_BLOCK, **_CALM, **_WORDS, "max_position_embeddings": 32, "type_vocab_size": 2}
_CAUSAL = {**_BLOCK, **_WORDS, "num_key_value_heads": 1, "max_position_embeddings": 32}
_MOE = {**_CAUSAL, "moe_intermediate_size": 12, "num_experts": 2, "num_local_experts": 2, "num_experts_per_tok": 1}
_GPT = {**_WORDS, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "rotary_dim": 4}
_IMAGE = {**_BLOCK, **_CALM, "image_size": 8, "patch_size": 4}
_STATE = {**_WORDS, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 4}
_TWO = {
    **_WORDS,
    **{"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "dropout": 0.0},
    **{"decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 32},
    **{"decoder_start_token_id": 1, "forced_eos_token_id": None, "scale_embedding": False},
}
_T5 = {**_WORDS, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2}
_T5 |= {"decoder_start_token_id": 0, "dropout_rate": 0.0}
_WAVE = {**_BLOCK, "vocab_size": 40, "conv_dim": (8,), "conv_kernel": (10,), "conv_stride": (5,)}
_WAVE |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "num_feat_extract_layers": 1}
_WAVE |= {"mask_time_prob": 0.0, "layerdrop": 0.0}


def _ids(*, labels: bool = True, **more: Any) -> dict[str, Any]:
    ids = torch.randint(4, 40, (2, 8))
    return {"input_ids": ids, **({"labels": ids} if labels else {}), **more}


def words() -> dict[str, Any]:
    """Tokens and a class each."""
    return {"input_ids": torch.randint(4, 40, (2, 8)), "labels": torch.arange(2)}


def tokens() -> dict[str, Any]:
    """Tokens, each its own label."""
    return _ids()


def bare() -> dict[str, Any]:
    """Tokens without labels."""
    return _ids(labels=False)


def images() -> dict[str, Any]:
    return {"pixel_values": torch.randn(2, 3, 8, 8), "labels": torch.arange(2)}


def pictures(side: int = 32) -> dict[str, Any]:
    """Images for models that halve them a few times."""
    return {"pixel_values": torch.randn(2, 3, side, side), "labels": torch.arange(2)}


def looks(side: int = 8) -> dict[str, Any]:
    """Images without labels."""
    return {"pixel_values": torch.randn(2, 3, side, side)}


def sounds() -> dict[str, Any]:
    return {"input_values": torch.randn(2, 200), "labels": torch.arange(2)}


def spectra() -> dict[str, Any]:
    return {"input_features": torch.randn(2, 8, 20), "labels": torch.randint(4, 40, (2, 8))}


def spectra_by_time() -> dict[str, Any]:
    return {"input_features": torch.randn(2, 20, 8), "labels": torch.randint(4, 40, (2, 8))}


def spectrograms() -> dict[str, Any]:
    return {"input_values": torch.randn(2, 8, 8), "labels": torch.arange(2)}


def captions() -> dict[str, Any]:
    """Images with words for each."""
    return {**looks(), **bare()}


def shown(places: int) -> Callable[[], dict[str, Any]]:
    """Images among words, at so many tokens."""

    def both() -> dict[str, Any]:
        ids = torch.randint(4, 40, (2, 8))
        ids[:, :places] = 3
        return {**looks(), "input_ids": ids, "labels": ids}

    return both


class Architecture(NamedTuple):
    """How a tiny model of a type is made, and what it takes."""

    kind: str  # the class, without the name of the library
    values: dict[str, Any]
    inputs: Callable[[], dict[str, Any]]

    def model(self, model_type: str) -> nn.Module:
        config = hf.AutoConfig.for_model(model_type, **self.values)
        torch.manual_seed(0)
        return getattr(hf, self.kind)(config).eval()


def _classify(name: str, **values: Any) -> Architecture:
    return Architecture(f"{name}ForSequenceClassification", {**_TEXT, **values}, words)


def _causal(name: str, **values: Any) -> Architecture:
    return Architecture(f"{name}ForCausalLM", {**_CAUSAL, **values}, tokens)


def _moe(name: str, **values: Any) -> Architecture:
    return Architecture(f"{name}ForCausalLM", {**_MOE, **values}, tokens)


def _gpt(name: str, head: str = "ForCausalLM", **values: Any) -> Architecture:
    return Architecture(f"{name}{head}", {**_GPT, **values}, tokens)


def _state(name: str, **values: Any) -> Architecture:
    return Architecture(f"{name}ForCausalLM", {**_STATE, **values}, tokens)


def _two(name: str, **values: Any) -> Architecture:
    return Architecture(f"{name}ForConditionalGeneration", {**_TWO, **values}, tokens)


def _t5(name: str, **values: Any) -> Architecture:
    return Architecture(f"{name}ForConditionalGeneration", {**_T5, **values}, tokens)


def _image(name: str, inputs: Callable[[], dict[str, Any]] = images, **values: Any) -> Architecture:
    return Architecture(f"{name}ForImageClassification", {**_IMAGE, **values}, inputs)


def _sees(name: str, **values: Any) -> Architecture:
    return Architecture(name, {**_IMAGE, **values}, looks)


def _plain(kind: str, inputs: Callable[[], dict[str, Any]], **values: Any) -> Architecture:
    return Architecture(kind, {**_WORDS, **values}, inputs)


def _sound(name: str, **values: Any) -> Architecture:
    return Architecture(f"{name}ForSequenceClassification", {**_WAVE, **values}, sounds)


_RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
_STAGES = {"image_size": 32, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "embed_dim": 16, "patch_size": 4}
_LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
_LATENT |= {"n_routed_experts": 2, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "n_shared_experts": 1}

_SPOKEN = {k: v for k, v in _TWO.items() if k not in _WORDS} | {"max_target_positions": 32}
_SPOKEN |= {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0, "begin_suppress_tokens": None}

ENCODERS = {
    "bert": _classify("Bert"),
    "roberta": _classify("Roberta"),
    "xlm-roberta": _classify("XLMRoberta"),
    "camembert": _classify("Camembert"),
    "electra": _classify("Electra", embedding_size=16),
    "deberta": _classify("Deberta", **{**_RELATIVE, "pos_att_type": "c2p|p2c"}),
    "deberta-v2": _classify("DebertaV2", **_RELATIVE),
    "distilbert": _classify("DistilBert", dim=16, n_layers=2, n_heads=2, hidden_dim=24),
    "albert": _classify("Albert", embedding_size=8),
    "mpnet": _classify("MPNet"),
    "layoutlm": _classify("LayoutLM"),
    "ernie": _classify("Ernie"),
    "convbert": _classify("ConvBert", embedding_size=16, head_ratio=1, conv_kernel_size=3),
    "data2vec-text": _classify("Data2VecText"),
    "esm": _classify("Esm", mask_token_id=3),
    "megatron-bert": _classify("MegatronBert"),
    "nystromformer": _classify("Nystromformer", num_landmarks=4, segment_means_seq_len=8),
    "rembert": _classify("RemBert", input_embedding_size=8, output_embedding_size=8),
    "roformer": _classify("RoFormer", embedding_size=16),
    "roberta-prelayernorm": _classify("RobertaPreLayerNorm"),
    "squeezebert": _classify("SqueezeBert", embedding_size=16, q_groups=1, k_groups=1, v_groups=1),
    "xmod": _classify("Xmod", languages=["en_XX"], default_language="en_XX", adapter_reduction_factor=2),
    "mobilebert": _classify("MobileBert", hidden_size=32, embedding_size=16, intra_bottleneck_size=16,
                           true_hidden_size=16),
    "longformer": _classify("Longformer", attention_window=4),
    "big_bird": _classify("BigBird", attention_type="original_full"),
    "modernbert": _classify("ModernBert", sep_token_id=2, cls_token_id=1, global_attn_every_n_layers=1),
    "nomic_bert": _classify("NomicBert"),
    "eurobert": _classify("EuroBert"),
    "funnel": _plain("FunnelForSequenceClassification", words, d_model=16, block_sizes=[1, 1], n_head=2, d_head=8,
                     d_inner=24),
    "xlnet": _plain("XLNetForSequenceClassification", words, d_model=16, n_layer=2, n_head=2, d_inner=24),
    "xlm": _classify("XLM", emb_dim=16, n_layers=2, n_heads=2),
    "fnet": _classify("FNet"),
    "canine": _classify("Canine", local_transformer_stride=4, attend_from_chunk_width=4, attend_to_chunk_width=4,
                        attend_from_chunk_stride=4, attend_to_chunk_stride=4, downsampling_rate=4,
                        attend_to_chunk=4, num_hash_functions=2, num_hash_buckets=16),
}  # fmt: skip
DECODERS = {
    "llama": _causal("Llama"),
    "qwen2": _causal("Qwen2"),
    "qwen3": _causal("Qwen3", head_dim=8),
    "mistral": _causal("Mistral"),
    "gemma": _causal("Gemma", head_dim=8),
    "gemma2": _causal("Gemma2", head_dim=8),
    "gemma3_text": _causal("Gemma3", head_dim=8),
    "phi": _causal("Phi"),
    "phi3": _causal("Phi3"),
    "stablelm": _causal("StableLm"),
    "starcoder2": _causal("Starcoder2"),
    "olmo": _causal("Olmo"),
    "olmo2": _causal("Olmo2"),
    "cohere": _causal("Cohere"),
    "granite": _causal("Granite"),
    "smollm3": _causal("SmolLM3"),
    "glm": _causal("Glm", head_dim=8),
    "nemotron": _causal("Nemotron"),
    "persimmon": _causal("Persimmon"),
    "helium": _causal("Helium", head_dim=8),
    "gpt_neox": _causal("GPTNeoX"),
    "biogpt": _causal("BioGpt"),
    "gpt2": _gpt("GPT2", "LMHeadModel"),
    "gptj": _gpt("GPTJ"),
    "codegen": _gpt("CodeGen", n_embd=32, n_head=4),
    "gpt_bigcode": _gpt("GPTBigCode"),
    "openai-gpt": _gpt("OpenAIGPT", "LMHeadModel"),
    "ctrl": _gpt("CTRL", "LMHeadModel", dff=24),
    "gpt_neo": _causal("GPTNeo", num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]], window_size=4),
    "bloom": _causal("Bloom", n_layer=2, n_head=2),
    "falcon": _causal("Falcon", new_decoder_architecture=False, multi_query=False, num_kv_heads=2),
    "mpt": _causal("Mpt", d_model=16, n_layers=2, n_heads=2, expansion_ratio=2, max_seq_len=32),
    "opt": _causal("OPT", ffn_dim=24, word_embed_proj_dim=16),
    "xglm": _causal("XGLM", d_model=16, num_layers=2, attention_heads=2, ffn_dim=24),
    "mixtral": _moe("Mixtral"),
    "qwen2_moe": _moe("Qwen2Moe", shared_expert_intermediate_size=12),
    "qwen3_moe": _moe("Qwen3Moe", head_dim=8),
    "olmoe": _moe("Olmoe"),
    "gpt_oss": _moe("GptOss", head_dim=8),
    "deepseek_v3": _moe("DeepseekV3", **_LATENT),
}
STATES = {
    "mamba": _state("Mamba"),
    "falcon_mamba": _state("FalconMamba"),
    "mamba2": _state("Mamba2", num_heads=4, head_dim=8, n_groups=1, chunk_size=4),
    "jamba": _moe("Jamba", attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1,
                  mamba_d_state=4, mamba_dt_rank=4, use_mamba_kernels=False),
}  # fmt: skip
SEQUENCES = {
    "t5": _t5("T5"),
    "mt5": _t5("MT5"),
    "umt5": _t5("UMT5"),
    "longt5": _t5("LongT5", local_radius=3),
    "switch_transformers": _t5("SwitchTransformers", num_experts=2, num_sparse_encoder_layers=1,
                               num_sparse_decoder_layers=1),
    "bart": _two("Bart"),
    "mbart": _two("MBart"),
    "pegasus": _two("Pegasus"),
    "blenderbot": _two("Blenderbot"),
    "m2m_100": _two("M2M100", encoder_layerdrop=0.0, decoder_layerdrop=0.0),
    "plbart": _two("PLBart"),
    "led": _two("LED", max_encoder_position_embeddings=32, max_decoder_position_embeddings=32, attention_window=4),
    "marian": Architecture("MarianMTModel", {**_TWO, "decoder_vocab_size": 40}, tokens),
    "prophetnet": _plain("ProphetNetForConditionalGeneration", tokens, hidden_size=16, num_encoder_layers=2,
                         num_decoder_layers=2, num_encoder_attention_heads=2, num_decoder_attention_heads=2,
                         encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=32),
}  # fmt: skip
VISION = {
    "vit": _image("ViT"),
    "deit": _image("DeiT"),
    "beit": _image("Beit"),
    "dinov2": _image("Dinov2", mlp_ratio=2),
    "vit_msn": _image("ViTMSN"),
    "swin": _plain("SwinForImageClassification", pictures, **_STAGES),
    "swinv2": _plain("Swinv2ForImageClassification", pictures, **_STAGES),
    "segformer": _image("Segformer", pictures, num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1],
                        hidden_sizes=[8, 16], num_attention_heads=[1, 2], patch_sizes=[3, 3], strides=[2, 2],
                        mlp_ratios=[2, 2]),
    "pvt": _image("Pvt", pictures, image_size=32, num_encoder_blocks=2, depths=[1, 1], sequence_reduction_ratios=[2, 1],
                  hidden_sizes=[8, 16], num_attention_heads=[1, 2], patch_sizes=[4, 2], strides=[4, 2],
                  mlp_ratios=[2, 2]),
    "convnext": _image("ConvNext", pictures, depths=[1, 1], hidden_sizes=[8, 16], num_stages=2),
    "resnet": _image("ResNet", pictures, depths=[1, 1], hidden_sizes=[8, 16], embedding_size=8),
    "dinov3_vit": _sees("DINOv3ViTModel"),
    "vit_mae": _sees("ViTMAEModel", decoder_hidden_size=16, decoder_num_hidden_layers=1, mask_ratio=0.5),
    "clip_vision_model": _sees("CLIPVisionModel"),
    "siglip_vision_model": _sees("SiglipVisionModel"),
    "blip_2_vision_model": _sees("Blip2VisionModel", initializer_range=0.02),
}  # fmt: skip
SPEECH = {
    "wav2vec2": _sound("Wav2Vec2"),
    "hubert": _sound("Hubert"),
    "wavlm": _sound("WavLM", num_buckets=8, max_bucket_distance=8),
    "unispeech": _sound("UniSpeech"),
    "data2vec-audio": _sound("Data2VecAudio"),
    "whisper": _plain("WhisperForConditionalGeneration", spectra, **_SPOKEN, num_mel_bins=8, max_source_positions=10),
    "speech_to_text": _plain("Speech2TextForConditionalGeneration", spectra_by_time, **_SPOKEN, conv_channels=16,
                             input_feat_per_channel=8, max_source_positions=32, num_conv_layers=1,
                             conv_kernel_sizes=[3]),
    "audio-spectrogram-transformer": _plain("ASTForAudioClassification", spectrograms, **_BLOCK, patch_size=4,
                                            frequency_stride=4, time_stride=4, max_length=8, num_mel_bins=8),
}  # fmt: skip
_EYES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
_EYES |= {"image_size": 8, "patch_size": 4, "projection_dim": 16}
_WORDY = {**_BLOCK, **_WORDS, "max_position_embeddings": 32, "projection_dim": 16, "num_hidden_layers": 1}
_TONGUE = {**_CAUSAL, "model_type": "llama", "num_hidden_layers": 1}
_SIGHT = {**_EYES, "model_type": "clip_vision_model", "num_hidden_layers": 2}
MIXED = {
    "clip": _plain("CLIPModel", captions, text_config=_WORDY, vision_config=_EYES, projection_dim=16),
    "siglip": _plain("SiglipModel", captions, text_config=_WORDY, vision_config=_EYES),
    "vilt": _plain("ViltModel", captions, **_IMAGE, max_position_embeddings=32, max_image_length=-1),
    "llava": _plain("LlavaForConditionalGeneration", shown(4), text_config=_TONGUE, vision_config=_SIGHT,
                    image_token_index=3),
    "paligemma": _plain("PaliGemmaForConditionalGeneration", shown(4), text_config={**_TONGUE, "model_type": "gemma",
                        "head_dim": 8}, vision_config={**_SIGHT, "model_type": "siglip_vision_model"},
                        image_token_index=3, projection_dim=16),
    "qwen2_vl": _plain("Qwen2VLForConditionalGeneration", tokens, text_config={**_CAUSAL, "rope_scaling": {
                       "type": "mrope", "mrope_section": [1, 1, 2]}}, vision_config={"depth": 1, "embed_dim": 16,
                       "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}),
    "blip-2": _plain("Blip2ForConditionalGeneration", shown(2), num_query_tokens=2, image_token_index=3,
                     vision_config={**_EYES}, qformer_config={**_TEXT, "encoder_hidden_size": 16,
                     "num_hidden_layers": 2}, text_config={**_TWO, "model_type": "opt", "hidden_size": 16,
                     "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 24, "word_embed_proj_dim": 16}),
}  # fmt: skip
ARCHITECTURES = {**ENCODERS, **DECODERS, **STATES, **SEQUENCES, **VISION, **SPEECH, **MIXED}
