"""The judgement of kappa on the studies: what it says of made-up studies whose answer is known."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from subspace_tuning.methods import IA3, SSB, LoRA

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMES = [f"m{i}" for i in range(12)]


@pytest.fixture(scope="module")
def judged():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("advise_judged", BENCHMARKS / "advise.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        module.RESAMPLES = 200
        return module
    finally:
        sys.path.remove(str(BENCHMARKS))


def study(kappa, parameters, score):
    return pd.DataFrame({"kappa": kappa, "start": 0.5, "parameters": parameters, "score": score}, index=NAMES)


def test_a_predictor_that_orders_rightly_leads_and_one_at_random_does_not(judged):
    rng, order = np.random.default_rng(0), np.arange(12.0)
    found = judged.correlations(
        [study(order, rng.permutation(12), order), study(order**3, rng.permutation(12), order)], "score"
    )
    assert [found["kappa"][k] for k in ("rho", "low")] == pytest.approx([1.0, 1.0])
    assert found["kappa less parameters"]["low"] > 0
    assert found["start"]["rho"] == 0.0
    same = judged.correlations([study(order, order, rng.permutation(12))], "score")
    assert same["kappa less parameters"] == {"rho": 0.0, "low": 0.0, "high": 0.0}
    assert same["kappa"]["low"] < same["kappa"]["rho"] < same["kappa"]["high"]


def test_regret_of_the_advice_does_not_see_the_task_itself(judged):
    scores = {"a": (0.5, 0.9, 0.6), "b": (0.5, 0.6, 0.7), "c": (0.5, 0.6, 0.8)}
    methods = {"lora(r=8)": LoRA(), "ssb": SSB(), "ia3": IA3()}
    tasks = []
    for name, own in scores.items():
        arms = [
            judged.Arm(label, method.name, method, 10 * (i + 1), {"score": score})
            for i, ((label, method), score) in enumerate(zip(methods.items(), own, strict=True))
        ]
        tasks.append(judged.Task(name, None, arms))
    frames = {
        task.name: pd.DataFrame(
            {
                "kappa": [3.0, 2.0, 1.0],
                "start": [0.1, 0.2, 0.3],
                "parameters": [10, 20, 30],
                "score": scores[task.name],
            },
            index=list(methods),
        )
        for task in tasks
    }
    found = {row["task"]: row for row in judged.regrets(tasks, frames)}
    advice = {name: row["chosen"]["advice: measured on the other tasks"] for name, row in found.items()}
    assert {name: told["method"] for name, told in advice.items()} == {"a": "ia3", "b": "ssb", "c": "ssb"}
    assert advice["a"]["regret"] == pytest.approx(0.3)
    assert found["b"]["chosen"]["kappa"]["method"] == "lora(r=8)"
    assert found["c"]["chosen"]["always LoRA, r=8"]["regret"] == pytest.approx(0.3)
    assert found["c"]["best"] == "ia3"
