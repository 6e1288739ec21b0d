"""The leaderboard: its committed entries follow from their runs, and what does not is refused."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from command import subspace
from subspace_tuning.errors import BadInput
from subspace_tuning.study import leaderboard, reproduce

ROOT = Path(__file__).parents[2]
STUDY = leaderboard.protocol(["ssb"], "runs/leaderboard", path=ROOT / leaderboard.PROTOCOL)
FILES = sorted((ROOT / "leaderboard").glob("*.json"))
SSB = leaderboard.Entry.model_validate_json((ROOT / "leaderboard" / "ssb.json").read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_committed_entry_follows_from_its_runs(path):
    found = leaderboard.Entry.model_validate_json(path.read_text(encoding="utf-8"))
    leaderboard.check(found, STUDY)
    assert path.name == leaderboard.file_name(found.method)
    assert path.read_text(encoding="utf-8") == leaderboard.written(found)


def changed(run, **values):
    runs = [r.model_copy(update=values) if r == run else r for r in SSB.runs]
    return SSB.model_copy(update={"runs": runs})


FINAL, TRIED = SSB.of("final", "stsb")[0], SSB.of("tuning", "stsb")[0]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (SSB.model_copy(update={"mean": SSB.mean + 0.01}), "the mean over tasks is"),
        (SSB.model_copy(update={"means": {**SSB.means, "rte": 0.9}}), "do not follow from its runs"),
        (changed(FINAL, score=0.99), "do not follow from its runs"),
        (changed(FINAL, learning_rate=1.0), "took another rate"),
        (changed(FINAL, seed=5), "final seeds are"),
        (changed(TRIED, seed=0), "those of tuning"),
        (changed(TRIED, learning_rate=SSB.of("tuning", "stsb")[1].learning_rate), "three learning rates"),
        (SSB.model_copy(update={"runs": [r for r in SSB.runs if r.task != "rte"]}), "the protocol's tasks are"),
    ],
)
def test_what_is_not_of_the_protocol_is_refused(found, said):
    with pytest.raises(BadInput, match=said):
        leaderboard.check(found, STUDY)


def test_a_file_that_is_no_entry_is_named(tmp_path):
    (tmp_path / "odd.json").write_text('{"method": "ssb", "extra": 1}')
    with pytest.raises(BadInput, match=r"odd\.json"):
        leaderboard.read(tmp_path)
    with pytest.raises(BadInput, match="a clone of the repository"):
        leaderboard.protocol(["ssb"], "x", path=tmp_path / "none.yaml")


def test_a_method_is_run_by_the_protocol_and_becomes_an_entry(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    code, printed, err = subspace("leaderboard", "run", "lora", "--set", "r=8", "--data", "glue", "--dry-run")
    assert code == 0, err
    wanted = yaml.safe_load(printed)
    study = yaml.safe_load((ROOT / leaderboard.PROTOCOL).read_text())
    assert [m["name"] for m in wanted["methods"]] == ["lora"]
    assert {k: wanted[k] for k in ("tasks", "seeds", "tuning", "models")} == {
        k: study[k] for k in ("tasks", "seeds", "tuning", "models")
    }
    runs = pd.read_csv(ROOT / "docs" / "data" / "minilm_glue.csv")
    monkeypatch.setattr(reproduce, "perform", lambda *args: True)
    monkeypatch.setattr("subspace_tuning.sweep.results.gather", lambda folder: runs)
    words = ("lora", "--set", "r=8", "--by", SSB.by, "--into", tmp_path)
    code, printed, err = subspace("leaderboard", "run", *words)
    assert code == 0, err
    assert (tmp_path / "lora-r-8.json").read_text() == (ROOT / "leaderboard" / "lora-r-8.json").read_text()
    code, printed, err = subspace("leaderboard", "check", tmp_path)
    assert code == 0, err
    assert "| 1 | `lora(r=8)` | 331,776 |" in printed


def test_an_entry_needs_final_runs():
    runs = pd.read_csv(ROOT / "docs" / "data" / "minilm_glue.csv")
    with pytest.raises(BadInput, match="no final run of nothing"):
        leaderboard.entry(runs, "nothing", "me")
