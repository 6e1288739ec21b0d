"""A tiny model with a word-level tokenizer, and data that it can learn, in a folder of a test."""

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

GOOD, BAD = ["good", "great", "fine"], ["bad", "awful", "dull"]
FILLER = ["the", "film", "was", "a", "story", "of", "two", "people"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def model(folder: Path, **shape) -> Path:
    """An encoder of 2 layers of 16 without a head, as a checkpoint."""
    words = {word: i for i, word in enumerate(SPECIAL + GOOD + BAD + FILLER)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **named).save_pretrained(folder)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    size |= {"max_position_embeddings": 32} | shape
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(words), **size)).save_pretrained(folder)
    return folder


def sentence(rng: random.Random, good: int) -> str:
    words = [*rng.choices(FILLER, k=rng.randint(2, 6)), rng.choice(GOOD if good else BAD)]
    rng.shuffle(words)
    return " ".join(words)


def rows(size: int, seed: int = 0) -> list[dict]:
    """Rows with text, a second text, a class and a number."""
    rng = random.Random(seed)
    labels = [i % 2 for i in range(size)]
    return [
        {
            "text": sentence(rng, label),
            "other": sentence(rng, label),
            "label": label,
            "number": label + rng.random() / 9,
        }
        for label in labels
    ]


def jsonl(path: Path, content: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


def data(folder: Path, train: int = 96, validation: int = 40) -> Path:
    """A folder with train.jsonl and validation.jsonl."""
    jsonl(folder / "train.jsonl", rows(train))
    jsonl(folder / "validation.jsonl", rows(validation, seed=1))
    return folder


def recipe(folder: Path, **changes) -> dict:
    """A recipe of a run that takes a second: model and data are made in the folder unless they are there."""
    if not (folder / "model").exists():
        model(folder / "model")
        data(folder / "data")
    values = {
        "model": str(folder / "model"),
        "task": "classification",
        "data": str(folder / "data"),
        "labels": ["bad", "good"],
        "method": "ssb",
        "learning_rate": 0.01,
        "epochs": 2,
        "batch_size": 16,
        "output": str(folder / "run"),
    }
    return {**values, **changes}
