"""Laws of a sweep: only what is missing runs, nothing is lost or done twice, budgets are equal, runs are strangers."""

import json
import multiprocessing
import random
import time
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import trivial
from disks import CODES, refusing
from subspace_tuning.cli import app
from subspace_tuning.errors import BadInput, RunFailed
from subspace_tuning.files.claims import Claims
from subspace_tuning.run import recipe as recipes
from subspace_tuning.run import train
from subspace_tuning.sweep.labels import rank, without_rank
from subspace_tuning.sweep.plan import Plan, Run, Trial
from subspace_tuning.sweep.pool import LocalPool
from subspace_tuning.sweep.recipe import make, read_sweep
from subspace_tuning.sweep.search import callbacks, study_of, tried
from subspace_tuning.sweep.sweep import Sweep
from subspace_tuning.sweep.worker import CutShort, perform
from tiny import recipe

METHODS = ["full", "ssb", "ia3", "lora", "flora", {"method": "lora", "mpc": "o"}, "ssb|lora"]
RANKED = [False, False, False, True, True, True, True]


def sweep(folder, **changes):
    return make({"output": str(folder), "methods": ["ssb", "lora"], "tasks": ["rte"], **changes})


def swept(given, runner, jobs=2, **more):
    """The summary of a sweep whose workers are forked from this process."""
    folder = Path(given.output)
    return Sweep(given).run(lambda: LocalPool(folder, jobs, f"trivial:{runner}", start="fork"), **more)


def began(folder):
    """(run, whether it was finished already) for each run that a worker began."""
    return [tuple(line.split()) for line in (folder / trivial.LOG).read_text().splitlines()]


# --- the plan --------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    chosen=st.lists(st.integers(0, len(METHODS) - 1), min_size=1, max_size=4, unique=True),
    ranks=st.lists(st.sampled_from([1, 2, 4, 8]), min_size=1, max_size=3, unique=True),
    tasks=st.lists(st.sampled_from(["rte", "cola", "stsb"]), min_size=1, max_size=3, unique=True),
    seeds=st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True),
    factors=st.lists(st.sampled_from([0.1, 0.3, 1.0, 3.0]), min_size=1, max_size=4, unique=True),
)
def test_a_plan_is_the_product_of_its_axes_with_equal_tuning_budgets(chosen, ranks, tasks, seeds, factors):
    axes = {"methods": [METHODS[i] for i in chosen], "ranks": ranks, "tasks": tasks, "seeds": seeds}
    plan = Plan(sweep("anywhere", **axes, tuning={"factors": factors, "seeds": [10, 11]}))
    contenders = sum(len(ranks) if RANKED[i] else 1 for i in chosen)
    assert len(plan.cells) == contenders * len(tasks)
    finals = [run for cell in plan.cells for run in plan.final_runs(cell, ())]
    assert len({run.folder for run in finals}) == len(finals) == contenders * len(tasks) * len(seeds)
    for cell in plan.cells:
        tuning = plan.tuning_runs(cell)
        assert len(tuning) == 2 * len(factors)
        assert all(run.recipe.hold_out and run.recipe.seed in (10, 11) for run in tuning)
        rates = {round(run.recipe.learning_rate / cell.own_rate, 6) for run in tuning}
        assert rates == set(factors)
    assert not any(run.recipe.hold_out for run in finals)


def test_an_exclusion_leaves_out_what_it_matches_and_nothing_else():
    axes = {"methods": ["lora", "ssb"], "ranks": [2, 8], "tasks": ["rte", "cola"], "seeds": [0, 1]}

    def runs(**more):
        plan = Plan(sweep("anywhere", **axes, **more))
        finals = [run.recipe for cell in plan.cells for run in plan.final_runs(cell, ())]
        return {(r.method_label, r.task, r.seed) for r in finals}

    every = set(product(["lora(r=2)", "lora(r=8)", "ssb"], ["rte", "cola"], [0, 1]))
    assert runs() == every
    assert runs(exclude=[{"method": "lora", "task": "rte"}]) == {x for x in every if x[0] == "ssb" or x[1] == "cola"}
    assert runs(exclude=[{"r": 8, "seed": 1}]) == {x for x in every if (x[0], x[2]) != ("lora(r=8)", 1)}
    assert runs(exclude=[{"method": "lora(r=2)"}]) == {x for x in every if x[0] != "lora(r=2)"}


