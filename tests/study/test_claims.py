"""Verdicts follow from runs whose truth is known, and none is given where runs cannot settle it."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_statistics import frame

from subspace_tuning.study import paper
from subspace_tuning.study.claims import CLAIMS, ruling, verdicts
from subspace_tuning.study.statistics import Estimate, difference

SSB, SSL, SAM, OVER_SSL, OVER_IA3, FLORA, TRILORA, DORA, MEAN, SPREAD = (claim.claim for claim in CLAIMS)
TASKS = ("cola", "rte", "sst2", "stsb")


def study(levels, seeds=3, noise=0.002, tasks=TASKS, rng=0):
    """Runs with normal noise; levels: {(method, r): mean score or (mean score, noise)}."""
    draw = np.random.default_rng(rng).normal
    cells = {}
    for (method, r), level in levels.items():
        mean, spread = level if isinstance(level, tuple) else (level, noise)
        cells |= {(method, r, task): mean + spread * draw(size=seeds) for task in tasks}
    return frame(cells)


def verdict_of(runs):
    return {verdict.claim: verdict for verdict in verdicts(runs)}


def test_true_claims_hold_and_false_ones_do_not():
    levels = {
        ("full", None): 0.8,
        ("ssb", None): 0.8,
        ("ssl", None): 0.74,
        ("ia3", None): 0.82,
        ("sam_parser", None): 0.6,
    }
    found = verdict_of(study(levels))
    assert [found[c].verdict for c in (SSB, SSL, SAM, OVER_SSL, OVER_IA3)] == [
        "holds",
        "does not hold",
        "holds",
        "holds",
        "does not hold",
    ]
    ssl = found[SSL]
    assert ssl.low < ssl.effect < ssl.high < 0.95
    assert ssl.effect == pytest.approx(0.74 / 0.8, abs=0.01)
    assert ssl.runs == 2 * 3 * len(TASKS)
    assert (
        ssl.paper
        == "97.7 % (deberta-v3-base), 95.5 % (roberta-base), 97.5 % (roberta-large) of full fine-tuning's average"
    )


def test_ranks_are_judged_one_by_one_and_together():
    levels = {("lora", 2): 0.7, ("lora", 8): 0.75, ("dora", 2): 0.72, ("dora", 8): 0.73}
    dora = verdict_of(study(levels))[DORA]
    assert dora.effect == pytest.approx(0, abs=0.003)
    assert [(part.about, part.verdict) for part in dora.parts] == [
        ("dora r=2 beside lora r=2 on tiny", "holds"),
        ("dora r=8 beside lora r=8 on tiny", "does not hold"),
    ]
    assert dora.effect == pytest.approx(np.mean([part.effect for part in dora.parts]))


def test_what_was_not_run_cannot_be_told():
    found = verdict_of(study({("full", None): 0.8, ("flora", 2): 0.8, ("dora", 2): 0.8, ("lora", 8): 0.8}))
    assert {v.verdict for v in found.values()} == {"cannot tell"}
    assert found[FLORA].why == "no runs of adalora"
    assert found[SSB].why == "no runs of ssb"
    assert found[DORA].why == "no runs of both with the same rank, task and seed"
    assert math.isnan(found[DORA].effect)


def test_three_runs_on_one_task_settle_nothing():
    ssb = verdict_of(study({("full", None): 0.8, ("ssb", None): 0.5}, tasks=("rte",)))[SSB]
    assert ssb.verdict == "cannot tell"
    assert ssb.why == "too few runs to tell: with 3 pairs the smallest attainable p is 0.25"
    assert ssb.high < 0.99, "the effect is told all the same"


def test_one_seed_has_no_interval():
    ssb = verdict_of(study({("full", None): 0.8, ("ssb", None): 0.5}, seeds=1, tasks=paper.TASKS))[SSB]
    assert (ssb.verdict, ssb.why) == ("cannot tell", "one run a task has no interval")


def test_mpc_is_judged_by_mean_and_by_spread():
    levels = {("lora", r): (0.70, 0.02) for r in (2, 8)} | {("lora+mpc_o", r): (0.78, 0.001) for r in (2, 8)}
    found = verdict_of(study(levels, seeds=5))
    assert (found[MEAN].verdict, found[SPREAD].verdict) == ("holds", "holds")
    assert found[SPREAD].effect == pytest.approx(0.05, abs=0.03)
    turned = verdict_of(study({(m.replace("lora+mpc_o", "x").replace("lora", "lora+mpc_o").replace("x", "lora"), r): v
                               for (m, r), v in levels.items()}, seeds=5))  # fmt: skip
    assert (turned[MEAN].verdict, turned[SPREAD].verdict) == ("does not hold", "does not hold")


def test_constraints_on_one_method_share_its_runs():
    """Three patterns beside the same LoRA are not three times the evidence: the pairs are LoRA's."""
    levels = {("lora", 2): 0.7} | {(f"lora+mpc_{p}", 2): 0.7 for p in "odn"}
    found = verdict_of(study(levels))[MEAN]
    assert len(found.parts) == 3
    assert "over 12 pairs" in found.text
    assert found.effect == pytest.approx(np.mean([part.effect for part in found.parts]))


def test_adalora_is_known_with_and_without_its_regulariser():
    levels = {("adalora(init_r=3)", 2): 0.72, ("adalora(init_r=3,orthogonality=0.0)", 2): 0.70, ("flora", 2): 0.73}
    found = verdict_of(study(levels))
    assert (found[FLORA].verdict, found[MEAN].verdict) == ("holds", "holds")


def test_the_verdict_is_seldom_wrong_under_the_null():
    """Of methods that are the same, one in twelve or so is called better or worse with four tasks and five seeds."""
    draw = np.random.default_rng(3).normal
    found = difference([[draw(size=(5, 2)) for _ in TASKS] for _ in range(400)])
    claim = next(claim for claim in CLAIMS if claim.claim == OVER_SSL)
    assert 0.03 < np.mean([ruling(claim, e)[0] != "cannot tell" for e in found]) < 0.12


@settings(deadline=None)
@given(st.floats(0.5, 1.5), st.floats(0, 0.3), st.integers(6, 40))
def test_a_verdict_is_where_the_interval_lies(effect, half, pairs):
    claim = CLAIMS[0]
    verdict, _ = ruling(claim, Estimate(effect, effect - half, effect + half, pairs))
    expected = "holds" if effect - half >= 0.99 else "does not hold" if effect + half < 0.99 else "cannot tell"
    assert verdict == expected


def test_the_papers_headline_follows_from_its_tables():
    """As far as its averages are averages of its tasks, that is to 0.1 %."""
    table = paper.figures().set_index(["model", "method"])["average"]
    told = verdict_of(study({("ssb", None): 0.8}))[SSB].paper
    for model in paper.TABLES.values():
        own = 100 * table[model, "ssb"].item() / table[model, "full"].item()
        assert float(re.search(rf"([\d.]+) % \({model}\)", told)[1]) == pytest.approx(own, abs=0.11)
    assert "98.1 % (roberta-base)" in told


def test_the_papers_averages_are_those_of_its_tasks():
    table = paper.figures()
    assert len(table) == 174
    off = (table[list(paper.TASKS)].mean(axis=1) - table["average"]).abs()
    assert (off < 0.011).mean() > 0.9
