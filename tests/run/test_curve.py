"""A run judged along the strength of its method, and its model written at one."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification

import tiny
from command import subspace
from subspace_tuning import set_strength
from subspace_tuning.errors import BadInput
from subspace_tuning.run.curve import Curve, Point, measure
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.merged import merge
from subspace_tuning.run.predict import Predictor
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from subspace_tuning.testing.law import relative


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curve")
    run(make(tiny.recipe(folder, epochs=4)))
    return folder / "run"


@pytest.fixture
def finished(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_the_ends_are_the_base_with_the_trained_head_and_the_run(finished):
    curve = measure(finished, (0, 1))
    at = {point.t: curve.score(point) for point in curve.points}
    result = RunFolder(finished).result()
    assert at[1.0] == pytest.approx(result.score)
    assert curve.points[1].scores == pytest.approx(result.scores)
    predictor = Predictor(finished)
    rows = tiny.rows(40, seed=1)
    with predictor.model.disable_adapter():
        base = predictor([row["text"] for row in rows])
    right = [answer.answer == ["bad", "good"][row["label"]] for answer, row in zip(base, rows, strict=True)]
    assert at[0.0] == pytest.approx(sum(right) / len(right))


def test_it_goes_on_from_the_points_that_are_there(finished):
    told = []
    first = measure(finished, (0, 0.5), say=told.append)
    assert len(told) == 2
    written = json.loads((finished / "curve.json").read_text())
    assert [p["t"] for p in written["points"]] == [0, 0.5]
    again = measure(finished, (0, 0.5, 1), say=told.append)
    assert len(told) == 3
    assert again.points[:2] == first.points
    for picture in ("curve.png", "curve.svg"):
        assert (finished / picture).stat().st_size > 1000


def test_a_killed_one_has_lost_no_point(finished):
    class Killed(Exception):
        pass

    def killed(text):
        if text.startswith("t = 0.5"):
            raise Killed

    with pytest.raises(Killed):
        measure(finished, (0, 0.5, 1), say=killed)
    told = []
    measure(finished, (0, 0.5, 1), say=told.append)
    assert len(told) == 1


def test_points_of_another_training_are_measured_anew(finished):
    measure(finished, (0, 1))
    path = finished / "curve.json"
    data = json.loads(path.read_text())
    data["run"] = "another"
    path.write_text(json.dumps(data))
    told = []
    measure(finished, (0, 1), say=told.append)
    assert len(told) == 2


def test_what_the_base_could_do_is_judged_along(finished):
    def kept(model, tokenizer):
        """A stand-in: how near the encoder is to the base."""
        ids = torch.arange(5, 13).unsqueeze(0)
        encoder = model.base_model.model.bert
        with torch.no_grad():
            now = encoder(input_ids=ids).last_hidden_state
            with model.disable_adapter():
                return 1 - relative(now, encoder(input_ids=ids).last_hidden_state)

    curve = measure(finished, (0, 0.5, 1), retention={"nearness": kept})
    values = [point.kept["nearness"] for point in curve.points]
    assert values[0] == 1
    assert values == sorted(values, reverse=True)
    assert "nearness kept 1.0000" in curve.says()
    told = []
    measure(finished, (0, 0.5, 1), retention={"other": kept}, say=told.append)
    assert len(told) == 3, "points without a judgement are no points of it"


def points(*values):
    return Curve("run", "accuracy", tuple(Point(t, {"accuracy": a}, k) for t, a, k in values))


def test_the_best_is_named():
    assert points((0, 0.5, {}), (0.5, 0.9, {}), (1, 0.9, {})).best.t == 0.5, "of equals the nearer to the base"
    says = points((0, 0.5, {}), (0.5, 0.9, {}), (1, 0.8, {})).says()
    assert says == (
        "t = 0.5 (accuracy 0.9000): the best accuracy of 3 strengths; t = 0 (accuracy 0.5000), t = 1 (accuracy 0.8000)"
    )
    kept = points((0, 0.5, {"facts": 0.8}), (0.5, 0.85, {"facts": 0.75}), (1, 0.9, {"facts": 0.2}))
    assert kept.best.t == 0.5
    assert "the best trade-off" in kept.says()


def test_of_bits_per_byte_less_is_better():
    measured = points((0, 0.5, {"texts": 1.6}), (0.5, 0.85, {"texts": 1.65}), (1, 0.9, {"texts": 2.0}))
    assert replace(measured, less=("texts",)).best.t == 0.5
    assert measured.best.t == 1


@pytest.mark.parametrize(("strengths", "told"), [((), "one or more"), ((0.5, float("nan")), "finite numbers")])
def test_what_is_no_strength_is_refused(finished, strengths, told):
    with pytest.raises(BadInput, match=told):
        measure(finished, strengths)
    assert not (finished / "curve.json").exists()


def test_runs_without_a_dial_are_told(tmp_path, finished):
    config = finished / "config.yaml"
    said = yaml.safe_load(config.read_text())
    for method, told in (("full", "trained every weight"), ("prompt", "prompt sits on tokens")):
        config.write_text(yaml.safe_dump(said | {"method": method}))
        with pytest.raises(BadInput, match=told):
            measure(finished)
    (finished / "result.json").unlink()
    with pytest.raises(BadInput, match="is not finished"):
        measure(finished)


def test_the_command(finished, tmp_path):
    code, out, _ = subspace("curve", finished, "--strengths", "0,1", "-o", tmp_path / "looks")
    assert code == 0
    assert "best: t = " in out
    assert (tmp_path / "looks" / "curve.png").is_file()
    code, out, _ = subspace("curve", finished, "--strengths", "0,1", "-o", tmp_path / "looks", "--json")
    assert [point["t"] for point in json.loads(out)["points"]] == [0, 1]
    code, _, err = subspace("curve", finished, "--strengths", "none")
    assert code == 2
    assert "numbers with commas" in err


def test_a_run_is_merged_at_a_strength(finished, tmp_path):
    code, _, _ = subspace("merge", finished, tmp_path / "half", "--strength", "0.5")
    assert code == 0
    predictor = Predictor(finished)
    set_strength(predictor.model, 0.5)
    ids = torch.arange(5, 13).unsqueeze(0)
    with torch.no_grad():
        want = predictor.model(input_ids=ids).logits
        got = AutoModelForSequenceClassification.from_pretrained(tmp_path / "half").eval()(input_ids=ids).logits
    assert relative(got, want) < 1e-5
    assert "| strength of the method in these weights | 0.5" in (tmp_path / "half" / "README.md").read_text()
    merge(finished, tmp_path / "whole")
    assert "strength" not in (tmp_path / "whole" / "README.md").read_text().split("```yaml")[0]
    with pytest.raises(BadInput, match="a strength is a number"):
        merge(finished, tmp_path / "none", float("nan"))
    assert not (tmp_path / "none").exists()
