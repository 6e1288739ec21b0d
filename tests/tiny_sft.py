"""A tiny language model and rows that it can learn from, in a folder of a test."""

import json
import random
from pathlib import Path

import tiny_lm

ANIMALS, COLOURS = ["cat", "dog", "fox", "hen"], ["red", "blue", "green", "white"]


def model(folder: Path, **shape) -> Path:
    """A decoder of 2 layers of 16 with a byte-level tokenizer, as a checkpoint."""
    tiny_lm.tokenizer().save_pretrained(folder)
    tiny_lm.model(**shape).save_pretrained(folder)
    return folder


def chats(size: int, seed: int = 0) -> list[dict]:
    rng = random.Random(seed)
    return [
        {"question": f"The {rng.choice(ANIMALS)} sat {number}?", "answer": rng.choice(["yes 1", "no 2"])}
        for number in range(size)
    ]


def choices(size: int, seed: int = 0) -> list[dict]:
    """Questions of ARC's form."""
    rng = random.Random(seed)
    return [
        {
            "question": f"Which is {(right := rng.choice(COLOURS))} {number}?",
            "choices": {"text": COLOURS, "label": ["A", "B", "C", "D"]},
            "answerKey": "ABCD"[COLOURS.index(right)],
        }
        for number in range(size)
    ]


def preferences(size: int) -> list[dict]:
    return [{"prompt": f"{number} the cat", "chosen": " sat", "rejected": " yes"} for number in range(size)]


def disputed(size: int, seed: int = 0) -> list[dict]:
    """Preferences of which nothing can be learnt, so that some rows come out right and some do not."""
    said, rng = [" sat", " yes", " the mat was red", " no 2 cats"], random.Random(seed)
    drawn = (rng.sample(said, 2) for _ in range(size))
    return [{"prompt": f"{i} the cat", "chosen": good, "rejected": bad} for i, (good, bad) in enumerate(drawn)]


def write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def data(folder: Path, make=chats, train: int = 24, test: int = 8) -> Path:
    """A folder with train.jsonl and test.jsonl."""
    write(folder / "train.jsonl", make(train))
    write(folder / "test.jsonl", make(test, 1) if make is not preferences else make(test))
    return folder


def recipe(folder: Path, **values) -> dict:
    """A run on the tiny model that takes a second."""
    if not (folder / "model").exists():
        model(folder / "model")
    if "data" not in values:
        values["data"] = str(data(folder / "data"))
    usual = {"task": "sft", "method": "ssb", "learning_rate": 0.01, "max_steps": 3, "batch_size": 4, "log_every": 1}
    where = {
        "model": str(folder / "model"),
        "output": str(folder / "run"),
        "evaluate_every": "end",
        "save_every": "never",
    }
    return {**usual, **where, **values}