def test_a_task_may_come_with_several_data():
    sets = [{"task": "sft", "data": f"path/to/{name}"} for name in ("ARC-Easy", "openbookqa")]
    plan = Plan(sweep("anywhere", tasks=sets, methods=["ssb"], exclude=[{"task": "sft openbookqa", "seed": 0}]))
    assert [str(cell) for cell in plan.cells] == [
        "ssb on sft ARC-Easy with minilm",
        "ssb on sft openbookqa with minilm",
    ]
    assert [len(plan.final_runs(cell, ())) for cell in plan.cells] == [1, 0]
    with pytest.raises(BadInput, match="would be called ssb on sft openbookqa"):
        Plan(sweep("anywhere", tasks=[*sets, {"task": "sft", "data": "elsewhere/openbookqa"}], methods=["ssb"]))


def test_what_belongs_to_a_method_wins_over_the_task_and_that_over_the_base():
    given = sweep(
        "anywhere",
        base={"epochs": 1, "batch_size": 4, "max_length": 64},
        tasks=[{"task": "rte", "epochs": 2, "batch_size": 8}],
        methods=["ssb", {"method": {"name": "lora", "r": 16}, "epochs": 3, "learning_rates": [0.1, 0.2]}],
        ranks=[2],
        learning_rates=[0.5],
    )
    plan = Plan(given)
    made = [run.recipe for cell in plan.cells for run in plan.final_runs(cell, cell.candidates)]
    found = [(r.method_label, r.learning_rate, r.epochs, r.batch_size, r.max_length) for r in made]
    assert found == [("ssb", 0.5, 2, 8, 64), ("lora(r=16)", 0.1, 3, 8, 64), ("lora(r=16)", 0.2, 3, 8, 64)]


def test_a_run_is_known_by_what_decides_it(monkeypatch):
    def names(**changes):
        plan = Plan(sweep("anywhere", **changes))
        return [run.name for cell in plan.cells for run in plan.final_runs(cell, ())]

    assert names() == names(base={"log_every": 3}) == names(retries=5)
    assert not set(names()) & set(names(base={"max_length": 64}))
    before = names()
    monkeypatch.setattr("subspace_tuning.sweep.plan._versions", lambda: {"torch": "3.0"})
    assert not set(before) & set(names())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": [{"method": "ssb", "label_smoothing": 0.1}]}, ["a method's 'label_smoothing' is no field"]),
        ({"methods": [{"method": "ssb", "lerning_rate": 0.1}]}, ["did you mean 'learning_rate'?"]),
        ({"methods": [{"method": "lora", "rank": [1]}]}, ["'rank'", "did you mean 'ranks'?"]),
        ({"methods": [{"method": "lora", "ranks": [0]}]}, ["the method lora's ranks.0 is 0", "greater than 0"]),
        ({"methods": [{"method": "lora", "learning_rates": [-1]}]}, ["the method lora's learning_rates.0 is -1"]),
        ({"methods": [{"method": "lora", "seed": 3}]}, ["a method's seed is not its own to set"]),
        ({"methods": [{"method": "lora", 1: 3}]}, ["a method's 1 is no field"]),
        ({"methods": [{"method": "lora", "batch_size": 0}]}, ["batch_size is 0"]),
        ({"methods": [{"method": {"name": "lora", "alpha": "x"}}]}, ["alpha is 'x'"]),
        ({"methods": [3]}, ["3"]),
        ({"base": {"lerning_rate": 1}}, ["base's 'lerning_rate'", "did you mean 'learning_rate'?"]),
        ({"base": {"1": 1}}, ["base's '1' is no field"]),
        ({"tasks": [{"task": "rte", "1": 1}]}, ["a task's '1' is no field"]),
        ({"seeds": [-1]}, ["seeds.0 is -1"]),
        ({"ranks": [0]}, ["ranks.0 is 0"]),
        ({"tuning": {"factors": [1], "seeds": [-3]}}, ["tuning.seeds.0 is -3"]),
    ],
)
def test_what_no_recipe_knows_is_told_by_its_name(tmp_path, changes, said):
    with pytest.raises(BadInput) as error:
        Sweep(sweep(tmp_path / "out", **changes))
    for word in said:
        assert word in str(error.value)


