"""The paper's protocol is the paper's, and a part of it runs on any encoder."""

import importlib.util
import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from test_claims import study
from typer.testing import CliRunner

import tiny
from subspace_tuning.cli import app
from subspace_tuning.errors import BadInput
from subspace_tuning.study import paper
from subspace_tuning.study.claims import CLAIMS
from subspace_tuning.study.reproduce import beside, lines, protocol
from subspace_tuning.sweep.labels import without_rank
from subspace_tuning.sweep.plan import Plan
from subspace_tuning.sweep.recipe import read_sweep

runner = CliRunner()
ROOT = Path(__file__).parents[2]


def glue(folder, tasks=("rte", "cola")):
    """Rows in the columns of GLUE."""
    for task in tasks:
        for name, size, seed in (("train", 32, 0), ("validation", 16, 1)):
            rows = tiny.rows(size, seed)
            columns = ("sentence1", "sentence2") if task == "rte" else ("sentence",)
            texts = [dict(zip(columns, (row["text"], row["other"]), strict=False)) for row in rows]
            tiny.jsonl(
                folder / task / f"{name}.jsonl", [t | {"label": r["label"]} for t, r in zip(texts, rows, strict=True)]
            )
    return folder


def test_all_of_the_paper_is_its_tables():
    wanted = protocol("out")
    assert list(wanted.models) == list(paper.TABLES.values())
    assert len(wanted.rows) == 58
    assert wanted.seeds == 5
    assert sum(len(wanted.models) * len(wanted.tasks) * wanted.seeds for _ in wanted.rows) == 6960


def test_every_row_of_the_tables_is_a_run_with_the_papers_settings(tmp_path):
    wanted = protocol(str(tmp_path / "out"), tables=[2], tasks=["rte"], seeds=1)
    cells = Plan(wanted.sweep()).cells
    assert len(cells) == len(wanted.rows)
    for (name, rank), cell in zip(wanted.rows, cells, strict=True):
        recipe = cell.some
        assert (recipe.batch_size, recipe.epochs, recipe.task) == (32, 50, "rte")
        assert recipe.learning_rate == (5e-5 if name == "full" else 1.2e-3)
        assert paper.name_of(recipe.method_label.replace("(r=", "(")) == name
        if rank:
            assert recipe.method["r"] == rank * paper.SIZES.get(name, 1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tables": [5]}, "no table 5"),
        ({"models": ["roberta"]}, "no model 'roberta': did you mean 'roberta-"),
        ({"tasks": ["wnli"]}, "no task 'wnli'"),
        ({"methods": ["lorra"]}, "did you mean 'lora'"),
        ({"ranks": [3]}, "no rank 3"),
        ({"seeds": 0}, "1 or more"),
        ({"tables": [3], "models": ["roberta-base"]}, "no model of roberta-base is in table 3"),
        ({"tables": [2, 3], "model_path": "minilm"}, "--model-path stands for one model"),
    ],
)
def test_what_the_paper_does_not_have_is_refused(given, said):
    with pytest.raises(BadInput, match=said):
        protocol("out", **given)


def test_a_dry_run_prints_a_sweep_and_writes_nothing(tmp_path):
    output = tmp_path / "out"
    words = ["--table", "2", "--tasks", "rte", "--methods", "full,lora,houlsby", "--ranks", "2", "--seeds", "2"]
    told = runner.invoke(app, ["reproduce", "si2024", *words, "--dry-run", "-o", str(output)])
    assert told.exit_code == 0, told.output
    printed = yaml.safe_load(told.stdout)
    assert printed["methods"] == [
        {"method": "full"},
        {"method": {"name": "houlsby", "r": 8}},
        {"method": {"name": "lora", "r": 2}},
    ]
    assert printed["seeds"] == [0, 1]
    assert "6 runs" in told.stderr
    assert not output.exists()


def test_a_model_that_cannot_be_had_is_said_before_anything_runs(tmp_path):
    words = ["--model-path", str(tmp_path / "nothing"), "--data", str(glue(tmp_path / "glue")), "--tasks", "rte"]
    told = runner.invoke(app, ["reproduce", "si2024", *words, "-o", str(tmp_path / "out")])
    assert told.exit_code == 2
    assert "--model-path" in told.stderr
    assert not (tmp_path / "out").exists()
    assert runner.invoke(app, ["reproduce", "si2023"]).exit_code == 2
    assert "whole numbers" in runner.invoke(app, ["reproduce", "si2024", "--ranks", "two"]).stderr


