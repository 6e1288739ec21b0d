"""Laws of gathering: a row for each finished run, nothing counted twice, and the same numbers in every format."""

import dataclasses
import errno
import io
import json
import os
from statistics import mean, stdev

import pandas
import pytest
from typer.testing import CliRunner

import broken
import trivial
from disks import CODES, refusing
from subspace_tuning.cli import app
from subspace_tuning.errors import BadInput
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.recipe import make
from subspace_tuning.sweep.results import COLUMNS, gather, gather_failures, query, runs_below

LORA = {"name": "lora", "r": 4, "alpha": 8}


def finish(path, score=0.5, finished="2024-01-01", metric=None, **values):
    """A finished run's folder, as a run leaves it."""
    recipe = make({"task": "rte", **values}).resolved().model_copy(update={"output": str(path)})
    folder = RunFolder(path)
    folder.open(recipe)
    result = dataclasses.replace(trivial.result(recipe, score), finished=finished)
    result = result if metric is None else dataclasses.replace(result, metric=metric)
    folder.finish(result, "adapter", lambda where: (where / "config.yaml").write_text("an adapter's, no run's"))
    return result


@pytest.fixture
def study(tmp_path):
    """Two methods on two tasks with three seeds; a tuning run, one that failed and one that goes on."""
    for task in ("rte", "cola"):
        for seed in range(3):
            finish(tmp_path / "final" / f"{task}-ssb-{seed}", 0.1 * seed, task=task, method="ssb", seed=seed)
            finish(tmp_path / "deep" / "er" / f"{task}-lora-{seed}", 0.2 * seed, task=task, method=LORA, seed=seed)
    finish(tmp_path / "tuning" / "one", 0.9, method="ssb", seed=17, hold_out=True)
    for name in ("failed", "going"):
        RunFolder(tmp_path / "final" / name).open(make({"task": "rte", "seed": 9}).resolved())
    (tmp_path / "final" / "failed" / "error.txt").write_text("Traceback\n  line\nthe loss is nan\n")
    return tmp_path


def test_a_row_for_each_finished_run_with_the_promised_columns(study):
    runs = gather(study)
    assert list(runs.columns) == list(COLUMNS)
    assert {name: str(kind) for name, kind in runs.dtypes.items()} == COLUMNS
    assert len(runs) == 13
    assert sorted(runs.kind.unique()) == ["final", "tuning"]
    assert runs[runs.kind == "tuning"].run.tolist() == ["tuning/one"]
    assert set(zip(runs.method, runs.label, runs.r.fillna(0), strict=True)) == {
        ("ssb", "ssb", 0),
        ("lora(alpha=8)", "lora(r=4,alpha=8)", 4),
    }
    for row in runs.itertuples():
        stored = json.loads((study / row.run / "result.json").read_text())
        assert (row.score, row.seed, row.task, row.config_hash) == (
            *(stored["score"], stored["seed"], stored["task"], stored["config_hash"]),
        )


def test_a_run_that_is_there_twice_counts_once_the_later_one(tmp_path):
    finish(tmp_path / "a", 0.1, finished="2024-01-01")
    finish(tmp_path / "b", 0.2, finished="2024-01-03")
    finish(tmp_path / "c", 0.3, finished="2024-01-02")
    finish(tmp_path / "d", 0.4, seed=1)
    assert sorted(gather(tmp_path).score) == [0.2, 0.4]


def test_runs_of_a_task_on_several_data_are_told_apart(tmp_path):
    def add(task, data, **more):
        finish(tmp_path / f"{task}{len(list(tmp_path.iterdir()))}", task=task, data=data, **more)
        return set(gather(tmp_path).task)

    add("rte", "a/glue")
    assert add("rte", "b/other_glue", seed=1) == {"rte"}  # GLUE's, wherever they are
    assert add("sft", "a/ARC-Easy") == {"rte", "sft"}
    assert add("sft", "b/ARC-Easy", seed=1) == {"rte", "sft"}
    assert add("sft", "org/some", subset="one") == {"rte", "sft ARC-Easy", "sft some one"}
    assert add("sft", "org/some", subset="two") == {"rte", "sft ARC-Easy", "sft some one", "sft some two"}
    assert gather(tmp_path).task.tolist().count("sft ARC-Easy") == 2


def test_runs_of_a_task_judged_by_several_metrics_are_told_apart(tmp_path):
    finish(tmp_path / "one", task="sst2", metric="accuracy")
    finish(tmp_path / "tuning", task="sst2", metric="loss", hold_out=True, seed=17)  # which no table compares
    assert set(gather(tmp_path).task) == {"sst2"}
    finish(tmp_path / "other", task="sst2", metric="f1", seed=1)
    finish(tmp_path / "rte", task="rte")
    assert set(gather(tmp_path).task) == {"sst2 accuracy", "sst2 f1", "sst2 loss", "rte"}


def test_results_of_earlier_versions_still_read(tmp_path):
    finish(tmp_path / "old")
    path = tmp_path / "old" / "result.json"
    values = json.loads(path.read_text())
    del values["hold_out"], values["finished"]
    path.write_text(json.dumps(values))
    assert gather(tmp_path).kind.tolist() == ["final"]
    assert RunFolder(tmp_path / "old").result().score == 0.5


