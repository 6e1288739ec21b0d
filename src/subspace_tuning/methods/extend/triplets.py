"""What AdaLoRA and FlexLoRA share: triplets that come and go in a middle phase of training."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from subspace_tuning.linalg.svd import truncated_svd
from subspace_tuning.method import Params, Start, normal, steps_of, zeros
from subspace_tuning.methods.extend.lora import LowRank

STD = 0.02  # of the numbers in A and B before they are trained


@dataclass(frozen=True)
class Triplets(LowRank):
    """phi(W) = W + s A diag(d) B: triplets of a column of A, a number d_i and a row of B.

    A and B start normal, d at zero. Which triplets there are is settled anew every ``delta_t`` steps, from step
    ``tinit`` on until ``tfinal`` steps are left: numbers of steps, or below 1 shares of all steps. ``orthogonality``
    weighs the mean of ||A^T A - I||_F and ||B B^T - I||_F over all matrices, taken over the triplets in use, as a
    penalty; 0 leaves it out.
    """

    tinit: float = 0.1
    tfinal: float = 0.3
    delta_t: int = 10
    orthogonality: float = 0.1

    category = "extension"
    wide = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.delta_t < 1 or self.tinit < 0 or self.tfinal < 0 or self.orthogonality < 0:
            raise ValueError(f"{self.describe()}: delta_t >= 1, tinit >= 0, tfinal >= 0, orthogonality >= 0 expected")

    @abstractmethod
    def room(self, n: int, m: int) -> int:
        """How many triplets the parameters of a weight in R^{n x m} have room for."""

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        c = self.room(n, m)
        return {"A": normal(n, c, std=STD), "d": zeros(c), "B": normal(c, m, std=STD)}

    def terms(self, D: Tensor, r: int) -> dict[str, Tensor]:
        """The r triplets with s A diag(d) B nearest to D (n, m)."""
        A, d, B = truncated_svd(D / self.s, r)
        spare = r - len(d)  # that D has no directions for
        return {"A": pad(A, (0, spare)), "d": pad(d, (0, spare)), "B": pad(B, (0, 0, 0, spare))}

    @property
    def needs_total(self) -> bool:
        return True

    @property
    def penalises(self) -> bool:
        return self.orthogonality > 0

    def penalty(self, p: Params, among: int = 1) -> Tensor | None:
        if not self.orthogonality:
            return None
        A, B = p.A.dense(), p.B.dense()
        a = p.a.now().to(A) if "a" in p else A.new_ones(A.shape[1])
        away = [a.unsqueeze(1) * gram * a - torch.diag(a) for gram in (A.T @ A, B @ B.T)]
        return self.orthogonality / (2 * among) * sum(x.norm() for x in away)

    def phases(self, total: int) -> tuple[int, int]:
        """The last step of the warmup, and the step with the last allocation."""
        first, last = steps_of(self.tinit, total), total - steps_of(self.tfinal, total)
        if first >= last:
            raise ValueError(
                f"{self.describe()}: {total} steps of training leave none for the allocation between tinit and tfinal"
            )
        return first, last

    def progress(self, step: int, total: int) -> float:
        """From 0 at the end of the warmup to 1 at the last allocation."""
        first, last = self.phases(total)
        return min(1.0, max(0.0, (step - first) / (last - first)))
