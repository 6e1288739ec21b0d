"""The lines of docs/clients.md run as they stand there, where tiny models lie under the names that they use."""

import os

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import re
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import LlamaForCausalLM

import tiny
import tiny_lm

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: re.findall(r"```python\n(.*?)```", part, re.S) for part in PAGE.split("\n## ")[1:]}
BLOCKS = [(title, number) for title, blocks in SECTIONS.items() for number in range(len(blocks))]
NEEDS = {
    "TRL": "trl",
    "sentence-transformers": "sentence_transformers",
    "A few examples a class": "sentence_transformers",
}
NEEDS |= {"Lightning": "lightning", "diffusers": "diffusers"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clients")
    tiny.model(folder / "roberta-base")
    tiny.model(folder / "sentence-transformers" / "all-MiniLM-L6-v2")
    lm = folder / "HuggingFaceTB" / "SmolLM2-135M-Instruct"
    made: LlamaForCausalLM = tiny_lm.model()
    made.save_pretrained(lm)
    tiny_lm.tokenizer().save_pretrained(lm)
    return folder


def names():
    """What the page calls rows, batches and texts."""
    prompts = ["Question the cat", "Answer the cat", "Question yes", "Answer no"] * 2
    ids = torch.randint(5, 18, (8, 6))
    rows = [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": i % 2} for i, row in enumerate(ids)]
    chosen = {"prompt": prompts, "chosen": [" yes"] * 8, "rejected": [" no"] * 8}
    told = tiny.rows(8)
    pairs = {
        "first": [r["text"] for r in told],
        "second": [r["other"] for r in told],
        "score": [r["number"] for r in told],
    }
    return {
        "rows": rows,
        "batches": torch.utils.data.DataLoader(rows, batch_size=4),
        "texts": Dataset.from_dict({"text": prompts}),
        "prompts": Dataset.from_dict({"prompt": prompts}),
        "preferences": Dataset.from_dict(chosen),
        "pairs": Dataset.from_dict(pairs),
        "sentences": pairs["first"],
        "labels": [r["label"] for r in told],
    }


def drawing(home):
    """A U-net under the name that the page has, and what it is asked."""
    from test_diffusers import unet

    model, noisy = unet()
    model.save_pretrained(home / "stable-diffusion-v1-5" / "stable-diffusion-v1-5" / "unet")
    return {"noisy": noisy, "noise": torch.randn(2, 4, 8, 8)}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("title", "number"), BLOCKS, ids=[f"{title}-{number}" for title, number in BLOCKS])
def test_the_lines_run(title, number, home, monkeypatch):
    pytest.importorskip(NEEDS.get(title, "peft"))
    monkeypatch.chdir(home)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    if title.startswith("An adapter's folder") and not Path("runs/both").is_dir():
        run("PEFT's own calls", 0, names())
    run(title, number, names() | (drawing(home) if title == "diffusers" else {}))


def run(title, number, space):
    exec(compile(SECTIONS[title][number], f"clients.md: {title}", "exec"), space | {"__name__": "client"})


def test_there_are_lines_to_run():
    assert len(BLOCKS) >= 10
