"""Statistics say what independent computations say, and do not see differences where there are none."""

import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from subspace_tuning.errors import BadInput
from subspace_tuning.study import statistics
from subspace_tuning.study.ranking import critical_difference, not_told_apart, ranking
from subspace_tuning.study.resampling import mean_intervals, ratio_intervals, sign_flip_ps, smallest_p

FEW = settings(max_examples=15, deadline=None)


def frame(scores, model="tiny", kind="final"):
    """Gathered runs from {(method, r, task): scores by seed}."""
    return pd.DataFrame(
        [
            {"model": model, "method": m, "r": r, "task": t, "seed": s, "score": x, "kind": kind, "label": m}
            for (m, r, t), values in scores.items()
            for s, x in enumerate(values)
        ]
    ).astype({"r": "Int64"})


def drawn(methods, tasks=4, seeds=5, effects=(), rng=0, noise=0.01):
    """Runs with normal noise around 0.7, plus each method's effect."""
    rng = np.random.default_rng(rng)
    level = dict(zip(methods, effects, strict=False))
    return frame(
        {
            (m, None, f"task{t}"): 0.7 + level.get(m, 0) + noise * rng.normal(size=seeds)
            for m in methods
            for t in range(tasks)
        }
    )


def score_lists(least=2, most=6):
    return st.lists(st.integers(0, 1000).map(lambda i: i / 1000), min_size=least, max_size=most)


def test_summary_is_what_numpy_says():
    values = [0.61, 0.64, 0.66, 0.59]
    row = statistics.summary(frame({("lora", 2, "rte"): values, ("ssb", None, "rte"): [0.5]})).set_index("method")
    lora = row.loc["lora"]
    assert (lora["n"], lora["r"]) == (4, 2)
    assert lora["mean"] == pytest.approx(np.mean(values))
    assert lora["std"] == pytest.approx(np.std(values, ddof=1))
    assert lora["sem"] == pytest.approx(np.std(values, ddof=1) / 2)
    assert lora["low"] < lora["mean"] < lora["high"]
    assert row.loc["ssb"][["sem", "std", "low", "high"]].isna().all(), "one run has no interval"


def test_tuning_runs_do_not_count():
    final, tuning = frame({("ssb", None, "rte"): [0.6, 0.7]}), frame({("ssb", None, "rte"): [0.1]}, kind="tuning")
    assert statistics.summary(pd.concat([final, tuning]))["n"].item() == 2


@FEW
@given(score_lists(), st.randoms())
def test_the_order_of_runs_does_not_matter(values, random):
    runs = frame({("ssb", None, "rte"): values, ("full", None, "rte"): values[::-1]})
    order = list(range(len(runs)))
    random.shuffle(order)
    for table in (statistics.summary, statistics.averages, statistics.shares):
        pd.testing.assert_frame_equal(table(runs), table(runs.iloc[order]))


@FEW
@given(score_lists(), st.floats(-1, 1))
def test_intervals_shift_with_the_scores(values, shift):
    (plain,), (moved,) = mean_intervals([[np.array(values)]]), mean_intervals([[np.array(values) + shift]])
    assert np.allclose(np.array(plain) + shift, moved, atol=1e-9)


@FEW
@given(score_lists(3), st.floats(0.1, 10))
def test_a_share_does_not_depend_on_the_unit(values, unit):
    pair = np.array([values, values[::-1]]) + 0.1
    (plain,), (scaled,) = ratio_intervals([[pair]]), ratio_intervals([[unit * pair]])
    assert np.allclose(plain, scaled)


def test_intervals_cover_as_often_as_they_say():
    """Eight tasks with five seeds each, of unlike noise: the measured coverage is 93 %."""
    rng = np.random.default_rng(1)
    many = [[(1 + t % 3) * rng.normal(size=5) for t in range(8)] for _ in range(400)]
    covered = np.mean([low <= 0 <= high for low, high in mean_intervals(many)])
    assert 0.90 <= covered <= 0.98


def test_the_same_runs_give_the_same_interval_in_any_company():
    alone = mean_intervals([[np.array([0.1, 0.4, 0.2])]])
    assert mean_intervals([[np.array([0.5, 0.6, 0.9])], [np.array([0.1, 0.4, 0.2])]])[1] == alone[0]


