"""What runs forgot: retention is a second score, and whatever is known of a score holds for it too.

The base is its zero: kept_NAME is how a run changed what the base was able to, positive where it became better.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from subspace_tuning.run.recipe import NONE
from subspace_tuning.study.claims import OPEN
from subspace_tuning.study.statistics import ARM, TOO_FEW, differences, finals
from subspace_tuning.sweep.results import KEPT

GAINS: Final = "gains"
LOSES: Final = "loses"
FORGETS: Final = "forgets"
IMPROVES: Final = "improves"


def judgements(runs: pd.DataFrame) -> list[str]:
    """The names of what was judged before and after training."""
    return [name.removeprefix(KEPT) for name in runs if name.startswith(KEPT) and runs[name].notna().any()]


def as_score(runs: pd.DataFrame, name: str) -> pd.DataFrame:
    """The final runs, their score what they kept of a judgement: for every function of ``statistics``."""
    kept = finals(runs)
    return kept.assign(score=kept[f"{KEPT}{name}"]).dropna(subset="score")


def beside_base(runs: pd.DataFrame, base: float | None = None) -> pd.DataFrame:
    """``statistics.differences`` from the base, which is one number a task whatever the seed.

    base: its score on every task; without it that of method ``none``, and tasks on which it was not run are left out.
    """
    known = finals(runs)
    trained = known[known["method"] != NONE]
    places = trained[["model", "task", "seed"]].drop_duplicates()
    if base is None:
        scores = known[known["method"] == NONE].groupby(["model", "task"], as_index=False)["score"].mean()
        places = places.merge(scores)
    else:
        places = places.assign(score=base)
    if places.empty:
        return differences(trained, NONE)
    untrained = places.assign(method=NONE, label=NONE, r=pd.NA, kind="final").astype({"r": "Int64"})
    return differences(pd.concat([trained, untrained], ignore_index=True), NONE)


def told(runs: pd.DataFrame) -> pd.DataFrame:
    """What each arm gains and forgets, a row for each judgement of retention.

    model, method, r, judgement; gain and kept (means over tasks of the change from the base), each with _low, _high
    (95 %), _p (sign flips; Holm over a model's arms); target (gains, loses, cannot tell) and retention (forgets,
    improves, cannot tell) by where the whole interval is, unless there are too few runs to tell.
    """
    target = _verdicts(beside_base(runs), "gain", GAINS, LOSES, "target")
    each = [
        _verdicts(beside_base(as_score(runs, name), 0.0), "kept", IMPROVES, FORGETS, "retention").assign(judgement=name)
        for name in judgements(runs)
    ]
    if not each:
        return pd.DataFrame()
    table = pd.concat(each, ignore_index=True).merge(target, on=ARM, how="left")
    table["target"] = table["target"].fillna(OPEN)
    return table


def _verdicts(found: pd.DataFrame, name: str, up: str, down: str, column: str) -> pd.DataFrame:
    told = [_verdict(row, up, down) for row in found.itertuples()]
    numbers = {name: "effect", f"{name}_low": "low", f"{name}_high": "high", f"{name}_p": "p_holm"}
    return found[ARM].assign(**{new: found[old] for new, old in numbers.items()}, **{column: told})


def _verdict(row: Any, up: str, down: str) -> str:
    if row.told.startswith(TOO_FEW) or np.isnan(row.low) or row.low <= 0 <= row.high:
        return OPEN
    return up if row.low > 0 else down


def on_front(points: NDArray) -> NDArray[np.bool_]:
    """Which of points (..., n, 2) no other one is as good as in both and better in one."""
    a, b = points[..., :, None, :], points[..., None, :, :]
    beaten = np.all(b >= a, axis=-1) & np.any(b > a, axis=-1)
    return ~beaten.any(axis=-1)


def sentence(row: Any, name: str) -> str:
    """``lora r=8 gains 8.31 points [8.00, 8.60]; of editorials it forgets 0.020 [0.018, 0.023]``."""
    gain = f"{row.target} {_interval(100 * row.gain, 100 * row.gain_low, 100 * row.gain_high, 2)} points"
    if pd.isna(row.gain):
        gain = "gains nobody can tell, the base was not judged"
    kept = _interval(row.kept, row.kept_low, row.kept_high, 4)
    return f"{name}: {gain}; {row.judgement.replace('_', ' ')}: {row.retention} {kept}"


def _interval(value: float, low: float, high: float, digits: int) -> str:
    interval = "" if pd.isna(low) else f" [{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"{value:+.{digits}f}{interval}"


__all__ = ["as_score", "beside_base", "judgements", "on_front", "sentence", "told"]
