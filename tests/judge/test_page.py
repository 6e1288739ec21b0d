"""The blocks of docs/judging.md run one after the other as they stand there, on a tiny model."""

import re
from pathlib import Path

import pytest

import tiny_lm
from subspace_tuning.files import assets
from subspace_tuning.judge import JUDGEMENTS
from subspace_tuning.judge.questions import FORMATS
from subspace_tuning.judge.written import METRICS

TEXT = (Path(__file__).parents[2] / "docs" / "judging.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_blocks_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("lm_eval")
    tiny_lm.model().save_pretrained(tmp_path / "model")
    tiny_lm.tokenizer().save_pretrained(tmp_path / "model")
    monkeypatch.setattr(assets, "smollm2", lambda: tmp_path / "model")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    kinds = dict(JUDGEMENTS)
    names = {"__name__": "judging_page"}
    try:
        for block in BLOCKS:
            exec(compile(block, "docs/judging.md", "exec"), names)
    finally:
        JUDGEMENTS.clear()
        JUDGEMENTS.update(kinds)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(BLOCKS) - 1
    assert printed[-1] == "3.0"


def test_the_page_names_every_kind_metric_and_column():
    told = re.findall(r"`([\w$]+)`", TEXT)
    assert set(JUDGEMENTS) <= set(told)
    assert set(METRICS) <= set(told)
    assert set().union(*FORMATS.values()) <= set(told)
