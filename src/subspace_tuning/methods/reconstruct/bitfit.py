"""BitFit: train the biases."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from subspace_tuning.algebra import Weight
from subspace_tuning.method import Method, Params, Start, zeros
from subspace_tuning.method.registry import register


@register("bitfit")
@dataclass(frozen=True)
class BitFit(Method):
    """phi([W; b^T]) = [W; (b + delta)^T].

    The last row of the augmented weight: every bias of the encoder, those of layer norms included.
    Source: arXiv:2106.10199; arXiv:2407.05417, eqs. (11)-(12).
    """

    category = "reconstruction"
    mode = "2: singular vectors, nonlinear"
    formula = "m"
    paper = "arXiv:2106.10199"
    sits_on = "bias"
    places = "biases"
    learning_rate = 2e-3

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"delta": zeros(m)}

    def bias(self, b: Any, p: Params) -> Any:
        return p.delta + b

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        b, b_star = W.own_bias, W_star.own_bias
        return {} if b is None or b_star is None else {"delta": b_star - b}
