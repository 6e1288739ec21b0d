"""The laws that every method obeys on every kind of base weight: one function a law, one file a subject."""

from subspace_tuning.testing.laws import (
    composing,
    counting,
    decay,
    degenerate,
    gradients,
    in_place,
    merging,
    projecting,
    rounding,
    rows,
    saving,
    start,
    strength,
    training,
    transforms,
    truth,
)

__all__ = [
    "composing",
    "counting",
    "decay",
    "degenerate",
    "gradients",
    "in_place",
    "merging",
    "projecting",
    "rounding",
    "rows",
    "saving",
    "start",
    "strength",
    "training",
    "transforms",
    "truth",
]
