"""What adapters make of one layer: W + dW and b + db, in double precision, whatever precision the layer runs in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import takewhile

import torch
from torch import Tensor

from subspace_tuning.algebra import Diag, Expr, NotALinearMap, Product, Weight
from subspace_tuning.linalg.svd import SVD, svd
from subspace_tuning.method import Params
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.weights import Part

Factors = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Change:
    """dW (n, m) and db (m,) of a layer.

    dW is held as L (n, k) and R (k, m) with dW = L R where the method has this form exactly, else as its numbers; it is
    None on a layer without a matrix. db is None where the bias stays as it is. grain: how much rounding W to single
    precision comes to, below which nothing is missed.
    """

    dW: Tensor | Factors | None
    db: Tensor | None = None
    grain: float = 0.0

    @property
    def has_factors(self) -> bool:
        return isinstance(self.dW, tuple)

    def dense(self) -> Tensor:
        """dW (n, m)."""
        if self.dW is None:
            raise ValueError("the layer holds no matrix")
        return self.dW if isinstance(self.dW, Tensor) else self.dW[0] @ self.dW[1]

    @property
    def moves_weight(self) -> bool:
        """Whether dW is more than zeros."""
        parts = () if self.dW is None else (self.dW,) if isinstance(self.dW, Tensor) else self.dW
        return bool(parts) and all(bool(part.any()) for part in parts)

    @property
    def shape(self) -> tuple[int, int]:
        if self.dW is None:
            return (0, 0)
        return tuple(self.dW.shape) if isinstance(self.dW, Tensor) else (len(self.dW[0]), self.dW[1].shape[1])  # type: ignore[return-value]

    @cached_property
    def svd(self) -> SVD:
        """The terms of dW whose singular values are not zero in double precision; from thin factors where there are."""
        terms = svd(self.dW) if isinstance(self.dW, Tensor) else _svd_of_product(*self._factors())
        noise = max(*self.shape, 1) * torch.finfo(torch.float64).eps
        return terms.top(int((terms.S[:1] * noise < terms.S).sum()))

    def _factors(self) -> Factors:
        if not isinstance(self.dW, tuple):
            raise ValueError("the change of this layer has no exact factors")
        return self.dW

    def size(self) -> float:
        """||[dW; db]||_F: the bias is the last row of the augmented weight."""
        dW = 0.0 if self.dW is None else self.svd.S.square().sum().item()
        return (dW + self._bias_square()) ** 0.5

    def largest(self) -> float:
        """At least the largest number of dW and db in size; NaN where one of them is."""
        parts = [] if self.dW is None else [self.dW] if isinstance(self.dW, Tensor) else [_bound(*self.dW)]
        parts += [] if self.db is None else [self.db]
        return torch.stack([part.abs().max() for part in parts if part.numel()] or [torch.zeros(())]).max().item()

    def missed_by(self, A: Tensor, B: Tensor) -> float:
        """||[dW - A B; db]||_F for A (n, r), B (r, m): what a product of two factors leaves out."""
        A, B = A.to(torch.float64), B.to(torch.float64)
        if isinstance(self.dW, Tensor):
            rest = (self.dW - A @ B).square().sum().item()
        else:
            L, R = self._factors()
            rest = _svd_of_product(torch.cat([L, A], 1), torch.cat([R, -B])).S.square().sum().item()
        return (rest + self._bias_square()) ** 0.5

    @property
    def lost_bias(self) -> bool:
        """Whether there is a change of the bias, which no product of factors can carry."""
        return self.db is not None and bool(self.db.any())

    def _bias_square(self) -> float:
        return 0.0 if self.db is None else self.db.square().sum().item()

    def __rmul__(self, weight: float) -> Change:
        dW = self.dW
        if dW is not None:
            dW = weight * dW if isinstance(dW, Tensor) else (weight * dW[0], dW[1])
        return Change(dW, None if self.db is None else weight * self.db, self.grain)

    def __add__(self, other: Change) -> Change:
        db = self.db if other.db is None else other.db if self.db is None else self.db + other.db
        grain = max(self.grain, other.grain)
        if self.dW is None or other.dW is None:
            return Change(self.dW if other.dW is None else other.dW, db, grain)
        if isinstance(self.dW, tuple) and isinstance(other.dW, tuple):
            (L1, R1), (L2, R2) = self.dW, other.dW
            return Change((torch.cat([L1, L2], 1), torch.cat([R1, R2])), db, grain)
        return Change(self.dense() + other.dense(), db, grain)


def change(layer: SubspaceLayer, adapters: Sequence[str], part: Part | None = None) -> Change:
    """What these adapters, one applied after the other and each at its strength, make of a layer, or one of its parts.

    Raises NotALinearMap where it is no matrix.
    """
    W, E, db = _phi(layer, adapters, part or layer.parts[0])
    return Change(None, db) if E is None else _from(W, E, db)


def behind_scales(layer: SubspaceLayer, adapters: Sequence[str]) -> tuple[Tensor, Change] | None:
    """d (n,) and what is left to change in W, where phi(W) = diag(d) R: scales of the inputs come first. Else None."""
    W, E, db = _phi(layer, adapters, layer.parts[0])
    if not isinstance(E, Product):
        return None
    scales = [f.d for f in takewhile(lambda f: isinstance(f, Diag), E.chain) if isinstance(f, Diag)]
    rest = E.chain[len(scales) :]
    return (reduce(torch.mul, scales), _from(W, Product(rest, E.scale), db)) if scales and rest else None


def _phi(layer: SubspaceLayer, adapters: Sequence[str], part: Part) -> tuple[Weight, Expr | None, Tensor | None]:
    """W and phi(W) in double precision, None on a layer without a matrix, and the change of the bias."""
    if layer.merged:
        raise ValueError("the layer's weight is merged already; call unmerge_adapter() first")
    frozen = part.W
    W: Weight = Weight(exact(frozen.dense())) if frozen.holds_matrix else frozen
    E: Expr = W
    b = before = None if frozen.own_bias is None else exact(frozen.own_bias)
    for adapter in adapters:
        method = layer.at_work(adapter)
        if not method.mergeable:
            raise NotALinearMap(f"{method.describe()} is not a map of the weight alone; it stays an adapter")
        p = Params({k: exact(part.of(value)) for k, value in layer.values(adapter).items()})
        E, b = method.phi(E, p), method.bias(b, p)
    db = None if b is before or b is None or before is None else b - before
    return W, E if frozen.holds_matrix else None, db


def _from(W: Weight, E: Expr, db: Tensor | None) -> Change:
    grain = torch.finfo(torch.float32).eps * W.dense().norm().item()
    return Change(_narrow(E.delta_factors()) or E.dense() - W.dense(), db, grain)


def exact(t: Tensor) -> Tensor:
    """A tensor's numbers in double precision; whole numbers stay as they are."""
    held = t.detach()
    held = held.cpu() if held.device.type == "mps" else held  # which has no double precision
    return held.to(torch.float64) if held.is_floating_point() else held


def _bound(L: Tensor, R: Tensor) -> Tensor:
    """No entry of L R is larger (Cauchy-Schwarz)."""
    return L.norm(dim=1).amax() * R.norm(dim=0).amax() if L.numel() else L.new_zeros(1)


def _narrow(factors: Factors | None) -> Factors | None:
    """The factors, unless they are as wide as what they stand for."""
    return factors if factors is not None and factors[0].shape[1] < min(len(factors[0]), factors[1].shape[1]) else None


def _svd_of_product(L: Tensor, R: Tensor) -> SVD:
    """The SVD of L R for L (n, k), R (k, m), without forming the product."""
    if L.shape[1] == 0:
        return SVD(L, L.new_zeros(0), R)
    Q1, R1 = torch.linalg.qr(L)
    Q2, R2 = torch.linalg.qr(R.T)
    U, S, Vt = svd(R1 @ R2.T)
    return SVD(Q1 @ U, S, Vt @ Q2.T)
