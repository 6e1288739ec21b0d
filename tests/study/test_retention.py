"""Retention is a score like any other: gains, forgetting and claims follow from runs whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_statistics import frame

from subspace_tuning.study import language, retention
from subspace_tuning.study.statistics import differences

SIZES = {"none": 0, "ssl": 0.1, "ssb": 0.2, "oft": 3.0, "lora": 7.0, "dora": 7.1, "pissa": 7.2, "full": 1000.0}
CATEGORY = {"full": "full", "none": "none", "lora": "extension", "pissa": "extension", "dora": "combination"}


def study(levels, tasks=("arc", "obqa"), seeds=3, noise=0.001, rng=0):
    """Runs with normal noise; levels: {method: (target, kept)}."""
    draw = np.random.default_rng(rng).normal
    ranked = {"lora", "dora", "pissa"}

    def cells(at):
        return {
            (m, 8 if m in ranked else None, t): both[at] + noise * draw(size=seeds) * (m != "none")
            for m, both in levels.items()
            for t in tasks
        }

    runs = frame(cells(0)).assign(kept_texts=frame(cells(1))["score"])
    sizes, category = runs["method"].map(SIZES), runs["method"].map(CATEGORY).fillna("reconstruction")
    return runs.assign(permille=sizes, category=category)


TRUTH = {
    "none": (0.5, 0.0),
    "ssl": (0.52, -0.01),
    "ssb": (0.57, -0.02),
    "oft": (0.56, -0.001),
    "lora": (0.58, -0.04),
    "dora": (0.582, -0.05),
    "pissa": (0.5, -0.06),
    "full": (0.6, -0.2),
}


def told(runs):
    return retention.told(runs).set_index("method")


def test_who_gains_and_who_forgets_is_told():
    found = told(study(TRUTH))
    assert found.loc["ssb"][["target", "retention"]].tolist() == ["gains", "forgets"]
    assert found.loc["pissa", "target"] == "cannot tell"
    assert found.loc["ssb", "gain"] == pytest.approx(0.07, abs=0.002)
    assert found.loc["ssb", "kept"] == pytest.approx(-0.02, abs=0.002)
    assert found.loc["ssb", "kept_low"] < found.loc["ssb", "kept"] < found.loc["ssb", "kept_high"]
    assert "none" not in found.index
    said = retention.sentence(next(retention.told(study(TRUTH)).itertuples()), "dora")
    assert said.startswith("dora: gains +8.")
    assert "texts: forgets -0.0" in said


def test_better_than_the_base_is_told_and_three_runs_tell_nothing():
    better = {"none": (0.5, 0), "ssb": (0.4, 0.1)}
    assert told(study(better)).loc["ssb"][["target", "retention"]].tolist() == ["loses", "improves"]
    alone = told(study(better, tasks=("arc",)))
    assert alone.loc["ssb"][["target", "retention"]].tolist() == ["cannot tell", "cannot tell"]


def test_without_the_base_there_is_no_gain_and_still_a_forgetting():
    found = told(study({"ssb": (0.5, -0.1), "ssl": (0.5, -0.2)}))
    assert found["target"].tolist() == ["cannot tell"] * 2
    assert found["retention"].tolist() == ["forgets"] * 2


def test_a_second_score_has_the_statistics_of_the_first():
    runs = study(TRUTH)
    kept = differences(retention.as_score(runs, "texts"))
    swapped = differences(runs.assign(score=runs["kept_texts"]))
    pd.testing.assert_frame_equal(kept, swapped)
    assert kept["p_holm"].notna().all()
    assert retention.judgements(runs.assign(kept_nothing=np.nan)) == ["texts"]
    assert retention.told(runs.drop(columns="kept_texts")).empty


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_the_front_is_who_is_not_beaten(points):
    def beaten(a):
        return any(b[0] >= a[0] and b[1] >= a[1] and b != a for b in points)

    assert retention.on_front(np.array(points, dtype=float)).tolist() == [not beaten(a) for a in points]


def verdicts(runs):
    return {v.claim: v for v in language.verdicts(runs)}


def test_what_is_said_of_language_models_is_judged():
    found = verdicts(study(TRUTH))
    assert found["SSB reaches 99 % of full fine-tuning"].verdict == "does not hold"
    front = found["Orthogonal methods have the best front of target and retention (texts)"]
    assert (front.verdict, front.effect) == ("holds", 1.0)
    fewer = found["Fewer parameters, less forgetting (texts)"]
    assert fewer.verdict == "holds"
    assert fewer.effect > 0.8
    near = found["Tuned LoRA (r = 8) is within 2 % of every variant"]
    assert near.verdict == "holds"
    assert near.effect == pytest.approx(0.58 / 0.582, abs=0.002)
    assert {part.about.split(":")[0] for part in near.parts} == {f"lora r=8 beside {v} r=8" for v in ("dora", "pissa")}
    assert found["PiSSA beats LoRA"].verdict == "does not hold"
    assert found["FLoRA beats LoRA"].why == "no runs of flora"


def test_the_same_claims_fail_where_they_are_not_true():
    turned = TRUTH | {"oft": (0.55, -0.03), "dora": (0.7, -0.001), "full": (0.6, 0.0), "ssl": (0.52, -0.3)}
    found = verdicts(study(turned))
    assert found["Orthogonal methods have the best front of target and retention (texts)"].verdict == "does not hold"
    assert found["Tuned LoRA (r = 8) is within 2 % of every variant"].verdict == "does not hold"
    assert found["DoRA beats LoRA"].verdict == "holds"
    assert found["Fewer parameters, less forgetting (texts)"].verdict != "holds"


def test_too_few_runs_settle_nothing():
    alone = study({m: TRUTH[m] for m in ("none", "oft", "lora")}, tasks=("arc",))
    assert {v.verdict for v in language.verdicts(alone)} == {"cannot tell"}
    assert {v.verdict for v in language.verdicts(alone[alone["method"] == "none"])} == {"cannot tell"}


def test_a_set_that_the_base_alone_has_is_no_set_that_contenders_lack():
    runs = study(TRUTH, seeds=6)
    begun = runs[(runs["task"] == "obqa") | (runs["method"] == "none")]
    claim = "Orthogonal methods have the best front of target and retention (texts)"
    assert verdicts(begun)[claim].verdict == "holds"
    lacking = verdicts(runs[(runs["task"] == "obqa") | (runs["method"] != "oft")])[claim]
    assert (lacking.verdict, lacking.text) == ("cannot tell", "not run")
    assert lacking.why == "no runs of oft or psoft beside others on every set, with this retention"


def test_gains_stand_beside_parameters():
    table = language.gain_per_parameter(study(TRUTH)).set_index("method")
    assert table.index[0] == "ssb"
    assert table.loc["ssb", "per_permille"] == pytest.approx(7 / 0.2, rel=0.05)
