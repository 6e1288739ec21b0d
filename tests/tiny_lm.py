"""A tiny language model with a byte-level tokenizer, for tests of what reads and writes text."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WORDS = ["the", "Ġthe", "Ġcat", "Ġsat", "Ġyes", "Ġno", "Question", "Answer"]


def tokenizer(template: str | None = TEMPLATE, **special) -> PreTrainedTokenizerFast:
    """One token a byte, a few words, and special tokens."""
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            merges.append((word[: end - 1], word[end - 1]))
            pieces.append(word[:end])
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(["<pad>", "<eos>", *pieces]))}
    made = Tokenizer(models.BPE(vocabulary, list(dict.fromkeys(merges))))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    named = {"pad_token": "<pad>", "eos_token": "<eos>"} | special
    named = {name: token for name, token in named.items() if token is not None}
    return PreTrainedTokenizerFast(tokenizer_object=made, chat_template=template, **named)


def model(**shape) -> LlamaForCausalLM:
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = {"vocab_size": 320, "max_position_embeddings": 256, "eos_token_id": 1, "pad_token_id": 0} | size | shape
    return LlamaForCausalLM(LlamaConfig(**config)).eval()


def saved(folder: Path) -> Path:
    model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