@pytest.mark.parametrize("missing", ["model", "data"])
@pytest.mark.parametrize("words", [["--dry-run"], []])
def test_a_model_or_data_that_is_not_there_is_refused_before_a_run(tmp_path, missing, words):
    values = recipe(tmp_path)
    base = {key: values[key] for key in ("model", "task", "data", "labels")} | {missing: str(tmp_path / "nowhere")}
    given = {"output": str(tmp_path / "out"), "methods": ["ssb"], "base": base}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(given))
    done = CliRunner().invoke(app, ["sweep", str(tmp_path / "sweep.yaml"), *words])
    assert done.exit_code == 2, done.output
    assert str(tmp_path / "nowhere") in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": [17], "tuning": {"factors": [1]}}, "tuning.seeds and seeds share"),
        (
            {"methods": ["ssb", {"method": "lora", "learning_rates": [1]}], "tuning": {"factors": [1, 3]}},
            "budgets differ",
        ),
        (
            {
                "methods": [
                    {"method": "lora", "learning_rates": [1]},
                    {"method": "lora", "mpc": "o", "learning_rates": [1], "tune": {"mpc_weight": [0.1, 1.0]}},
                ],
                "tuning": {},
            },
            "lora 1, lora 2",
        ),
        ({"tuning": {"factors": [1]}, "methods": [{"method": "lora", "tune": {"mpc_wieght": [1]}}]}, "mpc_weight"),
        ({"methods": [{"method": "lora", "tune": {"mpc_weight": [1]}}]}, "add tuning"),
        ({"tuning": {}}, "no factors"),
        ({"learning_rates": [1], "tuning": {"factors": [1]}}, "leave one of them out"),
        ({"tuning": {"search": {"optuna": {"trials": 2}}, "factors": [1]}}, "leave out factors"),
        ({"base": {"seed": 3}}, "the sweep decides it"),
        ({"base": {"bf16": "auto"}}, "set bf16: true or false"),
        ({"base": {"max_stps": 3}}, "did you mean 'max_steps'"),
        ({"sedes": [1]}, "did you mean 'seeds'"),
        ({"epochs": 3}, "go into base"),
        ({"exclude": [{"method": "dora"}]}, "matches no run"),
        ({"exclude": [{"task": "rte"}]}, "excludes all"),
        ({"methods": ["lora", {"method": "lora", "weight_decay": 0.1}]}, "would be called lora(r=8)"),
        ({"methods": [{"method": "ssb", "ranks": [2]}]}, "has no rank"),
        ({"methods": ["sbb"]}, "did you mean 'ssb'"),
        ({"tasks": ["rtee"]}, "did you mean 'rte'"),
        ({"methods": []}, "methods"),
        ({"seeds": [1, 1]}, "twice"),
    ],
)
def test_a_sweep_that_contradicts_itself_is_refused_before_anything_is_written(tmp_path, changes, said):
    with pytest.raises(BadInput) as error:
        Sweep(sweep(tmp_path / "out", **changes)).stages()
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("label", "r", "without"),
    [
        ("ssb", None, "ssb"),
        ("lora(r=4)", 4, "lora"),
        ("lora(r=4,alpha=8)+mpc_o", 4, "lora(alpha=8)+mpc_o"),
        ("lora(alpha=8,r=4)", 4, "lora(alpha=8)"),
        ("ssb|lora(r=2)", 2, "ssb|lora"),
        ("lora(r=2)|flora(r=4)", None, "lora|flora"),
        ("adalora(target_r=4,r=6)", 6, "adalora(target_r=4)"),
    ],
)
def test_the_rank_is_read_from_a_label(label, r, without):
    assert (rank(label), without_rank(label)) == (r, without)


# --- the loop --------------------------------------------------------------------------------------------------------


def test_only_what_is_missing_runs(tmp_path):
    first = swept(sweep(tmp_path, seeds=[0, 1]), "nothing")
    assert first.is_complete
    assert swept(sweep(tmp_path, seeds=[0, 1, 2]), "nothing").stages[-1].finished == 6
    names = [name for name, _ in began(tmp_path)]
    assert len(names) == len(set(names)) == 6
    assert {finished for _, finished in began(tmp_path)} == {"False"}