@FEW
@given(st.lists(st.integers(-40, 40), min_size=2, max_size=8))
def test_p_is_the_share_of_sign_flips_as_extreme(differences):
    d = np.array(differences) / 16  # sums of sixteenths are exact
    sums = np.array([np.dot(d, signs) for signs in itertools.product((1, -1), repeat=len(d))])
    expected = min(1.0, 2 * min(np.mean(sums >= d.sum()), np.mean(sums <= d.sum())))
    assert sign_flip_ps([[d]])[0] == pytest.approx(expected)
    assert sign_flip_ps([[d]])[0] >= smallest_p(len(d)) - 1e-12


def test_p_is_seldom_small_where_nothing_is():
    rng = np.random.default_rng(2)
    p = np.array(sign_flip_ps([[rng.normal(size=3) for _ in range(4)] for _ in range(600)]))
    assert 0.02 < np.mean(p <= 0.05) < 0.08


def test_differences_are_paired_over_what_both_have():
    runs = frame(
        {
            ("full", None, "rte"): [0.6, 0.7, 0.8],
            ("ssb", None, "rte"): [0.5, 0.6],
            ("full", None, "cola"): [0.3, 0.4],
            ("ssb", None, "sst2"): [0.9, 0.9],
        }
    )
    row = statistics.differences(runs).iloc[0]
    assert (row["tasks"], row["pairs"]) == (1, 2)
    assert row["effect"] == pytest.approx(-0.1)


def test_too_few_runs_are_called_so():
    runs = frame({("full", None, "rte"): [0.6, 0.7, 0.8], ("ssb", None, "rte"): [0.1, 0.2, 0.1]})
    row = statistics.differences(runs).iloc[0]
    assert row["told"] == "too few runs to tell: with 3 pairs the smallest attainable p is 0.25"
    assert np.isnan(row["p"])
    assert np.isnan(row["p_holm"])
    assert statistics.shares(runs).iloc[0]["told"].startswith(statistics.TOO_FEW)


def test_a_real_difference_is_found_and_chance_is_not():
    runs = drawn(["full", "same", "worse", "better"], seeds=5, effects=(0, 0, -0.05, 0.05))
    told = statistics.differences(runs).set_index("method")["told"]
    assert told.to_dict() == {"same": "not told apart", "worse": "worse", "better": "better"}


@pytest.mark.parametrize("seed", range(4))
def test_holm_is_never_below_the_raw_p(seed):
    table = statistics.differences(drawn(["full", "a", "b", "c"], effects=(0, 0.004, 0.01, 0), rng=seed))
    ordered = np.sort(table["p"])
    expected = np.minimum(1, np.maximum.accumulate(ordered * np.arange(len(ordered), 0, -1)))
    assert np.allclose(np.sort(table["p_holm"]), expected)
    assert (table["p_holm"] >= table["p"]).all()


def test_ranks_are_compared_with_their_own():
    cells = {(m, r, "rte"): [0.5 + r / 100, 0.6] for m in ("lora", "dora") for r in (2, 8)} | {
        ("full", None, "rte"): [1, 1]
    }
    beside = statistics.differences(frame(cells), "lora")
    dora = beside[beside["method"] == "dora"]
    assert list(zip(dora["r"], dora["baseline_r"], strict=True)) == [(2, 2), (8, 8)]
    assert len(beside[beside["method"] == "full"]) == 2, "without a rank: beside each"


def test_the_share_is_the_ratio_of_averages():
    runs = drawn(["full", "ssb"], tasks=3, effects=(0, -0.07))
    row = statistics.shares(runs).iloc[0]
    means = runs.groupby("method")["score"].mean()
    assert row["effect"] == pytest.approx(means["ssb"] / means["full"])
    assert row["low"] < row["effect"] < row["high"] < 1


def test_no_share_of_nothing():
    row = statistics.shares(frame({("full", None, "cola"): [0.0, 0.0], ("ssb", None, "cola"): [0.1, 0.2]})).iloc[0]
    assert np.isnan(row["effect"])
    assert np.isnan(row["low"])


def test_the_noise_floor_is_two_means_of_pure_noise():
    runs = drawn([f"m{i}" for i in range(40)], tasks=1, seeds=5, noise=0.02)
    row = statistics.noise(runs).iloc[0]
    assert row["dof"] == 160
    assert row["std"] == pytest.approx(np.sqrt(runs.groupby("method")["score"].var().mean()))
    assert row["floor"] == pytest.approx(scipy.stats.t.ppf(0.975, 160) * row["std"] * np.sqrt(2 / 5))


