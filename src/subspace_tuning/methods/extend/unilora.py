"""Uni-LoRA: every factor of a model is filled with the numbers of one short vector."""

from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Expr, Live, Weight, matrix
from subspace_tuning.method import Method, Params, Start, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.projections import own_seed, projection, unit_uniform


@register("unilora")
@dataclass(frozen=True)
class UniLoRA(Method):
    """phi(W) = W + A B - A_0 B_0, A_ij = (theta_0 + theta)[I_ij], B_ij = (theta_0 + theta)[J_ij], I and J random.

    theta in R^d is shared by all layers and starts at zero, theta_0 is uniform in +-start. I in {1..d}^{n x r} and
    J in {1..d}^{r x m} use each number equally often, give or take once, and follow from the seed and the layer's
    name; nothing of them is stored. So (A, B) = P theta with orthogonal columns of one length, the paper's isometry
    but for that length. The paper trains theta_0 + theta and lets A_0 B_0 move W at the start; taken away, phi(W) = W.
    Source: arXiv:2506.00799.
    """

    r: int = 4
    d: int = 23040
    start: float = 0.02
    seed: int = 0

    category = "extension"
    formula = "d"
    paper = "arXiv:2506.00799"
    learning_rate = 5e-3
    wide = True
    shared = {"theta": "model"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d < 1 or not self.start > 0:
            raise ValueError(f"{self.name}: d and start are above 0, got d={self.d!r}, start={self.start!r}")

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"theta": zeros(self.d)}

    def constants(self, W: Weight) -> dict[str, Tensor]:
        (n, m), like = W.shape, W.dense()
        theta0 = projection(self.seed, 0, (self.d,), unit_uniform, like) * (self.start / 3**0.5)
        places = torch.empty(self.r * (n + m), dtype=torch.long, device=like.device)
        if not like.is_meta:
            places = _dealt(own_seed(self.seed, W), len(places), self.d).to(like.device)
        I, J = places[: n * self.r].view(n, self.r), places[n * self.r :].view(self.r, m)  # noqa: E741
        return {"theta0": theta0, "I": I.clone(), "J": J.clone()}

    def phi(self, W: Expr, p: Params) -> Expr:
        theta = p.theta0 + p.theta
        A, B, A0, B0 = (matrix(Live.of(_filled, t, places.numbers)) for t in (theta, p.theta0) for places in (p.I, p.J))
        return W + A @ B - A0 @ B0


def _filled(theta: Tensor, places: Tensor) -> Tensor:
    return theta[places]


def _dealt(seed: int, count: int, d: int) -> Tensor:
    """``count`` of the numbers 0, ..., d - 1 in random order, each as often as any other, give or take once."""
    draw = torch.Generator().manual_seed(seed)
    first = torch.randperm(d, generator=draw)  # of those that come once more, not always the same
    return first[torch.randperm(count, generator=draw) % d]
