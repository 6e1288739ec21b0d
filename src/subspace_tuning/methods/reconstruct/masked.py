"""What FishMask, PaFi, SHiRA and Super-Tuning share: a few entries of W are trained, the others stay."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Expr, Sparse, Weight
from subspace_tuning.method import Constants, Method, Params, Start, constant, zeros


@dataclass(frozen=True)
class Masked(Method):
    """phi(W) = W + M o V, M a fixed mask of the weight's shape.

    Held and stored are the places of the mask, place i m + j for row i and column j, and the numbers v at these places,
    which start at zero.
    """

    @abstractmethod
    def kept(self, n: int, m: int) -> int:
        """How many entries are trained."""

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"v": zeros(self.kept(n, m))}

    def stored(self, n: int, m: int) -> dict[str, Start]:
        return {"places": Start((self.kept(n, m),), _in_order, torch.int64)}

    def phi(self, W: Expr, p: Params) -> Expr:
        return W + Sparse(p.places, p.v, W.shape)

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        """Where the mask does not follow from W, the best of all masks."""
        D = W_star.dense() - W.dense()
        places = self.constants(W).get("places")
        places = largest(D.abs(), self.kept(*W.shape)) if places is None else places
        found = {"places": places, "v": D.flatten()[places]}
        return {name: found[name] for name in ("v", *self.stored(*W.shape))}


@dataclass(frozen=True)
class MaskedShare(Masked):
    """phi(W) = W + M o V, the mask M keeping a ``share`` of the n m entries: one in 200 unless told."""

    share: float = 0.005

    formula = "max(1, round(share n m))"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.share <= 1.0:
            raise ValueError(
                f"{self.name}: share is the part of the entries that is trained, in (0, 1], got {self.share}"
            )

    def kept(self, n: int, m: int) -> int:
        return max(1, round(self.share * n * m))


@dataclass(frozen=True)
class MaskedBySize(MaskedShare):
    """phi(W) = W + M o V, the mask M following from the sizes of W's entries.

    The places are stored with the numbers all the same, because W in a lower precision has other ties.
    """

    category = "reconstruction"
    mode = "2: singular vectors, element-wise"

    @abstractmethod
    def scores(self, W: Tensor) -> Tensor:
        """The entries (n, m) of which the largest are kept."""

    def stored(self, n: int, m: int) -> dict[str, Start]:
        return {"places": constant("places", self.kept(n, m))._replace(dtype=torch.int64)}

    def constants(self, W: Weight) -> dict[str, Tensor]:
        return {"places": largest(self.scores(W.dense()), self.kept(*W.shape))}


def _in_order(places: Tensor, _: Constants) -> None:
    torch.arange(len(places), out=places)


def largest(scores: Tensor, k: int) -> Tensor:
    """The places of the k largest scores (n, m), ascending; of equal ones the first. Returns (k,)."""
    return scores.flatten().argsort(descending=True, stable=True)[:k].sort().values