def test_a_failed_run_is_retried_keeps_log_and_error_and_stops_no_other(tmp_path):
    given = sweep(tmp_path, methods=["ssb"], seeds=[0, 1, 2, 3, 4, 5], retries=2)
    summary = swept(given, "with_accidents")
    assert [(s.total, s.finished, s.failed) for s in summary.stages] == [(6, 4, 2)]
    folders = {run.recipe.seed: run.folder for cell in Plan(given).cells for run in Plan(given).final_runs(cell, ())}
    assert summary.failed[folders[1].name] == "the worker was ended by SIGKILL; was memory short?"
    assert summary.failed[folders[2].name] == "the loss is nan at step 3"
    assert "SIGKILL" in (folders[1] / "error.txt").read_text()
    assert "with_accidents" in (folders[2] / "error.txt").read_text()
    assert (folders[2] / "log.txt").read_text() == 3 * "about to work on seed 2\n"
    assert not (folders[3] / "error.txt").exists()
    assert swept(given, "nothing").is_complete


def test_a_full_disk_ends_in_a_sentence_and_the_sweep_goes_on_later(tmp_path):
    with pytest.raises(RunFailed, match="the disk is full; free some space"):
        swept(sweep(tmp_path), "full_disk")
    assert swept(sweep(tmp_path), "nothing").is_complete


def test_other_fields_are_tuned_with_the_rate_at_an_equal_budget(tmp_path):
    constrained = {"method": "lora", "mpc": "o", "learning_rates": [0.01], "tune": {"mpc_weight": [0.1, 0.5, 0.9]}}
    plain = {"method": "ssb", "learning_rates": [0.001, 0.01, 0.1]}
    given = sweep(tmp_path, methods=[plain, constrained], seeds=[0, 1], tuning={})
    assert [(s.name, s.total) for s in swept(given, "best_at_half_the_weight").stages] == [("tuning", 6), ("final", 4)]
    made = Sweep(given)
    cell = made.plan.cells[1]
    assert made.choices.of(cell) == (("learning_rate", 0.01), ("mpc_weight", 0.5))
    assert {run.recipe.mpc_weight for run in made.final_runs(cell)} == {0.5}
    (kept,) = [c for p in (tmp_path / "choices").iterdir() if "mpc_weight" in (c := json.loads(p.read_text()))]
    assert [tried["mpc_weight"] for tried in kept["tried"]] == [0.1, 0.5, 0.9]


def test_each_cell_takes_the_rate_that_did_best_on_held_out_rows_and_keeps_it(tmp_path):
    given = sweep(tmp_path, methods=["ssb", "lora"], ranks=[2, 4], seeds=[0, 1], tuning={"factors": [0.3, 1, 3]})
    summary = swept(given, "best_at_a_hundredth")
    assert [(s.name, s.total, s.finished) for s in summary.stages] == [("tuning", 9, 9), ("final", 6, 6)]
    made = Sweep(given)
    rates = {cell.label: {r.recipe.learning_rate for r in made.final_runs(cell)} for cell in made.plan.cells}
    assert rates == {"ssb": {0.01}, "lora(r=2)": {0.003}, "lora(r=4)": {0.003}}  # their own are 0.01 and 0.001
    again = sweep(tmp_path, **{**given.model_dump(exclude_unset=True, exclude={"output"}), "seeds": [0, 1, 2]})
    assert swept(again, "nothing").stages[-1].finished == 9
    assert all(json.loads(p.read_text())["learning_rate"] in (0.01, 0.003) for p in (tmp_path / "choices").iterdir())


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_contenders_are_tuned_and_judged_one_after_the_other(jobs, tmp_path):
    """So that a sweep that is cut has whole ones: those that its recipe names first."""
    methods = ["none", "ssb", "lora", "ia3", "dora"]
    given = sweep(tmp_path, methods=methods, ranks=[2], seeds=[0, 1], tuning={"factors": [0.3, 1, 3]})
    assert swept(given, "slowly", jobs).is_complete
    order = [name for name, _ in began(tmp_path)]
    made = Sweep(given)
    ends = []
    for cell in made.plan.cells:
        tuning, final = ([order.index(r.name) for r in runs] for runs in (_tuning(made, cell), made.final_runs(cell)))
        assert max(tuning, default=-1) < min(final)
        ends.append(max(final))
    early = [end - sum(5 if i else 2 for i in range(at + 1)) for at, end in enumerate(ends)]
    assert max(early) < 5 * jobs  # free workers go on with the next contender, no further than they must


