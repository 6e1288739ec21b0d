"""Dropout on the rows that enter a low-rank product."""

from torch import Tensor
from torch.nn import functional as F

from subspace_tuning.algebra import Elementwise, Expr
from subspace_tuning.method import Params


def dropped(A: Expr, probability: float, p: Params) -> Expr:
    """A, each entry of the rows that enter it zero with that probability in training."""
    if not (probability and p.training):
        return A

    def drop(x: Tensor) -> Tensor:
        return F.dropout(x, probability)

    return Elementwise(drop, A.shape[0], linear=True) @ A


def check_probability(name: str, probability: float) -> None:
    if not 0.0 <= probability < 1.0:
        raise ValueError(f"{name}: dropout is a probability in [0, 1), got {probability!r}")
