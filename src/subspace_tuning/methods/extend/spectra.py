"""What FourierFT and WaveFT share: few coefficients of dW in another basis."""

from dataclasses import dataclass

from torch import Tensor

from subspace_tuning.algebra import Weight
from subspace_tuning.method import Method, Start, zeros
from subspace_tuning.methods.projections import drawn_places


@dataclass(frozen=True)
class FewCoefficients(Method):
    """phi(W) = W + T_n^{-1} F T_m^{-1}, F in R^{n x m} with ``frequencies`` entries that are not zero.

    Their places follow from the seed, as PEFT draws them; the numbers c there start at zero.
    """

    frequencies: int = 1000
    alpha: float = 1.0
    seed: int = 0

    category = "extension"
    formula = "frequencies"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.frequencies, bool) or not isinstance(self.frequencies, int) or self.frequencies < 1:
            raise ValueError(f"{self.name}: frequencies is a whole number above 0, got {self.frequencies!r}")

    def check(self, n: int, m: int) -> None:
        if self.frequencies > n * m:
            raise ValueError(f"{self.describe()}: a weight of {n} x {m} has no more frequencies than {n * m}")

    def fitted(self, n: int, m: int) -> Method:
        return self.with_fields(frequencies=min(self.frequencies, n * m))

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"c": zeros(self.frequencies)}

    def constants(self, W: Weight) -> dict[str, Tensor]:
        return {"places": drawn_places(self.seed, *W.shape, self.frequencies, W.dense())}
