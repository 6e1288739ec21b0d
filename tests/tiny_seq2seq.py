"""Tiny models that write texts, with the tokenizer of tiny.py, in a folder of a test."""

from pathlib import Path

import torch
from transformers import AutoTokenizer, BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

import tiny

_SIDE = {"layers": 1, "attention_heads": 2, "ffn_dim": 24}
_MARKS = {"pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 2}


def t5(folder: Path) -> Path:
    told = {"vocab_size": len(AutoTokenizer.from_pretrained(tiny.model(folder))), "d_model": 16, **_MARKS}
    torch.manual_seed(0)
    shape = {"d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(**shape, **told)).save_pretrained(folder)
    return folder


def bart(folder: Path) -> Path:
    told = {"vocab_size": len(AutoTokenizer.from_pretrained(tiny.model(folder))), "d_model": 16, **_MARKS}
    torch.manual_seed(0)
    sides = {f"{part}_{what}": n for part in ("encoder", "decoder") for what, n in _SIDE.items()}
    config = BartConfig(
        **told, **sides, init_std=0.5, dropout=0.0, bos_token_id=2, max_position_embeddings=64, forced_eos_token_id=None
    )
    BartForConditionalGeneration(config).save_pretrained(folder)
    return folder


BASES = {"t5": t5, "bart": bart}
