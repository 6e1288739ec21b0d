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
from command import subspace
from subspace_tuning.run.predict import Predictor
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run as train

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: re.findall(r"```python\n(.*?)```", part, re.S) for part in PAGE.split("\n## ")[1:]}
PIPELINES = "An adapter's folder as a model, and pipelines"
OF_A_RUN = (PIPELINES, 1)
BLOCKS = [(title, n) for title, blocks in SECTIONS.items() for n in range(len(blocks)) if (title, n) != OF_A_RUN]
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
    if title == PIPELINES and not Path("runs/both").is_dir():
        run("PEFT's own calls", 0, names())
    run(title, number, names() | (drawing(home) if title == "diffusers" else {}))


def run(title, number, space):
    space |= {"__name__": "client"}
    exec(compile(SECTIONS[title][number], f"clients.md: {title}", "exec"), space)
    return space


def test_a_pipeline_says_what_the_run_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(make(tiny.recipe(tmp_path, output="runs/my-run", epochs=1)))
    (line,) = re.findall(r"```bash\n(subspace merge .*)\n```", PAGE)
    code, _, err = subspace(*line.split()[1:])
    assert code == 0, err
    told = run(PIPELINES, 1, {})["told"]
    (wanted,) = Predictor("runs/my-run")(["It never came."])
    assert (told["label"], told["score"]) == (wanted.answer, pytest.approx(wanted.score, abs=1e-4))


def test_there_are_lines_to_run():
    assert len(BLOCKS) >= 10