def _tuning(made, cell):
    return made.plan.tuning_runs(cell) if cell.takes_steps else []


def test_time_that_is_up_leaves_the_rest_for_another_time(tmp_path):
    given = sweep(tmp_path, seeds=[0, 1])
    summary = swept(given, "nothing", max_hours=1e-9)
    assert summary.time_is_up
    assert summary.stages[0].finished == 0
    summary = swept(given, "for_an_hour", max_hours=2 / 3600)
    assert summary.time_is_up
    assert summary.stages[0].finished == 0
    assert swept(given, "nothing").is_complete


# --- kills and company -----------------------------------------------------------------------------------------------

FORK = multiprocessing.get_context("fork")


def process(given, runner):
    """A sweep in a process of its own."""
    started = FORK.Process(target=swept, args=(given, runner))
    started.start()
    return started


def test_twenty_kills_at_random_moments_end_with_the_runs_of_an_undisturbed_sweep(tmp_path):
    more = {"methods": ["ssb", "lora", "flora"], "ranks": [2, 8], "seeds": list(range(24)), "retries": 1}
    more["tuning"] = {"factors": [0.3, 1, 3], "seeds": [99]}
    disturbed, calm = (sweep(tmp_path / name, **more) for name in ("disturbed", "calm"))
    rng = random.Random(0)
    for _ in range(20):
        running = process(disturbed, "slowly")
        time.sleep(rng.uniform(0.0, 0.3))
        children = psutil.Process(running.pid).children() if running.is_alive() else []
        if children and rng.random() < 0.5:
            rng.choice(children).kill()
            time.sleep(rng.uniform(0.0, 0.05))
        running.kill()
        running.join()
    assert swept(disturbed, "slowly").is_complete
    assert swept(calm, "nothing").is_complete
    assert trivial.fingerprint(tmp_path / "disturbed") == trivial.fingerprint(tmp_path / "calm")
    runs = [name for name, _ in began(tmp_path / "disturbed")]
    assert {finished for _, finished in began(tmp_path / "disturbed")} == {"False"}
    assert len(runs) - len(set(runs)) <= 20 * 3  # what two workers had at hand, and one that was killed before


def test_two_sweeps_of_one_folder_share_the_runs(tmp_path):
    given = sweep(tmp_path, seeds=list(range(20)))
    both = [process(given, "slowly") for _ in range(2)]
    for one in both:
        one.join()
    assert [one.exitcode for one in both] == [0, 0]
    names = [name for name, _ in began(tmp_path)]
    assert len(names) == len(set(names)) == 40
    assert all(stage.missing == 0 for stage in Sweep(given).stages())


@pytest.mark.parametrize("kind", CODES)
def test_a_disk_that_refuses_a_claim_or_an_error_is_an_outcome_not_a_crash(tmp_path, monkeypatch, kind):
    plan = Sweep(sweep(tmp_path, seeds=[0])).plan
    run = next(iter(plan.final_runs(plan.cells[0], ())))
    mine = Claims(tmp_path / ".claims")
    refusing(monkeypatch, tmp_path, CODES[kind])
    outcome = perform(run, trivial.nothing, mine)
    assert outcome.status == ("full" if kind == "full" else "failed")
    assert "cannot write" in outcome.said or "the disk is full" in outcome.said


# --- search ----------------------------------------------------------------------------------------------------------


def searching(folder, **more):
    tuning = {"search": {"optuna": {"trials": 5}}, "seeds": [17]}
    return sweep(folder, methods=["ssb", "lora"], ranks=[2], seeds=[0, 1], tuning=tuning, **more)


def test_a_search_spends_as_many_trials_on_every_cell_and_takes_the_best(tmp_path):
    pytest.importorskip("optuna")
    given = searching(tmp_path)
    assert [s.missing for s in Sweep(given).stages()] == [10, 4]
    assert swept(given, "best_at_a_hundredth", max_hours=1e-9).time_is_up
    summary = swept(given, "best_at_a_hundredth")
    assert [(s.total, s.finished) for s in summary.stages] == [(10, 10), (4, 4)]
    made = Sweep(given)
    for cell in made.plan.cells:
        rates = [dict(candidate)["learning_rate"] for candidate, _ in tried(made.plan, cell)]
        assert len(rates) == 5
        assert all(0.1 * cell.own_rate <= rate <= 10 * cell.own_rate for rate in rates)
        assert made.choices.of(cell) == (("learning_rate", min(rates, key=lambda rate: abs(rate - 0.01))),)
    tuning = [yaml.safe_load(path.read_text()) for path in tmp_path.glob("tuning/*/config.yaml")]
    assert all(config["hold_out"] and config["seed"] == 17 for config in tuning)


