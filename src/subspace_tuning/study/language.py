"""What is said of fine-tuning language models, and whether runs bear it out.

Sources: arXiv:2407.05417 (SSB, SSL, FLoRA, MPC); arXiv:2602.04998 and 2601.22708 (tuned LoRA is as good as its
variants); arXiv:2605.28819 (orthogonal methods forget least).
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import bootstrap, spearmanr

from subspace_tuning.run.recipe import NONE
from subspace_tuning.study import paper
from subspace_tuning.study.claims import (
    FAILS,
    HOLDS,
    MPC_RAISES_THE_MEAN,
    OPEN,
    Claim,
    Finding,
    Measure,
    Ruling,
    Verdict,
    beats,
    reaches,
    ruling,
    shown,
)
from subspace_tuning.study.claims import verdicts as of_claims
from subspace_tuning.study.resampling import LEVEL, RESAMPLES, SEED, smallest_p, stretched
from subspace_tuning.study.retention import as_score, beside_base, judgements, on_front
from subspace_tuning.study.statistics import ALPHA, TOO_FEW, Arm, Estimate, arms, averages, finals, paired, share

ORTHOGONAL = ("oft", "psoft")
PLAIN_LORA = ("lora", 8)
SAME_FAMILY = ("extension", "combination")
FEW = 5  # contenders, of which no rank correlation is told
CLAIMS = (
    reaches("SSB", "ssb", 99),
    reaches("SSL", "ssl", 95),
    beats("SSB beats (IA)3", "ssb", "ia3", operator.gt),
    beats("DoRA beats LoRA", "dora", "lora", operator.gt),
    beats("FLoRA beats LoRA", "flora", "lora", operator.gt),
    beats("PiSSA beats LoRA", "pissa", "lora", operator.gt),
    MPC_RAISES_THE_MEAN,
)
_WITHIN = Claim(
    "Tuned LoRA (r = 8) is within 2 % of every variant",
    Measure("of the variant's average", "pair", share, lambda x: f"{100 * x:.1f} %"),
    operator.ge,
    0.98,
    PLAIN_LORA[:1],
    lambda known: [],
)


def verdicts(runs: pd.DataFrame) -> list[Verdict]:
    """A verdict for each claim, from the gathered runs of a study of a language model."""
    named = runs.assign(method=runs["method"].map(paper.name_of))
    found = [replace(verdict, paper="") for verdict in of_claims(runs, CLAIMS)]
    found.append(within(named))
    for name in judgements(runs):
        found += [orthogonal_is_on_the_front(named, name), fewer_parameters_forget_less(named, name)]
    return found


def within(runs: pd.DataFrame) -> Verdict:
    """LoRA's average as a share of each variant's: holds where all do, does not where one does not."""
    scores, category = arms(runs), dict(zip(runs["method"], runs["category"], strict=True))
    lora = next((arm for arm in scores if (arm.method, arm.r) == PLAIN_LORA), None)
    variants = [arm for arm in scores if category[arm.method] in SAME_FAMILY and arm.method != PLAIN_LORA[0]]
    if lora is None or not variants:
        return _open(_WITHIN.claim, "not run", "no runs of lora r=8 and of a variant")
    blocks = [paired(scores[lora], scores[variant]) for variant in variants]
    parts = []
    for variant, estimate, block in zip(variants, share(blocks), blocks, strict=True):
        verdict, why = ruling(_WITHIN, estimate)
        about = f"{lora.name} beside {variant.name}"
        parts.append(
            Finding(
                about=f"{about}: {shown(_WITHIN.measure, estimate)}",
                verdict=verdict,
                effect=estimate.effect,
                low=estimate.low,
                high=estimate.high,
                runs=sum(each.size for each in block),
                why=why,
            )
        )
    rulings = {part.verdict for part in parts}
    least = min(parts, key=lambda part: part.effect)
    verdict = FAILS if FAILS in rulings else OPEN if OPEN in rulings else HOLDS
    counts = ", ".join(f"{sum(p.verdict == r for p in parts)} {r}" for r in (HOLDS, FAILS, OPEN) if r in rulings)
    return Verdict(
        claim=_WITHIN.claim,
        text=f"the least: {least.about}",
        why=f"of {len(parts)} variants {counts}",
        paper="",
        verdict=verdict,
        effect=least.effect,
        low=least.low,
        high=least.high,
        runs=sum(part.runs for part in parts),
        parts=tuple(parts),
    )


def orthogonal_is_on_the_front(runs: pd.DataFrame, name: str) -> Verdict:
    """No contender gains and keeps more than an orthogonal method, in which share of resamples of seeds."""
    claim = f"Orthogonal methods have the best front of target and retention ({name.replace('_', ' ')})"
    drawn, runs_of, pairs = _drawn(runs, name)
    ours = [i for i, arm in enumerate(drawn) if arm.method in ORTHOGONAL]
    if not ours or len(drawn) < 2:
        lacking = f"no runs of {' or '.join(ORTHOGONAL)} beside others on every set, with this retention"
        return _open(claim, "not run", lacking)
    part = float(on_front(np.stack(list(drawn.values()), axis=1))[:, ours].any(axis=1).mean())
    text = f"on the front in {100 * part:.1f} % of {RESAMPLES:,} resamples of the seeds"
    if (least := smallest_p(pairs)) > ALPHA:
        why = f"{TOO_FEW}: with {pairs} runs a contender the smallest attainable p is {least:.2g}"
        return replace(_open(claim, text, why), effect=part, runs=runs_of)
    edge = (1 - LEVEL) / 2
    verdict: Ruling = HOLDS if part >= 1 - edge else FAILS if part <= edge else OPEN
    why = f"it holds from {100 * (1 - edge):g} % on, and does not up to {100 * edge:g} %"
    return replace(_open(claim, text, why), verdict=verdict, effect=part, runs=runs_of)


def _drawn(runs: pd.DataFrame, name: str) -> tuple[dict[Arm, NDArray], int, int]:
    """Each contender's (target, kept) over resamples of its seeds, (resamples, 2); runs in all, and the fewest of one.

    Contenders that lack a task that another has are left out.
    """
    runs = runs[runs["method"] != NONE]
    kept = as_score(runs, name)
    target, retained = arms(finals(runs)), arms(kept)
    tasks = set(kept["task"])
    rng = np.random.default_rng(SEED)
    found: dict[Arm, NDArray] = {}
    sizes = []
    for arm, scores in target.items():
        blocks = paired(scores, retained[arm]) if arm in retained else []
        if len(blocks) != len(tasks) or any(len(block) < 2 for block in blocks):
            continue
        means = [_resampled(stretched(block.T), rng) for block in blocks]
        found[arm] = np.mean(means, axis=0)
        sizes.append(sum(map(len, blocks)))
    return found, sum(sizes), min(sizes, default=0)


def _resampled(pair: NDArray, rng: np.random.Generator) -> NDArray:
    """Means of a (2, n) over resamples of its columns, (resamples, 2)."""
    chosen = rng.integers(pair.shape[1], size=(RESAMPLES, pair.shape[1]))
    return pair[:, chosen].mean(axis=-1).T


def fewer_parameters_forget_less(runs: pd.DataFrame, name: str) -> Verdict:
    """Spearman's rank correlation of trained parameters with what was forgotten, over contenders (resampled)."""
    claim = f"Fewer parameters, less forgetting ({name.replace('_', ' ')})"
    kept = as_score(runs, name)
    kept = kept[kept["method"] != NONE]
    if kept.empty:
        return _open(claim, "not run", "no run with this retention")
    means = averages(kept)
    means = means[means["complete"]].merge(
        kept.groupby(["model", "method", "r"], dropna=False, as_index=False)["permille"].first()
    )
    sizes, forgotten = means["permille"].to_numpy(), -means["mean"].to_numpy()
    if len(means) < FEW:
        return _open(claim, f"{len(means)} contenders", f"{TOO_FEW}: a rank correlation takes {FEW} contenders or more")
    estimate = rank_correlation(sizes, forgotten)
    across = math.isnan(estimate.low) or estimate.low <= 0 <= estimate.high
    verdict: Ruling = OPEN if across else HOLDS if estimate.low > 0 else FAILS
    text = f"rank correlation {estimate.effect:+.2f} [{estimate.low:+.2f}, {estimate.high:+.2f}] over {len(means)}"
    return Verdict(
        claim=claim,
        text=f"{text} contenders",
        why="the interval has 0 inside" if across else "the whole interval is on one side of 0",
        paper="",
        verdict=verdict,
        effect=estimate.effect,
        low=estimate.low,
        high=estimate.high,
        runs=len(kept),
    )


