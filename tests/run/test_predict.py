"""Answers stand beside what was asked."""

import json
import shutil

import pytest
import yaml

import tiny
from command import subspace
from subspace_tuning.cli.export import _lines
from subspace_tuning.run.predict import Predictor
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run

LINES = ["a good film", "", "the\u2028story of two", "a\x0cfilm", "bad\x85was", "  ", "dull"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    run(make(tiny.recipe(folder, epochs=1)))
    return folder / "run"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_an_answer_a_line(finished, tmp_path, end, last, mark):
    file = tmp_path / "texts.txt"
    file.write_bytes((mark + end.join(LINES) + last.replace("\n", end)).encode())
    code, out, err = subspace("predict", finished, file, "--json")
    assert code == 0, err
    answers = json.loads(out)
    expected = [line if line.strip() else "" for line in LINES] + [""] * (len(last) - 1)
    assert [answer["text"] for answer in answers] == expected
    for text, answer in zip(expected, answers, strict=True):
        assert (answer["answer"] in ("bad", "good")) == bool(text)
        assert (answer["score"] is None) == (not text)
    code, out, _ = subspace("predict", finished, file)
    assert [bool(line) for line in out.split("\n")[: len(expected)]] == [bool(text) for text in expected]
    assert _lines(file) == [text for text in expected if text]


def test_a_blank_line_changes_no_other_answer(finished):
    predictor = Predictor(finished)
    with_blanks = predictor(["good film", " ", "bad"])
    assert [with_blanks[0], with_blanks[2]] == predictor(["good film", "bad"])
    assert with_blanks[1] == (("",), None, None)


@pytest.mark.parametrize("length", [280, 5000])
@pytest.mark.parametrize("max_length", [None, 1000])
def test_a_long_text_is_a_text(finished, tmp_path, length, max_length):
    """Of which the model reads as much as it has positions for."""
    shutil.copytree(finished, tmp_path / "run")
    config = yaml.safe_load((finished / "config.yaml").read_text())
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({**config, "max_length": max_length}))
    finished = tmp_path / "run"
    code, out, err = subspace("predict", finished, "good film " * (length // 10), "--json")
    assert code == 0, err
    assert json.loads(out)[0]["answer"] in ("bad", "good")
