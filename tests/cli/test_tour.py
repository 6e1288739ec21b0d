"""The commands of docs/tour.md run as they stand there, on a tiny model; each command's help says what comes next."""

import re
import shlex
from pathlib import Path

import pytest

import tiny
from command import subspace
from subspace_tuning.files import assets
from subspace_tuning.run import train

PAGE = Path(__file__).parents[2] / "docs" / "tour.md"
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.S) for line in block.splitlines()]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to be in, with tiny defaults."""
    monkeypatch.chdir(tmp_path)
    folder = tiny.model(tmp_path / "tiny")
    monkeypatch.setattr(assets, "default_model", lambda: folder)
    sentences = [assets.Review(row["text"], row["label"]) for row in tiny.rows(1200)]
    monkeypatch.setattr(assets, "movie_reviews", lambda: sentences)
    train._encoded.cache_clear()
    yield tmp_path
    train._encoded.cache_clear()


def test_the_tour_as_it_stands_in_the_page(here):
    said = {}
    for line in COMMANDS:
        tool, *words = shlex.split(line)
        assert tool == "subspace"
        code, said[line], err = subspace(*words)
        assert code == 0, f"{line}: {err}"
    assert "only in" not in said[COMMANDS[-1]]
    made = {path.name for path in (here / "runs" / "tour").iterdir()}
    assert made == {"full", "lora", "look", "fit", "extracted", "plain-lora", "merged"}
    assert (here / "runs/tour/look/spectra.png").is_file()
    assert (here / "runs/tour/extracted/adapter_model.safetensors").is_file()
    assert all((here / "runs/tour" / name / "certificate.json").is_file() for name in ("plain-lora", "merged"))


def test_help_says_what_comes_next():
    for name in {shlex.split(line)[1] for line in COMMANDS}:
        code, printed, _ = subspace(name, "--help")
        assert code == 0
        assert "Next" in printed, name
