"""LoRA: add a product of two thin factors."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Expr, Weight
from subspace_tuning.linalg.nearest import low_rank
from subspace_tuning.method import Constants, Method, Params, Start, kaiming, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.extend.data_starts import DATA_STARTS
from subspace_tuning.methods.extend.dropout import check_probability, dropped
from subspace_tuning.methods.extend.starts import STARTS, behind_start


@dataclass(frozen=True)
class LowRank(Method):
    """phi(W) = W + s A (...) B with A (n, r), B (r, m): the part that low-rank extensions share.

    Fields: rank r, scale alpha (s = alpha / r, or alpha / sqrt(r) when rank-stabilised, arXiv:2312.03732), and the
    probability with which entries of x are dropped on their way to A.
    """

    r: int = 8
    alpha: float = 16.0
    rank_stabilized: bool = False
    dropout: float = 0.0

    wide = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_probability(self.name, self.dropout)

    @property
    def s(self) -> float:
        return self.alpha / (self.r**0.5 if self.rank_stabilized else self.r)

    def dropped(self, A: Expr, p: Params) -> Expr:
        """A with dropout on the rows that enter it."""
        return dropped(A, self.dropout, p)

    def nearest(self, D: Tensor) -> dict[str, Tensor]:
        """A and B with s A B nearest to D (n, m), what is between them at rest."""
        A, B = low_rank(D / self.s, self.r)
        return {"A": A, "B": B}


@dataclass(frozen=True)
class Factored(LowRank):
    """phi(W) = W + s ((A0 + A) ... (B0 + B) - A0 B0), for methods that train A and B from a start of one's choice.

    ``init`` is "kaiming" (A uniform, B = 0, and no A0 B0) or a name in ``starts.py``, or one in ``data_starts.py``,
    which wants a calibration pass; with A0 and B0, A and B are what is added to them and start at zero. Whole factors
    (those of a checkpoint of PEFT's) go by the names ``whole_A`` and ``whole_B``.
    """

    init: str = "kaiming"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init not in ("kaiming", *STARTS, *DATA_STARTS):
            known = ", ".join(("kaiming", *STARTS, *DATA_STARTS))
            raise ValueError(f"{self.name}: init is one of {known}, got {self.init!r}")
        if self.init != "kaiming" and not self.alpha > 0:
            raise ValueError(f"{self.name}: init={self.init!r} needs alpha > 0, got {self.alpha!r}")

    def constants(self, W: Weight) -> dict[str, Tensor]:
        return STARTS[self.init](W.dense(), self.r, self.s)._asdict() if self.init in STARTS else {}

    @property
    def wide(self) -> bool:  # type: ignore[override]
        """A start that follows from W or from the data has no more directions than W."""
        return self.init == "kaiming"

    @property
    def calibration(self) -> tuple[str, ...]:  # type: ignore[override]
        return (DATA_STARTS[self.init].asks,) if self.init in DATA_STARTS else ()

    @property
    def starts_at(self) -> str:  # type: ignore[override]
        return "W, a step down the gradient" if self.init == "lora_one" else "W"

    def calibrated(self, W: Weight, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.init not in DATA_STARTS:
            return {}
        start = DATA_STARTS[self.init]
        A0, B0 = start.factors(W.dense(), found[start.asks], self.r, self.s)
        if start.plain:
            return {"A": A0, "B": B0}
        return {"A": torch.zeros_like(A0), "B": torch.zeros_like(B0), "A0": A0, "B0": B0}

    def stored(self, n: int, m: int) -> dict[str, Start]:
        if self.init not in DATA_STARTS or DATA_STARTS[self.init].plain:
            return {}
        return {"A0": zeros(n, self.r), "B0": zeros(self.r, m)}

    def check(self, n: int, m: int) -> None:
        super().check(n, m)
        if self.init == "lora_ga" and 2 * self.r > min(n, m):
            raise ValueError(f"{self.describe()}: lora_ga takes 2 r directions, more than a weight of {n} x {m} has")

    def factors(self, n: int, m: int) -> dict[str, Start]:
        """A and B where they start."""
        A = zeros(n, self.r) if self.init in STARTS else kaiming(n, self.r)
        return {"A": A, "B": zeros(self.r, m)}

    def whole(self, p: Params) -> Params:
        return behind_start(p) if "A0" in p else p

    def extended(self, W: Expr, chain: Expr, p: Params) -> Expr:
        """W + s (chain - A0 B0)."""
        E = W + self.s * chain
        return E - self.s * (p.A0 @ p.B0) if "A0" in p else E

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        D, start = W_star.dense() - W.dense(), self.constants(W)
        if "A0" not in start:
            return self.nearest(D)
        best = self.nearest(D + self.s * (start["A0"] @ start["B0"]))
        return {"A": best["A"] - start["A0"], "B": best["B"] - start["B0"]}

    def unpacked(self, values: dict[str, Tensor], constants: Constants, n: int, m: int) -> dict[str, Tensor]:
        whole = {k: values[f"whole_{k}"] - constants[f"{k}0"] for k in "AB" if f"whole_{k}" in values}
        return {k: v for k, v in values.items() if not k.startswith("whole_")} | whole


@register("lora")
@dataclass(frozen=True)
class LoRA(Factored):
    """phi(W) = W + s A B, s = alpha / r.

    A in R^{n x r}, B in R^{r x m}; B starts at zero. With another ``init``:
    phi(W) = W + s ((A0 + A) (B0 + B) - A0 B0).
    Source: arXiv:2106.09685; arXiv:2407.05417, eq. (21).
    """

    category = "extension"
    formula = "r (n + m)"
    paper = "arXiv:2106.09685"

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return self.factors(n, m)

    def phi(self, W: Expr, p: Params) -> Expr:
        p = self.whole(p)
        return self.extended(W, self.dropped(p.A, p) @ p.B, p)
