"""(IA)3: scale the subspace on the right side of W."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subspace_tuning.algebra import Diag, Expr, Live, Weight
from subspace_tuning.linalg.nearest import row_scales
from subspace_tuning.linalg.powers import scale_power
from subspace_tuning.method import Method, Params, Start, zeros
from subspace_tuning.method.registry import register


@register("ia3")
@dataclass(frozen=True)
class IA3(Method):
    """phi(W) = W D, D = diag(1 + delta).

    Scales the row space of the right singular vectors: one number per output feature, its deviation from 1 trained; the
    bias stays as it is.
    Source: arXiv:2205.05638, section 3.3; arXiv:2407.05417, eq. (10).
    """

    category = "reconstruction"
    mode = "2: singular vectors, scaling"
    formula = "m"
    paper = "arXiv:2205.05638"
    places = "key_value_ff"
    learning_rate = 1e-2

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"delta": zeros(m)}

    def phi(self, W: Expr, p: Params) -> Expr:
        return W @ Diag(1 + p.delta)

    def phi_t(self, W: Expr, p: Params, t: float) -> Expr:
        """W D^t; for entries d <= 0 of D, 1 + t (d - 1)."""
        return self.phi(W, _powered(p, t))

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        return {"delta": row_scales(W.dense().T, W_star.dense().T) - 1}


@register("ia3_output")
@dataclass(frozen=True)
class IA3Output(IA3):
    """phi([W; b^T]) = [W; b^T] D, D = diag(1 + delta).

    The bias is scaled along with W: keys and values themselves, as the authors wrote it for a model without biases.
    Source: arXiv:2205.05638, section 3.3.
    """

    def bias(self, b: Any, p: Params) -> Any:
        return None if b is None else (1 + p.delta) * b

    def phi_t(self, W: Expr, p: Params, t: float) -> Expr:
        """[W; b^T] D^t; for entries d <= 0 of D, 1 + t (d - 1)."""
        return super().phi_t(W, p, t)

    def bias_t(self, b: Any, p: Params, t: float) -> Any:
        return self.bias(b, _powered(p, t))

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        return {"delta": row_scales(_columns(W), _columns(W_star)) - 1}


def _powered(p: Params, t: float) -> Params:
    return p.replace(delta=Live.of(scale_power, p.delta, t))


def _columns(W: Weight) -> Tensor:
    """[W; b^T] transposed, (m, n + 1)."""
    b = W.own_bias
    return W.dense().T if b is None else torch.cat([W.dense().T, b.unsqueeze(1)], 1)
