"""What a process leaves that ends while it clears up a finished run goes when the run is met again."""

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

import trivial
from subspace_tuning.errors import Interrupted
from subspace_tuning.files.claims import held
from subspace_tuning.files.owner import Owner
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.recipe import make
from subspace_tuning.sweep.plan import Run
from subspace_tuning.sweep.recipe import make as make_sweep
from subspace_tuning.sweep.sweep import Sweep
from subspace_tuning.sweep.worker import Claims, perform

FORK = multiprocessing.get_context("fork")
MOMENTS = ["checkpoints", ".claim"]  # in which the blow falls: while one of them is removed


def remove_half(place, blow):
    """In the place of shutil.rmtree: of a folder called so one file, then the blow."""
    real = shutil.rmtree

    def remove(path, **how):
        if Path(path).name == place:
            next(file for file in Path(path).rglob("*") if file.is_file()).unlink()
            blow()
        real(path, **how)

    return remove


def killed():
    os._exit(9)


def asked():
    raise Interrupted(15)


def worked(recipe):
    """A run as it is held, trained and finished."""
    folder = RunFolder(recipe.output)
    with folder.held(recipe):
        for step in (2, 4):
            (folder.checkpoints / f"checkpoint-{step}").mkdir(parents=True)
            (folder.checkpoints / f"checkpoint-{step}" / "seal.json").write_text("{}")
        folder.finish(trivial.result(recipe), "adapter", lambda path: (path / "weights").write_text("x"))
    return folder


def left(recipe, place, blow):
    def work():
        shutil.rmtree = remove_half(place, blow)
        try:
            worked(recipe)
        except Interrupted:
            os._exit(143)

    child = FORK.Process(target=work)
    child.start()
    child.join()
    assert child.exitcode == (9 if blow is killed else 143)
    folder = RunFolder(recipe.output)
    assert folder.result() is not None
    return folder


def names(folder):
    return sorted(path.name for path in folder.path.iterdir())


@pytest.mark.parametrize("blow", [killed, asked])
@pytest.mark.parametrize("place", MOMENTS)
def test_the_next_run_clears_it(tmp_path, place, blow):
    recipe = make({"task": "rte", "output": str(tmp_path / "run")}).resolved()
    folder = left(recipe, place, blow)
    assert place in names(folder)
    with folder.held(recipe) as done:
        assert done == folder.result()
    assert names(folder) == ["adapter", "config.yaml", "result.json"]


@pytest.mark.parametrize("place", MOMENTS)
def test_a_sweep_and_its_workers_clear_it(tmp_path, place):
    given = make_sweep({"output": str(tmp_path), "methods": ["ssb"], "tasks": ["rte"]})
    (run,) = Sweep(given).final_runs(Sweep(given).plan.cells[0])
    folder = left(run.recipe, place, killed)
    assert perform(Run(run.recipe, "final", None), None, Claims(tmp_path / ".claims")).status == "finished"
    assert names(folder) == ["adapter", "config.yaml", "result.json"]
    shutil.rmtree(folder.path)
    left(run.recipe, place, killed)
    assert Sweep(given).run(lambda: pytest.fail("nothing is missing")).is_complete
    assert names(folder) == ["adapter", "config.yaml", "result.json"]


def test_what_a_living_one_holds_is_left_alone_and_nobody_waits_for_one_elsewhere(tmp_path):
    recipe = make({"task": "rte", "output": str(tmp_path / "run")}).resolved()
    folder = worked(recipe)
    with held(folder.path):
        folder.checkpoints.mkdir()
        folder.tidy()
        assert names(folder) == [".claim", "adapter", "checkpoints", "config.yaml", "result.json"]
    (folder.path / ".claim").mkdir()
    (folder.path / ".claim" / "owner").write_text(str(Owner("elsewhere", 1, "then")))
    with folder.held(recipe) as done:
        assert done is not None
    assert (folder.path / ".claim" / "owner").is_file()
