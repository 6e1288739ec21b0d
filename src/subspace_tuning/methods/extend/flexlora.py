"""FlexLoRA: a low-rank product whose directions move from matrices that use few of theirs to matrices that use all."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor
from torch.nn.functional import pad

from subspace_tuning.algebra import Diag, Expr, Weight
from subspace_tuning.method import Constants, Params, Seat, Start
from subspace_tuning.method.registry import register
from subspace_tuning.methods.extend.triplets import STD, Triplets

SCHEDULES: dict[str, Callable[[float], float]] = {"constant": lambda u: 1.0, "cubic": lambda u: 1.0 - u**3}


@register("flexlora")
@dataclass(frozen=True)
class FlexLoRA(Triplets):
    """phi(W) = W + s A diag(a o d) B, a in {0, 1}^c the directions in use, s = alpha / r.

    A in R^{n x c} and B in R^{c x m} start normal, d in R^c at zero; there is room for c = ``max_r`` directions (2 r
    unless told, at most min(n, m)), of which r are in use at first. Every ``delta_t`` steps of the middle phase, the
    ``b`` matrices with the lowest entropy H = -sum_i p_i log p_i / log r', p_i = d_i^2 / ||d||^2 over the r' directions
    in use, each give up the one with the least energy d_i^2, and the ``b`` with the highest each take up one, random in
    A and B and zero in d, which leaves phi(W) as it is. The number of directions in all stays. H is 0 for one direction
    and for d = 0. Nobody gives up the last direction or takes up more than c; the lowest gives to the highest, the next
    lowest to the next highest, while its H is the lower one. With ``schedule`` "cubic", b falls to zero,
    b (1 - u^3) at the part u of the phase. ``tinit``, ``tfinal`` and ``orthogonality`` (over the directions in use) are
    AdaLoRA's.
    The authors' code gives up the least d_i with its sign, which is the least energy only among positive ones; draws
    new directions with deviation 1 where these have that of the start, 0.02, from a seed of their layer and step; lets
    a matrix give and take at once; and finds no H for one direction.
    Source: arXiv:2601.22905.
    """

    max_r: int | None = None
    b: int = 4
    schedule: str = "constant"

    formula = "c (n + m + 1)"
    paper = "arXiv:2601.22905"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_r is not None and self.max_r < self.r:
            raise ValueError(f"{self.name}: max_r is at least r, got max_r={self.max_r} and r={self.r}")
        if self.b < 1:
            raise ValueError(f"{self.name}: b matrices give and b take, a whole number above 0, got b={self.b!r}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"{self.name}: schedule is one of {', '.join(SCHEDULES)}, got {self.schedule!r}")

    def room(self, n: int, m: int) -> int:
        return min(self.max_r or 2 * self.r, n, m)

    def sizes(self, n: int, m: int) -> dict[str, int]:
        return {"c": self.room(n, m)}

    def stored(self, n: int, m: int) -> dict[str, Start]:
        return {"a": Start((self.room(n, m),), self._first, torch.bool)}

    def _first(self, a: Tensor, _: Constants) -> Tensor:
        return torch.lt(torch.arange(len(a), device=a.device), self.r, out=a)

    def phi(self, W: Expr, p: Params) -> Expr:
        return W + self.s * (self.dropped(p.A, p) @ Diag(p.a * p.d) @ p.B)

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        found = self.terms(W_star.dense() - W.dense(), self.r)
        rest = self.room(*W.shape) - self.r
        a = torch.ones_like(found["d"], dtype=torch.bool)
        A, d, B = pad(found["A"], (0, rest)), pad(found["d"], (0, rest)), pad(found["B"], (0, 0, 0, rest))
        return {"A": A, "d": d, "B": B, "a": pad(a, (0, rest))}

    def after_step(self, seats: Sequence[Seat], step: int, total: int) -> None:
        first, last = self.phases(total)
        if not first < step < last or (step - first) % self.delta_t:
            return
        d, a = ([seat.values[name] for seat in seats] for name in "da")
        H = [entropy(di[ai]) for di, ai in zip(d, a, strict=True)]
        order = sorted(range(len(seats)), key=H.__getitem__)
        giving = (i for i in order if a[i].sum() > 1)
        taking = (i for i in reversed(order) if not a[i].all())
        moves = round(self.b * SCHEDULES[self.schedule](self.progress(step, total)))
        for _, i, j in zip(range(moves), giving, taking, strict=False):
            if H[i] < H[j]:
                give_up(seats[i])
                take_up(seats[j], step)


def entropy(d: Tensor) -> float:
    """H = -sum_i p_i log p_i / log r, p_i = d_i^2 / ||d||^2, for d (r,): from 0, all in one, to 1, all alike."""
    energy = d.double().square()
    if len(d) < 2 or not energy.any():
        return 0.0
    return torch.special.entr(energy / energy.sum()).sum().item() / math.log(len(d))


def give_up(seat: Seat) -> None:
    """Of the directions in use, the one with the least energy."""
    d, a = seat.values["d"], seat.values["a"]
    i = d.abs().masked_fill(~a, torch.inf).argmin()
    d[i], a[i] = 0, False


def take_up(seat: Seat, step: int) -> None:
    """One that is not in use yet, from zero; the same one wherever the layer is trained side by side."""
    A, d, B, a = (seat.values[name] for name in ("A", "d", "B", "a"))
    i = int(a.long().argmin())
    draw = torch.Generator().manual_seed(crc32(f"{seat.name} {step}".encode()))
    A[:, i].copy_(STD * torch.randn(len(A), generator=draw))
    B[i].copy_(STD * torch.randn(B.shape[1], generator=draw))
    d[i], a[i] = 0, True
