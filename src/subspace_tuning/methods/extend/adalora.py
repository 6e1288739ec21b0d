"""AdaLoRA: a low-rank product whose rank moves to the layers that need it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Diag, Expr, Weight
from subspace_tuning.method import Params, Seat
from subspace_tuning.method.registry import register
from subspace_tuning.methods.extend.triplets import Triplets


@register("adalora")
@dataclass(frozen=True)
class AdaLoRA(Triplets):
    """phi(W) = W + s A diag(d) B, s = alpha / init_r, few d_i left in the end.

    A in R^{n x init_r} and B in R^{init_r x m} start normal, d in R^init_r at zero. All layers together keep
    b(t) = init_r, then b_T + (init_r - r) (1 - (t - tinit) / (T - tinit - tfinal))^3, then r numbers d_i a layer on
    average (eq. 12): those whose triplets (column of A, d_i, row of B) matter most, by the smoothed |w dL/dw| times
    its smoothed uncertainty (eqs. 8-11). Every ``delta_t`` steps the others are set to zero. ``tinit`` and ``tfinal``
    are numbers of steps, or below 1 shares of all steps. ``orthogonality`` weighs a penalty, the mean of
    ||A^T A - I||_F and ||B B^T - I||_F over all matrices, as in the authors' code; the paper (eq. 4) has the sum of
    their squares, which is MPC_o. 0 leaves it out. PEFT ranks by parameters one step ahead.
    Source: arXiv:2303.10512; arXiv:2407.05417, eq. (22).
    """

    init_r: int = 12
    beta1: float = 0.85
    beta2: float = 0.85

    formula = "init_r (n + m + 1)"
    paper = "arXiv:2303.10512"
    wide = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init_r < self.r:
            raise ValueError(f"{self.name}: the rank falls from init_r to r, got init_r={self.init_r} and r={self.r}")
        for name in ("beta1", "beta2"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ValueError(f"{self.name}: {name} is in (0, 1), got {getattr(self, name)!r}")

    @property
    def s(self) -> float:
        return self.alpha / (self.init_r**0.5 if self.rank_stabilized else self.init_r)

    def room(self, n: int, m: int) -> int:
        return self.init_r

    def phi(self, W: Expr, p: Params) -> Expr:
        return W + self.s * (self.dropped(p.A, p) @ Diag(p.d) @ p.B)

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        return self.terms(W_star.dense() - W.dense(), self.init_r)

    def budget(self, step: int, total: int) -> float:
        """How many d_i a layer keeps on average (eq. 12)."""
        return self.r + (self.init_r - self.r) * (1 - self.progress(step, total)) ** 3

    def before_step(self, seats: Sequence[Seat], step: int, total: int) -> None:
        _, last = self.phases(total)
        for seat in seats:
            if step > last:
                seat.memory.setdefault("kept", seat.values["d"] != 0)  # training that went on from a checkpoint
                continue
            for name in ("A", "d", "B"):
                w = seat.values[name]
                self._smooth(seat.memory, name, (w * (0 if w.grad is None else w.grad)).abs().float())

    def _smooth(self, memory: dict[str, Tensor], name: str, now: Tensor) -> None:
        """The sensitivity I (eq. 9) and its uncertainty (eq. 10)."""
        I = memory.setdefault(f"I_{name}", torch.zeros_like(now)).lerp_(now, 1 - self.beta1)  # noqa: E741
        memory.setdefault(f"U_{name}", torch.zeros_like(now)).lerp_((now - I).abs(), 1 - self.beta2)

    def after_step(self, seats: Sequence[Seat], step: int, total: int) -> None:
        first, last = self.phases(total)
        if step == last or (first < step < last and step % self.delta_t == 0):
            scores = torch.cat([self._importance(seat) for seat in seats])
            kept = torch.zeros_like(scores, dtype=torch.bool)
            kept[scores.topk(round(self.budget(step, total) * len(seats))).indices] = True
            for seat, mine in zip(seats, kept.split(self.init_r), strict=True):
                seat.values["d"].mul_(mine.to(seat.values["d"]))
                if step == last:
                    seat.memory["kept"] = mine
        if step > last:
            for seat in seats:
                seat.values["d"].mul_(seat.memory["kept"].to(seat.values["d"]))

    def _importance(self, seat: Seat) -> Tensor:
        """Of each triplet: its own d_i, and the mean over its column of A and its row of B (eq. 7)."""
        A, d, B = (seat.memory[f"I_{name}"] * seat.memory[f"U_{name}"] for name in ("A", "d", "B"))
        return (A.mean(0) + d + B.mean(1)).cpu()
