"""SHiRA: a sparse adapter of high rank."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Weight
from subspace_tuning.method import Start, constant
from subspace_tuning.method.registry import register
from subspace_tuning.methods.projections import drawn_places
from subspace_tuning.methods.reconstruct.masked import Masked, largest

MASKS = ("random", "magnitude", "gradient", "snip")


@register("shira")
@dataclass(frozen=True)
class SHiRA(Masked):
    """phi(W) = W + M o V, M a mask of r (n + m) entries: as many numbers as a LoRA of rank r has, of any rank.

    ``mask`` is random (it follows from the seed, as PEFT draws it, and is not stored), or has the entries that are
    largest by ``magnitude`` |W|, by ``gradient`` |dL/dW| or by both, ``snip``: |W o dL/dW|; the last two are found by
    `calibrate` before training. The paper's structured mask (whole rows and columns, and a diagonal) is left out: but
    for the diagonal it has the low rank that the method is meant to leave.
    Source: arXiv:2406.13175, section 3.
    """

    r: int = 8
    mask: str = "random"
    seed: int = 0

    category = "reconstruction"
    mode = "2: singular vectors, element-wise"
    formula = "min(r (n + m), n m)"
    paper = "arXiv:2406.13175"
    wide = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask not in MASKS:
            raise ValueError(f"{self.name}: the mask is one of {', '.join(MASKS)}, got {self.mask!r}")

    def kept(self, n: int, m: int) -> int:
        return min(self.r * (n + m), n * m)

    @property
    def calibration(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("gradients",) if self.mask in ("gradient", "snip") else ()

    def calibrated(self, W: Weight, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not self.calibration:
            return {}
        G, k = found["gradients"], self.kept(*W.shape)
        scores = G if self.mask == "gradient" else G * W.dense()
        return {"places": largest(scores.abs(), k), "v": torch.zeros(k)}

    def stored(self, n: int, m: int) -> dict[str, Start]:
        if self.mask == "random":
            return {}
        if self.mask == "magnitude":
            return {"places": constant("places", self.kept(n, m))._replace(dtype=torch.int64)}
        return super().stored(n, m)

    def constants(self, W: Weight) -> dict[str, Tensor]:
        k = self.kept(*W.shape)
        if self.mask == "magnitude":
            return {"places": largest(W.dense().abs(), k)}
        if self.mask == "random":
            return {"places": drawn_places(self.seed, *W.shape, k, W.dense(), ascending=True)}
        return {}
