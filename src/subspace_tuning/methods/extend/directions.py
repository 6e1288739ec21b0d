"""What low-rank extensions share that also scale singular directions of W."""

from dataclasses import dataclass

from subspace_tuning.method import Method
from subspace_tuning.methods.extend.lora import LowRank


@dataclass(frozen=True)
class WithDirections(LowRank):
    """phi(W) = W + s A B + U_k diag(...) V_k^T, k = ``directions`` singular vectors U_k (n, k), V_k^T (k, m) of W."""

    directions: int = 8

    wide = False

    def check(self, n: int, m: int) -> None:
        super().check(n, m)
        if not 1 <= self.directions <= min(n, m):
            raise ValueError(f"{self.describe()}: a weight of {n} x {m} has 1 to {min(n, m)} directions")

    def fitted(self, n: int, m: int) -> Method:
        return super().fitted(n, m).with_fields(directions=min(self.directions, n, m))
