"""What a sweep costs beside its training: 1,000 runs that train nothing, and gathering 5,800 finished ones.

Usage, from the repository's root:

    python benchmarks/sweep_overhead.py [--runs 1000] [--jobs 2] [--gather 5800]

Counted are claims, folders, configs, results, and the hand-over to the workers; the start of the workers, who import
torch once, is told apart. Wall time depends on what else the machine does; processor time hardly does.
"""

import argparse
import os
import platform
import resource
import tempfile
import time
from pathlib import Path

from subspace_tuning.run.folder import Result, RunFolder
from subspace_tuning.sweep.plan import Run
from subspace_tuning.sweep.pool import LocalPool
from subspace_tuning.sweep.recipe import make
from subspace_tuning.sweep.results import gather
from subspace_tuning.sweep.sweep import Sweep


def nothing(run: Run) -> Result:
    """Leaves the folder of a finished run without any training."""
    recipe = run.recipe
    result = Result(
        method=recipe.method_label,
        category="reconstruction",
        task=recipe.task,
        model=recipe.model,
        seed=recipe.seed,
        metric="none",
        score=0.0,
        checkpoint=recipe.checkpoint,
        learning_rate=recipe.learning_rate or 0.0,
        steps=0,
        trainable=0,
        trainable_with_head=0,
        total=1,
        permille=0.0,
        seconds=0.0,
        seconds_per_step=0.0,
        peak_memory_mb=0.0,
        resumed_from_step=0,
        config_hash=recipe.digest(),
        device="cpu",
        threads=1,
        versions={"python": platform.python_version()},
    )
    RunFolder(run.folder).finish(result, "adapter", lambda path: None)
    return result


def sweep(folder: Path, runs: int) -> Sweep:
    methods = ["ssb", "full", "lora", "dora", {"method": "lora", "mpc": "o"}]
    values = {"output": str(folder), "methods": methods, "tasks": ["rte", "cola"], "seeds": list(range(runs // 10))}
    return Sweep(make(values))


def cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--gather", type=int, default=5800)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        work = sweep(Path(folder) / "sweep", given.runs)
        print(
            f"planned in {time.perf_counter() - began:.2f} s; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
        )
        began = time.perf_counter()
        # Forked, so that the processor time of the workers is that of children and nothing is imported anew.
        pool = LocalPool(work.plan.folder, given.jobs, f"{Path(__file__).stem}:nothing", threads=1, start="fork")
        print(f"{given.jobs} workers after {time.perf_counter() - began:.2f} s")
        began, used = time.perf_counter(), cpu_seconds()
        summary = work.run(lambda: pool)
        wall, used = time.perf_counter() - began, cpu_seconds() - used
        assert summary.is_complete, summary
        per = 1000 / summary.stages[-1].finished
        print(f"{summary.stages[-1].finished} runs in {wall:.2f} s: {per * wall:.1f} ms of wall time a run, ")
        print(f"{per * used:.1f} ms of processor time a run, all processes together")

        began = time.perf_counter()
        again = sweep(Path(folder) / "sweep", given.runs).stages()
        print(f"looked through when all is finished: {time.perf_counter() - began:.2f} s ({again[-1].missing} missing)")

        many = sweep(Path(folder) / "many", given.gather)
        for cell in many.plan.cells:
            for run in many.final_runs(cell):
                RunFolder(run.folder).open(run.recipe)
                nothing(run)
        began = time.perf_counter()
        found = gather(Path(folder) / "many")
        print(f"{len(found)} finished runs gathered in {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    main()
