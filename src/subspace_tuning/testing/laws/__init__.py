"""The laws that every method obeys on every kind of base weight: one function a law, one file a subject."""

from subspace_tuning.testing.laws import (
    composing,
    counting,
    merging,
    projecting,
    rounding,
    rows,
    saving,
    start,
    training,
    truth,
)

__all__ = ["composing", "counting", "merging", "projecting", "rounding", "rows", "saving", "start", "training", "truth"]