def test_nothing_finished_is_an_empty_table_of_the_same_kind(tmp_path):
    empty = gather(tmp_path)
    assert {name: str(kind) for name, kind in empty.dtypes.items()} == COLUMNS
    assert len(empty) == len(gather_failures(tmp_path)) == 0


def test_failures_tell_their_last_line_and_where_the_log_is(study):
    failed = gather_failures(study)
    assert failed[["run", "error"]].values.tolist() == [["final/failed", "the loss is nan"]]
    assert len(list(runs_below(study))) == 15  # the config.yaml inside an adapter is no run's


@pytest.mark.parametrize("how", broken.ALL)
def test_a_broken_run_is_named_and_the_others_are_shown(study, how):
    broken.ALL[how](study / "final" / "rte-ssb-0")
    damaged = how in broken.RESULT
    said = []
    runs = gather(study, said.append)
    assert len(runs) == 13 - damaged
    assert ("final/rte-ssb-0" not in set(runs.run)) == damaged
    assert [("rte-ssb-0" in line, "damaged" in line) for line in said] == [(True, True)] * damaged
    failed = gather_failures(study)
    assert ("final/rte-ssb-0" in set(failed.run)) == damaged
    code, shown, err = results(study)
    assert code == 0
    assert len(shown.splitlines()) == len(runs) + 1
    assert ("rte-ssb-0" in err) == damaged
    code, shown, _ = results(study, "--failures")
    assert code == 0
    assert ("rte-ssb-0" in shown) == damaged


def test_a_folder_that_cannot_be_looked_into_is_told(study, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).endswith("deep"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    said = []
    assert len(gather(study, said.append)) == 7
    assert said == [f"cannot look into {study / 'deep'}: Permission denied"]


@pytest.mark.parametrize("kind", CODES)
def test_a_table_on_a_disk_that_refuses(study, tmp_path_factory, monkeypatch, kind):
    place = tmp_path_factory.mktemp("out")
    refusing(monkeypatch, place, CODES[kind])
    code, _, err = results(study, "--output", place / "runs.csv")
    assert code == (1 if kind == "full" else 2)
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    monkeypatch.undo()
    assert list(place.iterdir()) == []


def test_groups_are_means_with_standard_errors_of_final_runs(study):
    runs = gather(study)
    groups = query(runs, by=["method", "task"])
    expected = {"ssb": [0.0, 0.1, 0.2], "lora(alpha=8)": [0.0, 0.2, 0.4]}
    assert len(groups) == 4
    for row in groups.itertuples():
        assert row.mean == pytest.approx(mean(expected[row.method]))
        assert row.standard_error == pytest.approx(stdev(expected[row.method]) / 3**0.5)
        assert row.runs == 3
    assert query(runs, by=["kind"], where="kind = 'tuning'").runs.tolist() == [1]
    assert query(runs, by=["method"], where="r = 4 and seed > 0").runs.tolist() == [4]


def test_sql_sees_the_table_and_no_file(study):
    runs = gather(study)
    assert query(runs, sql="select count(*) as n from runs where score > 0.15").n.tolist() == [7]
    for bad in ("selec", "select nothing from runs", f"select * from read_text('{study}/final/failed/error.txt')"):
        with pytest.raises(BadInput, match="DuckDB cannot answer"):
            query(runs, sql=bad)
    with pytest.raises(BadInput, match="did you mean 'method'"):
        query(runs, by=["methd"])


def results(*words):
    done = CliRunner().invoke(app, ["results", *map(str, words)])
    return done.exit_code, done.stdout, done.stderr


def test_every_format_says_the_same(study, tmp_path):
    runs = gather(study)
    code, text, _ = results(study, "--format", "csv")
    assert code == 0
    assert pandas.read_csv(io.StringIO(text)).score.tolist() == pytest.approx(runs.score.tolist())
    assert results(study, "--format", "parquet", "--output", tmp_path / "out" / "runs.parquet")[0] == 0
    kept = pandas.read_parquet(tmp_path / "out" / "runs.parquet")
    assert kept.config_hash.tolist() == runs.config_hash.tolist()
    grouped = [study, "--by", "method,task"]
    for form, sign in (("table", "  "), ("markdown", "|"), ("latex", "&")):
        lines = results(*grouped, "--format", form)[1].splitlines()
        cells = [[cell.strip(" |\\") for cell in line.split(sign) if cell.strip(" |\\")] for line in lines]
        assert ["ssb", "rte", "0.1", "0.05774", "3"] in cells, form
    assert r"lora(alpha=8) & cola" in results(*grouped, "--format", "latex")[1]
    assert r"standard\_error" in results(*grouped, "--format", "latex")[1]


def test_the_command_tells_of_failures_and_of_bad_input(study):
    assert "the loss is nan" in results(study, "--failures")[1]
    assert results(study / "nowhere")[0] == 2
    code, _, said = results(study, "--sql", "select 1", "--by", "task")
    assert code == 2
    assert "--sql says it all" in said
