"""What methods share that start from the singular value decomposition of W."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from subspace_tuning.algebra import Expr, Weight
from subspace_tuning.linalg.store import top_svd, whole_svd
from subspace_tuning.method import Method, Params


@dataclass(frozen=True)
class OnSpectrum(Method):
    """phi(W) = U C V^T with the singular vectors U (n, k), V (m, k) of W, k = min(n, m); C is diag(S) at first."""

    def constants(self, W: Weight) -> dict[str, Tensor]:
        dense = W.dense()
        return whole_svd(dense).to(dense.dtype)._asdict()

    def between(self, W: Expr, p: Params, C: Expr, change: Expr) -> Expr:
        """U C V^T; after another method, what that one made of W stays: W + U change V^T, change = C - diag(S)."""
        return p.U @ C @ p.Vt if isinstance(W, Weight) else W + p.U @ change @ p.Vt


@dataclass(frozen=True)
class OnTop(Method):
    """phi(W) = W + ..., made of the r largest terms of W = U diag(S) V^T: U (n, r), S (r,), Vt (r, m)."""

    r: int = 8

    least_r: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.r < self.least_r:
            raise ValueError(f"{self.name}: a rotation needs a rank r of {self.least_r} or more, got r={self.r}")

    def constants(self, W: Weight) -> dict[str, Tensor]:
        dense = W.dense()
        return top_svd(dense, self.r).to(dense.dtype)._asdict()


def along(terms: Mapping[str, Tensor], M: Tensor) -> Tensor:
    """u_i^T M v_i for M (n, m) and the singular vectors U (n, k), Vt (k, m): (k,)."""
    return torch.linalg.vecdot(terms["U"].T @ M, terms["Vt"])