def test_a_trial_is_cut_short_when_others_did_better_and_never_at_its_end(tmp_path):
    pytest.importorskip("optuna")
    study = study_of(tmp_path / "journal", "cell")
    for _ in range(4):
        trial = study.ask()
        for step in range(1, 5):
            trial.report(0.9, step)
            assert not trial.should_prune()  # asking is what enters it into the comparison
        study.tell(trial, 0.9)
    run = Run(recipes.make({"task": "rte"}), "tuning", Trial(str(tmp_path / "journal"), "cell", study.ask().number))
    (watch,) = callbacks(run)
    logged = [{"eval_accuracy": 0.1}]
    watch.on_evaluate(
        None, SimpleNamespace(global_step=8, max_steps=8, log_history=logged), None, {"eval_accuracy": 0.1}
    )
    with pytest.raises(CutShort, match="after 2 of 8 steps"):
        watch.on_evaluate(
            None, SimpleNamespace(global_step=2, max_steps=8, log_history=logged), None, {"eval_accuracy": 0.1}
        )
    assert callbacks(Run(run.recipe, "final")) == []


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_would_run_and_goes_on_where_it_stopped(tmp_path):
    given = sweep(tmp_path / "out", seeds=[0, 1], tuning={"factors": [1, 3]})
    (tmp_path / "sweep.yaml").write_text(given.dump())
    done = CliRunner().invoke(app, ["sweep", str(tmp_path / "sweep.yaml"), "--dry-run"])
    assert done.exit_code == 0
    assert "tuning: 4 runs, 0 finished, 4 missing\nfinal: 4 runs, 0 finished, 4 missing" in done.stdout
    assert "lora(r=8) on rte with minilm" in done.stdout
    assert not (tmp_path / "out").exists()
    assert swept(given, "nothing").is_complete
    done = CliRunner().invoke(app, ["sweep", str(tmp_path / "sweep.yaml")])
    assert done.exit_code == 0
    assert "final: 4 runs, 4 finished, 0 missing" in done.stdout
    assert CliRunner().invoke(app, ["sweep", str(tmp_path / "sweep.yaml"), "--address", "auto"]).exit_code == 2


# --- real runs -------------------------------------------------------------------------------------------------------


def test_the_example_sweep_runs_and_workers_train_as_a_fresh_process_does(tmp_path):
    """The recipe in recipes/, shrunk to a tiny model; one worker trains all, run after run."""
    shown = yaml.safe_load((Path(__file__).parents[2] / "recipes" / "sweep.yaml").read_text())
    own = {k: v for k, v in recipe(tmp_path, epochs=1).items() if k in ("data", "labels", "batch_size", "epochs")}
    model = str(tmp_path / "model")
    shrunk = {"output": str(tmp_path / "sweep"), "models": [model], "tasks": [{"task": "classification", **own}]}
    tuning = {**shown["tuning"], "factors": shown["tuning"]["factors"][:1]}
    given = make({**shown, **shrunk, "ranks": [2], "seeds": [1], "tuning": tuning})
    summary = Sweep(given).run(lambda: LocalPool(tmp_path / "sweep", 1, threads=1))
    assert summary.is_complete, summary
    made = Sweep(given)
    runs = {cell.label: run for cell in made.plan.cells for run in made.final_runs(cell)}
    for run in (runs["full"], runs["lora(r=2)+mpc_o"]):
        alone = run.recipe.model_copy(update={"output": str(tmp_path / "alone" / run.name)})
        kind = "model/model" if run.recipe.is_plain else "adapter/adapter_model"
        assert train.run(alone).score == json.loads((run.folder / "result.json").read_text())["score"]
        a, b = (folder / f"{kind}.safetensors" for folder in (run.folder, Path(alone.output)))
        assert a.read_bytes() == b.read_bytes(), run.name


def test_the_example_sweep_reads():
    assert read_sweep(Path(__file__).parents[2] / "recipes" / "sweep.yaml").tuning