def rank_correlation(a: NDArray, b: NDArray) -> Estimate:
    """Spearman's, with its 95 % percentile interval over resamples of the pairs."""

    def rho(x: Sequence[float], y: Sequence[float]) -> float:
        return float(spearmanr(x, y).statistic)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # resamples of one pair alone have no correlation
        how = {"paired": True, "vectorized": False, "n_resamples": RESAMPLES, "method": "percentile"}
        found = bootstrap((a, b), rho, rng=np.random.default_rng(SEED), confidence_level=LEVEL, **how)
        low, high = np.nanquantile(found.bootstrap_distribution, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Estimate(rho(list(a), list(b)), float(low), float(high), len(a))


def gain_per_parameter(runs: pd.DataFrame) -> pd.DataFrame:
    """model, method, r, tasks (how many), permille, gain (mean points over the base), per_permille; best first."""
    gains = beside_base(runs)
    sizes = finals(runs).groupby(["model", "method", "r"], dropna=False, as_index=False)["permille"].first()
    table = gains[["model", "method", "r", "tasks", "effect"]].merge(sizes)
    table = table.assign(gain=100 * table["effect"]).drop(columns="effect")
    return table.assign(per_permille=table["gain"] / table["permille"]).sort_values(
        "per_permille", ascending=False, ignore_index=True
    )


def _open(claim: str, text: str, why: str) -> Verdict:
    nan = math.nan
    return Verdict(claim=claim, verdict=OPEN, text=text, why=why, paper="", effect=nan, low=nan, high=nan, runs=0)


__all__ = ["CLAIMS", "gain_per_parameter", "verdicts"]
