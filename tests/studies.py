"""Studies of any size, made up from a seed: run folders as `subspace train` leaves them, scores of our choosing."""

import dataclasses
import hashlib
import itertools
import json
import math
import random
from pathlib import Path

from subspace_tuning.run.folder import Result
from subspace_tuning.run.recipe import make

PLAIN = ("full", "sam_parser", "ia3", "ssl", "ssb", "bitfit")
RANKED = (
    "lora",
    "lora+mpc_o",
    "lora+mpc_d",
    "lora+mpc_n",
    "trilora",
    "flora",
    "dora",
    "loha",
    "hira",
    "pissa",
    "moslora",
)
RANKS = (2, 4, 8, 16)
TASKS = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
MODELS = {"roberta-base": 125_000_000, "deberta-v3-base": 184_000_000, "roberta-large": 355_000_000}
CATEGORY = {"full": "full", "dora": "combination", "hira": "combination"} | dict.fromkeys(PLAIN[1:], "reconstruction")
METRIC = {"cola": "matthews_correlation", "stsb": "pearson"}
LEVEL = {"sam_parser": -0.2, "ia3": -0.04, "ssl": -0.035, "ssb": -0.008, "full": 0.0}  # of the score, beside full
STEPS = range(10, 101, 10)
HOSTILE = "</script><img src=x onerror=alert(1)>"  # a method of this name must stay a name


@dataclasses.dataclass(frozen=True)
class Run:
    folder: str
    config: str
    result: Result
    metrics: list[dict]


def runs(size: int = 5800, seed: int = 0, tasks=TASKS, models=tuple(MODELS), seeds: int = 5):
    """The first ``size`` runs of methods x ranks x tasks x models x seeds."""
    rng = random.Random(seed)
    methods = [(m, None) for m in PLAIN] + [(m, r) for r in RANKS for m in RANKED]
    configs: dict[tuple, str] = {}
    cells = itertools.product(models, methods, tasks, range(seeds))
    for model, (method, r), task, s in itertools.islice(cells, size):
        if (method, r) not in configs:
            configs[method, r] = _config(method, r)
        yield _run(rng, configs[method, r], model, method, r, task, s)


def write(folder: Path, *args, **kwargs) -> Path:
    """The runs as folders."""
    for run in runs(*args, **kwargs):
        put(folder, run)
    return folder


def put(folder: Path, run: Run) -> None:
    place = folder / run.folder
    place.mkdir(parents=True)
    (place / "config.yaml").write_text(run.config)
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in run.metrics))
    (place / "result.json").write_text(run.result.to_json())


def _config(method: str, r: int | None) -> str:
    """A resolved recipe with its places for model, task, seed and folder left open."""
    name, _, mpc = method.partition("+mpc_")
    fields = name if r is None or name == "full" else {"name": name, "r": r}
    return make({"method": fields, "mpc": mpc or None, "task": "rte", "learning_rate": 1e-3}).resolved().dump()


def _run(rng, config: str, model: str, method: str, r: int | None, task: str, seed: int) -> Run:
    name, plus, mpc = method.partition("+")
    label = name if r is None else f"{name}(r={r})"
    metric = METRIC.get(task, "accuracy")
    level = 0.9 - 0.03 * TASKS.index(task) if task in TASKS else 0.8
    level += LEVEL.get(name, -0.02) + 0.004 * math.log2(r or 1) * (r is not None)
    score = min(1.0, rng.gauss(level, 0.004 if plus else 0.008))
    total = MODELS.get(model, 22_713_216)
    trainable = total if name == "full" else int(total * (6e-4 if r is None else 3e-4 * r))
    folder = f"runs/{task}-{model}-{method.replace('+', '-')}{'' if r is None else f'-r{r}'}-seed{seed}"
    step = rng.uniform(0.05, 0.08) * (1.5 if name == "full" else 1.1)
    result = Result(
        method=label + plus + mpc,
        category=CATEGORY.get(name, "extension"),
        task=task,
        model=model,
        seed=seed,
        metric=metric,
        score=score,
        checkpoint="last",
        learning_rate=1e-3,
        steps=100,
        trainable=trainable,
        trainable_with_head=trainable + 1538,
        total=total,
        permille=1000 * trainable / total,
        seconds=step * 110,
        seconds_per_step=step,
        peak_memory_mb=total / 2**20 * (16 if name == "full" else 5),
        resumed_from_step=0,
        config_hash=hashlib.sha256(folder.encode()).hexdigest()[:16],
        device="cpu",
        threads=1,
        versions={"subspace-tuning": "0.1.0", "torch": "2.13.0"},
    )
    own = {"model": model, "task": task, "seed": seed, "output": folder}
    lines = [line.partition(":")[0] for line in config.splitlines()]
    text = "\n".join(
        f"{key}: {own[key]}" if key in own else line for key, line in zip(lines, config.splitlines(), strict=True)
    )
    metrics = [{"step": s, "loss": 0.7 * math.exp(-s / 60) + rng.gauss(0.05, 0.01), "epoch": s / 33} for s in STEPS]
    metrics += [{"step": s, "eval_loss": 0.5, f"eval_{metric}": score - 2 / s} for s in (33, 66)]
    metrics += [{"step": 100, "eval_loss": 0.4, f"eval_{metric}": score, "epoch": 3.0}]
    return Run(folder, text + "\n", result, metrics)
