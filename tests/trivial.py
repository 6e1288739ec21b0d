"""Runs that train nothing, for tests of what is around them: performed by workers, which find them by name."""

import hashlib
import os
import platform
import random
import signal
import time

from subspace_tuning.errors import RunFailed
from subspace_tuning.run.folder import Result, RunFolder

LOG = "performed.log"  # in the sweep's folder: a line a run that began


def result(recipe, score=None):
    """What a run of this recipe would leave; the score follows from the recipe."""
    if score is None:
        score = int(recipe.digest()[:6], 16) / 0xFFFFFF
    counts = {"trainable": 10, "trainable_with_head": 12, "total": 1000, "permille": 10.0, "steps": 1}
    times = {"seconds": 0.1, "seconds_per_step": 0.1, "peak_memory_mb": 1.0, "resumed_from_step": 0, "threads": 1}
    return Result(
        method=recipe.method_label,
        category=recipe.method if recipe.is_plain else recipe.method_object().category,
        task=recipe.task_object().name,
        model=recipe.model,
        seed=recipe.seed,
        metric=recipe.task_object().metric,
        score=score,
        checkpoint=recipe.checkpoint,
        learning_rate=recipe.learning_rate,
        config_hash=recipe.digest(),
        device="cpu",
        versions={"python": platform.python_version()},
        data=recipe.data_name,
        hold_out=recipe.hold_out,
        **counts,
        **times,
    )


def nothing(run, score=None):
    """Leaves a finished folder."""
    with (run.folder.parents[1] / LOG).open("a") as file:
        file.write(f"{run.name} {(run.folder / 'result.json').is_file()}\n")
    made = result(run.recipe, score)
    RunFolder(run.folder).finish(made, "adapter", lambda path: (path / "weights").write_text(run.name))
    return made


def slowly(run):
    """Takes a moment, so that a kill finds it at work."""
    time.sleep(random.uniform(0.0, 0.02))
    made = nothing(run)
    time.sleep(random.uniform(0.0, 0.01))
    return made


def for_an_hour(run):
    time.sleep(3600)
    return nothing(run)


def best_at_a_hundredth(run):
    """Its score tells how near the learning rate is to 0.01."""
    return nothing(run, -abs(run.recipe.learning_rate - 0.01))


def best_at_half_the_weight(run):
    """Its score tells how near the weight of the constraint is to a half."""
    return nothing(run, -abs(run.recipe.mpc_weight - 0.5))


def with_accidents(run):
    """Seed 1 kills its worker, seed 2 fails with a word, seed 3 does so the first time only."""
    print("about to work on seed", run.recipe.seed, flush=True)
    if run.recipe.seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if run.recipe.seed == 2:
        raise RunFailed("the loss is nan at step 3")
    if run.recipe.seed == 3 and not (run.folder / "error.txt").exists():
        raise ZeroDivisionError("once")
    return nothing(run)


def full_disk(run):
    raise OSError(28, "No space left on device")


def fingerprint(folder):
    """All files of finished runs, by name and content, wherever the sweep's folder is.

    Not the log and an earlier error: they tell how the run went, not what came of it.
    """
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes().replace(str(folder).encode(), b"")).hexdigest()
        for kind in ("final", "tuning")
        for path in sorted((folder / kind).rglob("*"))
        if path.is_file() and path.name not in ("log.txt", "error.txt")
    }