def test_two_runs_for_real(tmp_path):
    words = ["--model-path", str(tiny.model(tmp_path / "model")), "--data", str(glue(tmp_path / "glue"))]
    words += ["--tasks", "rte", "--methods", "ssb,ssl", "--seeds", "1", "--jobs", "2", "-o", str(tmp_path / "out")]
    told = runner.invoke(app, ["reproduce", "si2024", *words])
    assert told.exit_code == 0, told.output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(row["method"], row["task"], row["paper"]) for row in results] == [
        ("ssl", "rte", 74.01),
        ("ssb", "rte", 78.53),
    ]
    assert all(0 <= row["ours"] <= 100 for row in results)
    found = json.loads((tmp_path / "out" / "verdicts.json").read_text())
    assert {verdict["verdict"] for verdict in found} == {"cannot tell"}, "two runs settle nothing"
    assert "CANNOT TELL" in told.stdout
    assert "(78.5)" in told.stdout
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("result.json")}
    assert len(before) == 2
    assert runner.invoke(app, ["reproduce", "si2024", *words]).exit_code == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}, "what is finished is not run again"


def test_the_study_of_this_page_is_fair():
    """Equal budgets for all; every run has a pass over its rows, and the tuning seed judges nothing."""
    plan = Plan(read_sweep(ROOT / "recipes" / "minilm_glue.yaml"))
    assert len(plan.cells) == 76
    assert {len(plan.tuning_runs(cell)) for cell in plan.cells} == {3}
    assert {len(plan.final_runs(cell, ())) for cell in plan.cells} == {3}
    for cell in plan.cells:
        assert cell.some.train_samples == cell.some.max_steps * cell.some.batch_size
        assert cell.some.eval_samples is None, "full validation sets"
    claimed = {name for claim in CLAIMS for name in claim.needs if " " not in name}
    assert claimed <= {paper.name_of(without_rank(cell.label)) for cell in plan.cells}


def script():
    spec = importlib.util.spec_from_file_location("minilm_glue", ROOT / "benchmarks" / "minilm_glue.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_contenders_run_again_replace_their_rows_alone():
    kept = study({("full", None): 0.8, ("ssb", None): 0.7}, seeds=2)
    again = study({("ssb", None): 0.9}, seeds=2)
    both = script().beside(again, kept)
    assert len(both) == len(kept)
    assert both.loc[both["label"] == "ssb", "score"].mean() == pytest.approx(0.9, abs=0.01)
    unfinished = script().beside(again.iloc[1:], kept)
    assert unfinished.loc[unfinished["label"] == "ssb", "score"].mean() == pytest.approx(0.7, abs=0.01)


def test_the_page_tells_of_an_unfinished_study():
    module = script()
    levels = {("full", None): 0.8, ("ssb", None): 0.78, ("lora", 2): 0.79}
    runs = study(levels, seeds=2).assign(seconds=1.0, device="cpu", permille=1.0, learning_rate=1e-2)
    told = module.outcome(runs, {"tuning": 4, "final": 24})
    assert "**Not finished**" in told
    assert "0 of 4 tuning runs, 24 of 24 final runs" in told
    assert told.count("`lora r=2`") > 0
    assert len({line.replace("\\|", "").count("|") for line in told.splitlines() if line.startswith("| `")}) == 1
    assert module.outcome(runs, {"final": 24}).lstrip().startswith("Finished")
    empty = module.outcome(runs.iloc[:0], {"tuning": 4, "final": 24})
    assert "0 of 24 final runs" in empty
    assert "###" not in empty
    tried = [runs.assign(kind="tuning", learning_rate=rate) for rate in (1e-3, 1e-2)]
    assert "the lowest 0 times, the middle 0 times, the highest 12 times" in module.rates(pd.concat([runs, *tried]))


def test_averages_are_compared_over_the_same_tasks():
    rows = [("houlsby", 8, "rte", 0.8), ("houlsby", 8, "cola", 0.6), ("ssb", None, "rte", 0.7)]
    runs = pd.DataFrame(
        [
            {"model": "here", "method": m, "r": r, "task": t, "seed": s, "score": x + s / 100}
            for m, r, t, x in rows
            for s in (0, 1)
        ]
    )
    table = beside(runs, {"roberta-base": "here"})
    average = table[table["task"] == "average"].iloc[0]
    theirs = paper.figures().query("model == 'roberta-base' and method == 'houlsby' and rank == 2").iloc[0]
    assert (average["method"], average["rank"], average["n"]) == ("houlsby", 2, 4)
    assert average["ours"] == pytest.approx(70.5)
    assert average["paper"] == pytest.approx((theirs["rte"] + theirs["cola"]) / 2)
    header, *body = lines(table)
    assert header == ["model", "method", "cola", "rte", "average"]
    assert ["roberta-base", "ssb", "", "70.5 (78.5)", ""] in body
