"""MiSS: one matrix for all shards of a weight."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from subspace_tuning.algebra import Expr, Repeated, Weight
from subspace_tuning.method import Method, Params, Start, zeros
from subspace_tuning.method.registry import register


@register("miss")
@dataclass(frozen=True)
class MiSS(Method):
    """phi(W) = W + [D; D; ...; D], D in R^{r x m}.

    Every shard of r rows of W gets the same D, which starts at zero; where r does not divide n, the last shard gets its
    first rows. Rows x add up their pieces of length r and meet D: a LoRA whose A is [I; I; ...; I].
    Source: arXiv:2409.15371, section 3.
    """

    r: int = 32

    category = "extension"
    formula = "r m"
    paper = "arXiv:2409.15371"

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"D": zeros(self.r, m)}

    def phi(self, W: Expr, p: Params) -> Expr:
        return W + Repeated(p.D, W.shape[0])

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        """The means over the shards."""
        D, n = W_star.dense() - W.dense(), W.shape[0]
        shards = pad(D, (0, 0, 0, -n % self.r)).unflatten(0, (-1, self.r))
        return {"D": shards.sum(0) / torch.arange(n, device=D.device).remainder(self.r).bincount().unsqueeze(1)}
