"""docs/tasks.md: every kind has its section, and what stands there runs, where tiny models lie under the names used."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

import tiny
import tiny_lm
import tiny_pictures
import tiny_seq2seq
import tiny_sounds
from command import subspace
from subspace_tuning.run.recipe import make, read
from subspace_tuning.run.train import run
from subspace_tuning.tasks.registry import kinds

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}
KINDS = [name for name in SECTIONS if name in kinds()]
MODELS = {
    "roberta-base": tiny.model,
    "sentence-transformers/all-MiniLM-L6-v2": tiny.model,
    "google-t5/t5-small": tiny_seq2seq.t5,
    "HuggingFaceTB/SmolLM2-135M-Instruct": tiny_lm.saved,
    "facebook/dinov2-small": tiny_pictures.model,
    "nvidia/mit-b0": tiny_pictures.segformer,
    "facebook/wav2vec2-base": tiny_sounds.wav2vec2,
    "facebook/wav2vec2-base-960h": tiny_sounds.wav2vec2,
    "openai/whisper-tiny.en": tiny_sounds.whisper,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("tasks")


def block(section, language):
    (found,) = re.findall(rf"```{language}\n(.*?)```", section, re.S)
    return found


def attachments(folder, rows):
    """The files that rows name."""
    noise = np.random.default_rng(0)
    for name in re.findall(r'"([\w-]+\.(?:png|wav))"', rows):
        if name.endswith(".wav"):
            wavfile.write(folder / name, tiny_sounds.RATE, tiny_sounds.sound(True, noise))
        else:
            shape = (32, 32) if "mask" in name else (32, 32, 3)
            Image.fromarray(noise.integers(0, 2, shape, dtype=np.uint8)).save(folder / name)


def test_every_kind_has_a_section():
    assert [name for name in SECTIONS if name not in kinds()] == ["One of your own"]
    assert sorted(KINDS) == list(kinds())


@pytest.mark.parametrize("kind", KINDS)
def test_a_section_says_what_a_row_is(kind):
    assert f"A row is {kinds()[kind].row.removeprefix('a row is ')}" in " ".join(SECTIONS[kind].split())


def test_the_command_lists_every_kind_with_its_row():
    code, out, err = subspace("tasks")
    assert code == 0, err
    assert all(f"{name}\n  a row     {kind.row}\n" in out for name, kind in kinds().items())


@pytest.mark.filterwarnings("ignore::subspace_tuning.tasks.metrics.Undefined")
@pytest.mark.parametrize("kind", KINDS)
def test_the_lines_run(kind, home, monkeypatch):
    monkeypatch.chdir(home)
    run_section(kind, SECTIONS[kind])


def run_section(kind, section):
    """The rows, the recipe and the question of a section, in the folder one is in."""
    recipe, rows = block(section, "yaml"), block(section, "json")
    told = dict(re.findall(r"(\w+): (\S+)", recipe))
    if not Path(told["model"]).is_dir():
        MODELS[told["model"]](Path(told["model"]))
    folder = Path(told["data"])
    folder.mkdir(parents=True)
    for part in ("train", "validation"):
        (folder / f"{part}.jsonl").write_text(rows * 2, encoding="utf-8")
    attachments(folder, rows)
    Path("recipe.yaml").write_text(recipe, encoding="utf-8")
    code, out, err = subspace("data", "recipe.yaml")
    assert code == 0, err
    assert f"{kind}, to train on: 4 rows" in out
    run(make({**read(Path("recipe.yaml")), "max_steps": 1, "evaluate_every": "end", "save_every": "never"}))
    code, out, err = subspace(*shlex.split(block(section, "bash").replace("$'", "'").replace("\\t", "\t"))[1:])
    assert code == 0, err
    assert out.strip()
