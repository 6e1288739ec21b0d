"""LoRA-Dash: LoRA that finds the directions of the task, then trains them too."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Diag, Expr, Weight
from subspace_tuning.linalg.svd import svd
from subspace_tuning.method import Constants, Params, Seat, Start, kaiming, steps_of, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.extend.directions import WithDirections


@register("lora_dash")
@dataclass(frozen=True)
class LoRADash(WithDirections):
    """phi(W) = W + s A B + U_k diag(d) V_k^T, s = alpha / r.

    A in R^{n x r}, B in R^{r x m}; B starts at zero. U_k (n, k) and V_k^T (k, m) are the singular vectors of W along
    which the first ``launch`` steps changed W most, by the rate |u_i^T (s A B) v_i| / sigma_i, k = ``directions``.
    From then on d in R^k is trained along with A and B, from zero. ``launch`` is a number of steps, or below 1 a share
    of all steps; in training of no more steps this is LoRA. U_k and V_k are stored with the trained numbers.
    Source: arXiv:2409.01035, section 5.
    """

    launch: float = 100

    category = "extension"
    formula = "r (n + m) + directions"
    paper = "arXiv:2409.01035"

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"A": kaiming(n, self.r), "B": zeros(self.r, m), "d": zeros(self.directions)}

    def stored(self, n: int, m: int) -> dict[str, Start]:
        k = self.directions  # any directions at first, where d stays zero
        return {"U": Start((n, k), _unit), "Vt": Start((k, m), _unit)}

    def phi(self, W: Expr, p: Params) -> Expr:
        return W + self.s * (self.dropped(p.A, p) @ p.B) + p.U @ Diag(p.d) @ p.Vt

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        """LoRA's: which directions training would choose is not known."""
        return self.nearest(W_star.dense() - W.dense())

    @property
    def needs_total(self) -> bool:
        return self.launch < 1

    def before_step(self, seats: Sequence[Seat], step: int, total: int) -> None:
        if step == 1 and steps_of(self.launch, total) >= total:
            warnings.warn(
                f"{self.name}: launch = {self.launch:g} leaves none of {total} steps to train d in, so that this is "
                f"LoRA; give a share of all steps, such as 0.3",
                stacklevel=2,
            )
        if step <= steps_of(self.launch, total):
            for seat in seats:
                seat.values["d"].grad = None

    def after_step(self, seats: Sequence[Seat], step: int, total: int) -> None:
        if step == steps_of(self.launch, total):
            for seat in seats:
                self._choose(seat)

    def _choose(self, seat: Seat) -> None:
        A, B = (seat.values[name].float() for name in ("A", "B"))
        U, S, Vt = svd(seat.W.dense())
        change = ((U.T.to(A) @ A) * (Vt.to(B) @ B.T)).sum(1)  # u_i^T A B v_i
        top = (change.abs() / S.to(A)).topk(self.directions).indices
        seat.values["U"].copy_(U[:, top])
        seat.values["Vt"].copy_(Vt[top])


def _unit(t: Tensor, _: Constants) -> None:
    torch.nn.init.eye_(t)