def test_a_task_that_full_fine_tuning_does_not_learn_is_named():
    def study(cola):
        return {("full", None, "rte"): [0.70, 0.72], ("head", None, "rte"): [0.60, 0.62]} | {
            (method, None, "cola"): values for method, values in cola.items()
        }

    chance = frame(study({"full": [0.01, -0.01], "head": [0.0, 0.0]}))
    assert statistics.unlearned(chance) == [("tiny", "cola")]
    assert statistics.unlearned(frame(study({"full": [0.0, 0.0], "head": [0.0, 0.0]}))) == [("tiny", "cola")]
    assert statistics.unlearned(frame(study({"full": [0.4, 0.42], "head": [0.0, 0.02]}))) == []
    assert statistics.unlearned(frame(study({"full": [0.0, 0.02]}))) == [], "nothing to compare with"
    below = frame({("full", None, "rte"): [0.53, 0.54], ("head", None, "rte"): [0.48, 0.49]})
    assert statistics.unlearned(below) == [("tiny", "rte")], "a probe below chance is easily beaten"


def test_averages_say_which_tasks_are_missing():
    table = statistics.averages(
        frame({("full", None, "rte"): [0.6, 0.8], ("full", None, "cola"): [0.3], ("ssb", None, "rte"): [0.5, 0.7]})
    ).set_index("method")
    assert table["complete"].to_dict() == {"full": True, "ssb": False}
    assert table.loc["full", "mean"] == pytest.approx((0.7 + 0.3) / 2)
    assert np.isnan(table.loc["full", "low"])
    assert table.loc["ssb", "low"] < 0.6 < table.loc["ssb", "high"]


def test_settings_of_one_method_are_told_apart_by_label_then_rate():
    one = frame({("lora", 2, "rte"): [0.6]}).assign(label="lora(r=2)", learning_rate=1e-3)
    other = one.assign(label="lora(r=2,alpha=8)")
    assert set(statistics.summary(pd.concat([one, other]))["method"]) == {"lora(r=2)", "lora(r=2,alpha=8)"}
    faster = one.assign(learning_rate=1e-2)
    assert len(statistics.summary(pd.concat([one, faster]))) == 2
    with pytest.raises(BadInput, match="more than once with seed 0"):
        statistics.summary(pd.concat([one, one]))


def test_missing_columns_are_named():
    with pytest.raises(BadInput, match="no column seed, score"):
        statistics.summary(frame({("ssb", None, "rte"): [1.0]}).drop(columns=["seed", "score"]))


def test_critical_differences_are_those_of_demsars_table():
    """q_0.05 of Table 5(a): 2.343, 2.569, 2.728, 2.850 for k = 3 ... 6."""
    for k, q in zip((3, 4, 5, 6), (2.343, 2.569, 2.728, 2.850), strict=True):
        assert critical_difference(k, 14) == pytest.approx(q * np.sqrt(k * (k + 1) / (6 * 14)), rel=1e-3)


def test_ranks_and_groups():
    runs = drawn(["a", "b", "c"], tasks=12, seeds=2, effects=(0.2, 0.1, 0.1))
    found = ranking(runs)
    assert found.names[0] == "a"
    assert found.mean_ranks[0] == 1
    assert sum(found.mean_ranks) == pytest.approx(6)
    assert found.p < 0.05
    assert found.groups == ((1, 2),)


@given(st.lists(st.floats(1, 20), min_size=2, max_size=12).map(sorted), st.floats(0, 20))
def test_groups_hold_exactly_the_pairs_that_are_not_told_apart(ranks, distance):
    together = {
        (i, j)
        for first, last in not_told_apart(ranks, distance)
        for i in range(first, last)
        for j in range(i + 1, last + 1)
    }
    near = {(i, j) for i, j in itertools.combinations(range(len(ranks)), 2) if ranks[j] - ranks[i] <= distance}
    assert together == near


def test_two_methods_are_too_few_to_rank():
    found = ranking(drawn(["a", "b"]))
    assert found.groups == ()
    assert "too few to rank" in found.told
