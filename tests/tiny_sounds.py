"""Tiny models of sounds, and sounds that they can learn, in a folder of a test."""

import json
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from scipy.io import wavfile
from tokenizers import pre_tokenizers

RATE = 16_000
SAYS = ("low", "high")
_BLOCK = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
# a frame holds 640 samples, so that a sound has as many as "high" has letters
_CONV = {"conv_dim": (8, 8), "conv_kernel": (40, 32), "conv_stride": (20, 32), "num_feat_extract_layers": 2}
_DROPPED = ("hidden", "activation", "attention", "feat_proj", "final")
_STILL = {"mask_time_prob": 0.0, "layerdrop": 0.0, **{f"{what}_dropout": 0.0 for what in _DROPPED}}
_PLACES = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
_WAV2VEC2 = {**_BLOCK, **_CONV, **_PLACES, **_STILL, "initializer_range": 0.2}
_SIDES = {
    f"{part}_{what}": n
    for part in ("encoder", "decoder")
    for what, n in {"layers": 1, "attention_heads": 2, "ffn_dim": 24}.items()
}


def sound(high: bool, rng: np.random.Generator, rate: int = RATE) -> np.ndarray:
    """A fifth of a second of a tone, 300 or 2,000 Hz, and noise: int16."""
    t = np.arange(rate // 5) / rate
    tone = np.sin(2 * np.pi * (2000 if high else 300) * t + rng.uniform(0, 6)) + rng.normal(0, 0.1, len(t))
    return (tone * 8000).astype(np.int16)


def data(folder: Path, sizes: dict[str, int] | None = None) -> Path:
    """train.jsonl and validation.jsonl, with a path, a text and a class a row."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, size in (sizes or {"train": 32, "validation": 12}).items():
        rows = []
        for i in range(size):
            wavfile.write(folder / f"{part}{i}.wav", RATE, sound(bool(i % 2), rng))
            rows.append({"audio": f"{part}{i}.wav", "text": SAYS[i % 2], "label": SAYS[i % 2]})
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def wav2vec2(folder: Path) -> Path:
    """Without a head, with letters."""
    folder.mkdir(parents=True)
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *sorted(set("".join(SAYS)))]
    (folder / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(letters)}))
    torch.manual_seed(0)
    config = hf.Wav2Vec2Config(**_WAV2VEC2, vocab_size=len(letters), classifier_proj_size=16)
    hf.Wav2Vec2Model(config).save_pretrained(folder)
    tokenizer = hf.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    hf.Wav2Vec2Processor(hf.Wav2Vec2FeatureExtractor(sampling_rate=RATE), tokenizer).save_pretrained(folder)
    return folder


def whisper(folder: Path) -> Path:
    """One that hears a second."""
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
    pieces = {piece: i for i, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = hf.WhisperTokenizer(vocab=pieces, merges=[], pad_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.set_prefix_tokens()
    end, start = tokenizer.convert_tokens_to_ids(special[:2])
    torch.manual_seed(0)
    shape = {"d_model": 16, "num_mel_bins": 8, "max_source_positions": 50, "max_target_positions": 24, **_SIDES}
    marks = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}
    config = hf.WhisperConfig(vocab_size=len(tokenizer), **shape, **marks)
    hf.WhisperForConditionalGeneration(config).save_pretrained(folder)
    heard = hf.WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    hf.WhisperProcessor(heard, tokenizer).save_pretrained(folder)
    return folder
