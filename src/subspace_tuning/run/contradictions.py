"""What in a recipe cannot be had together."""

from __future__ import annotations

from typing import Any

from subspace_tuning.method import Method
from subspace_tuning.method.registry import from_data
from subspace_tuning.optim import ANYWHERE, check

TRAINED = {"full": "every weight", "head": "the head alone", "none": "nothing"}


def check_fields(recipe: Any) -> None:
    """Raise ValueError where fields contradict each other, whatever the method is."""
    if recipe.checkpoint == "best" and recipe.evaluate_every == "end":
        raise ValueError("checkpoint: best compares evaluations; set evaluate_every to epoch or a number of steps")
    if recipe.early_stopping and recipe.checkpoint != "best":
        raise ValueError("early_stopping keeps the best checkpoint; set checkpoint: best")
    if recipe.is_plain and (recipe.mpc or recipe.target_modules):
        raise ValueError(f"method: {recipe.method} trains {TRAINED[recipe.method]}; leave out mpc and target_modules")
    if check(recipe.optimizer)[0] != "adamw" and "optim" in recipe.trainer:
        raise ValueError(f"optimizer: {recipe.optimizer} and trainer: optim name two optimisers; leave one out")
    if recipe.method == "full" and recipe.dtype in ("bf16", "fp16"):
        raise ValueError(
            f"method: full changes the base's own weights, and most steps are too small for dtype: {recipe.dtype}; "
            "leave it out, and set bf16: true to compute in bf16"
        )


def check_method(recipe: Any) -> None:
    """Raise ValueError where the method does not go with the rest, NotLoaded where its class is not here yet."""
    name, _ = check(recipe.optimizer)
    of_factors = name not in ANYWHERE
    if not of_factors and not recipe.weight_decay:
        return
    method = None if recipe.is_plain else from_data(recipe.method)
    if method is not None and recipe.weight_decay and (reason := method.no_decay):
        raise ValueError(
            f"weight_decay: {recipe.weight_decay:g} does not lead back to the base model: {reason}; set it to 0"
        )
    if of_factors and not (method and _has_factors(method)):
        raise ValueError(f"optimizer: {name} is for methods with factors A and B, not for {recipe.method_label}")


def _has_factors(method: Method) -> bool:
    names = method.parameters(1 << 30, 1 << 30)
    return any(A in names and B in names for A, B, _ in method.factor_pairs())
