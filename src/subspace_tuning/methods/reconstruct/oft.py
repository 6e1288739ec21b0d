"""OFT: rotate the neurons of a weight."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from subspace_tuning.algebra import BlockDiag, Expr, Live
from subspace_tuning.algebra.precision import plainly, without_autocast
from subspace_tuning.linalg.powers import rotation_power
from subspace_tuning.method import Method, Params, Start, zeros
from subspace_tuning.method.registry import register


@register("oft")
@dataclass(frozen=True)
class OFT(Method):
    """phi(W) = R W, R = diag(R_1, ..., R_N) orthogonal, R_i = (I + Q_i)(I - Q_i)^{-1}.

    The Cayley form of rotations; each Q_i in R^{b x b} is skew-symmetric, held as the b (b - 1) / 2 numbers under its
    diagonal (q, row by row, block after block) and starts at zero. b is the block size; N = n // b, and where b does
    not divide n a last block takes the c = n mod b features left over. With ``terms`` (OFTv2's Cayley-Neumann form, 5
    of them) the inverse is a sum, R_i = (I + Q_i)(I + Q_i + ... + Q_i^{terms - 2}), nearly a rotation for small Q_i.
    PEFT parametrises the inverse rotation where it is exact.
    Source: arXiv:2306.07280; arXiv:2506.19847 (the sum).
    """

    b: int = 32
    terms: int = 0

    category = "reconstruction"
    mode = "2: singular vectors, nonlinear"
    formula = "N b (b - 1) / 2 + c (c - 1) / 2"
    paper = "arXiv:2306.07280"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.b, bool) or not isinstance(self.b, int) or self.b < 2:
            raise ValueError(f"{self.name}: the block size b is a whole number above 1, got b={self.b!r}")
        if isinstance(self.terms, bool) or not isinstance(self.terms, int) or not (self.terms == 0 or self.terms > 2):
            raise ValueError(f"{self.name}: terms is 0 (the inverse itself) or 3 and more, got terms={self.terms!r}")

    def sizes(self, n: int, m: int) -> dict[str, int]:
        return {"N": n // self.b, "c": n % self.b}

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        N, c = self.sizes(n, m).values()
        return {"q": zeros(N * below(self.b) + below(c))}

    def phi(self, W: Expr, p: Params) -> Expr:
        return self._turned(W, Live.of(turns, p.q, *self._blocks(W), self.terms))

    def phi_t(self, W: Expr, p: Params, t: float) -> Expr:
        """R^t W, every rotation by t times its angles; where R is a sum, that of t Q."""
        if self.terms:
            return self.phi(W, p.replace(q=t * p.q))
        return self._turned(W, Live.of(turns_t, p.q, *self._blocks(W), t))

    def _turned(self, W: Expr, turns: Live) -> Expr:
        return BlockDiag(turns, W.shape[0]) @ W

    def _blocks(self, W: Expr) -> tuple[int, int]:
        """Their size and number."""
        return self.b, -(-W.shape[0] // self.b)


def below(b: int) -> int:
    return b * (b - 1) // 2


def turns(q: Tensor, b: int, count: int, terms: int = 0) -> Tensor:
    """R_i - I (count, b, b) of each rotation."""
    if terms:
        return _neumann(_skew(q, b, count), terms)
    return (_cayley if plainly() else _Cayley.apply)(q, b, count)


def _cayley(q: Tensor, b: int, count: int) -> Tensor:
    Q = _skew(q, b, count)
    return torch.linalg.solve(_eye(Q) - Q, 2 * Q)  # (I + Q) (I - Q)^{-1} - I


def _neumann(Q: Tensor, terms: int) -> Tensor:
    """2 Q + ... + 2 Q^{terms - 2} + Q^{terms - 1}."""
    power, total = Q, 2 * Q
    with without_autocast(Q):
        for k in range(2, terms):
            power = power @ Q
            total = total + (2 if k < terms - 1 else 1) * power
    return total


class _Cayley(torch.autograd.Function):
    """dR = (I + R) dQ (I + R) / 2, since (I - Q)^{-1} = (I + R) / 2: backward keeps what the rows keep anyway."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, b: int, count: int) -> Tensor:
        turns = _cayley(q, b, count)
        ctx.save_for_backward(turns)
        ctx.many = len(q)
        return turns

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (turns,), b = ctx.saved_tensors, grads[0].shape[-1]
        S = (turns + 2 * _eye(turns)).mT
        dQ = S @ grads[0] @ S / 2
        rows, cols = torch.tril_indices(b, b, -1, device=dQ.device)
        return (dQ - dQ.mT)[:, rows, cols].flatten()[: ctx.many], None, None


def _eye(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)


def turns_t(q: Tensor, b: int, count: int, t: float) -> Tensor:
    """R_i^t - I (count, b, b) of each rotation."""
    return rotation_power(_skew(q, b, count), t)


def _skew(q: Tensor, b: int, count: int) -> Tensor:
    """Q_i (count, b, b); what q lacks of the last one stays at rest."""
    rows, cols = torch.tril_indices(b, b, -1, device=q.device)
    Q = q.new_zeros(count, b, b)
    Q = Q.index_put((torch.arange(count, device=q.device)[:, None], rows, cols), _whole(q, b, count))
    return Q - Q.mT


def _whole(q: Tensor, b: int, count: int) -> Tensor:
    return pad(q, (0, count * below(b) - q.shape[0])).view(count, -1)
