"""VB-LoRA: factors put together of pieces, each a mixture of a few vectors from one bank."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from subspace_tuning.algebra import Expr, Live, Weight, matrix
from subspace_tuning.algebra.precision import wide
from subspace_tuning.method import Method, Params, Start, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.projections import own_seed, projection, unit_normal, unit_uniform


@register("vblora")
@dataclass(frozen=True)
class VBLoRA(Method):
    """phi(W) = W + A B - A_0 B_0, each piece of A and B a mixture of a few vectors of a bank that all layers share.

    A column of A (n, r) and a row of B (r, m) is laid out in N or M pieces of b numbers, the last cut short. Each
    piece has h logits and is sum_i softmax(largest logits)_i bank_i over its ``top`` largest, with the bank in R^{h
    x b}. Trained, from zero, is what is added to logits (normal with deviation 0.1, from the seed and the layer's
    name) and to the bank (uniform in +-start), of which A_0 B_0 is made; the paper starts at W + A_0 B_0. Which
    logits are largest may change.
    Source: arXiv:2405.15179, eqs. (2) and (3).
    """

    r: int = 4
    h: int = 256
    b: int = 64
    top: int = 2
    start: float = 0.02
    seed: int = 0

    category = "extension"
    formula = "h b + r h (N + M)"
    paper = "arXiv:2405.15179"
    learning_rate = 1e-2
    wide = True
    shared = {"bank": "model"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (1 <= self.top <= self.h and self.b >= 1 and self.start > 0):
            raise ValueError(f"{self.describe()}: top is from 1 to h, and b and start are above 0")

    def sizes(self, n: int, m: int) -> dict[str, int]:
        return {"N": -(-n // self.b), "M": -(-m // self.b)}

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        N, M = self.sizes(n, m).values()
        return {
            "bank": zeros(self.h, self.b),
            "logits_A": zeros(self.r * N, self.h),
            "logits_B": zeros(self.r * M, self.h),
        }

    def constants(self, W: Weight) -> dict[str, Tensor]:
        (n, m), like, own = W.shape, wide(W.dense()[:0]), own_seed(self.seed, W)
        bank = projection(self.seed, 0, (self.h, self.b), unit_uniform, like) * (self.start / 3**0.5)
        logits = [
            projection(own, key, (self.r * pieces, self.h), unit_normal, like) * 0.1
            for key, pieces in enumerate(self.sizes(n, m).values())
        ]
        A0, B0 = (self._laid(_mixed(own, bank, self.top), size) for own, size in zip(logits, (n, m), strict=True))
        return {"bank0": bank, "logits_A0": logits[0], "logits_B0": logits[1], "A0": A0.T, "B0": B0}

    def phi(self, W: Expr, p: Params) -> Expr:
        bank, *logits = (
            Live.of(_moved, getattr(p, f"{name}0").numbers, getattr(p, name).numbers)
            for name in ("bank", "logits_A", "logits_B")
        )
        made = (Live.of(_mixed, own, bank, self.top) for own in logits)
        At, B = (self._laid(pieces, size) for pieces, size in zip(made, W.shape, strict=True))
        return W + matrix(At.T) @ matrix(B) - p.A0 @ p.B0

    def _laid(self, pieces: Any, size: int) -> Any:
        """Pieces one after the other in r rows: (r, size)."""
        return pieces.reshape(self.r, -1)[:, :size]


def _moved(start: Tensor, change: Tensor) -> Tensor:
    return start + wide(change)


def _mixed(logits: Tensor, bank: Tensor, k: int) -> Tensor:
    """Pieces (s, b): of the bank (h, b), the k vectors with the largest logits (s, h), by their softmax."""
    best, which = logits.topk(k, dim=-1)
    return (best.softmax(-1).unsqueeze(-1) * bank[which]).sum(-2)
