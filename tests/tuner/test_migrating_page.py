"""The lines of docs/migrating.md run as they stand there."""

import re
from pathlib import Path

import pytest

import tiny

PAGE = (Path(__file__).parents[2] / "docs" / "migrating.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_lines_run_one_after_the_other(tmp_path, monkeypatch):
    tiny.model(tmp_path / "roberta-base")
    monkeypatch.chdir(tmp_path)
    assert len(BLOCKS) == 3
    for block in BLOCKS:
        exec(compile(block, "migrating.md", "exec"), {"__name__": "migrating"})
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
