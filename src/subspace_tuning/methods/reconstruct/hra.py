"""HRA: rotate W by a few reflections."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from subspace_tuning.algebra import Dense, Expr, Live, NearIdentity, Weight
from subspace_tuning.algebra.precision import wide, without_autocast
from subspace_tuning.linalg.svd import truncated_svd
from subspace_tuning.method import Constants, Method, Params, Start, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.projections import projection


@register("hra")
@dataclass(frozen=True)
class HRA(Method):
    """phi(W) = H_r ... H_1 W, H_i = I - 2 u_i u_i^T / ||u_i||^2.

    Householder reflections of the inputs, two by two: u_{2i} and u_{2i-1} are the same at first, two columns of
    U_0 (n, r), which follows from the seed; what is trained is added to it, u in R^{n x r} from zero. The product is
    I - U C U^T for unit columns U, C^{-1} = I / 2 + tril(U^T U, -1), so that nothing of size n x n is formed.
    This is the compact WY form of a product of reflections.
    Source: arXiv:2405.17484.
    """

    r: int = 8
    seed: int = 0

    category = "reconstruction"
    mode = "2: singular vectors, nonlinear"
    formula = "r n"
    paper = "arXiv:2405.17484"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.r % 2:
            raise ValueError(f"{self.name}: reflections start as pairs that undo each other; r is even, got r={self.r}")

    def check(self, n: int, m: int) -> None:
        if self.r > n:
            raise ValueError(
                f"{self.describe()}: a weight of {n} x {m} has its inputs reflected, at most n times; choose an "
                f"even rank r <= {n} or leave the module out"
            )

    def fitted(self, n: int, m: int) -> Method:
        return self.with_fields(r=max(2, min(self.r, n) // 2 * 2))

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"u": zeros(n, self.r)}

    def constants(self, W: Weight) -> dict[str, Tensor]:
        half = projection(self.seed, 0, (W.shape[0], self.r // 2), _columns, W.dense())
        return {"u0": half.repeat_interleave(2, 1)}

    def whole(self, p: Params) -> Params:
        return p.replace(whole_u=Live.of(_sum, p.u0.numbers, p.u.numbers))

    def phi(self, W: Expr, p: Params) -> Expr:
        return _reflected(W, Live.of(_unit, self.whole(p).whole_u.numbers))

    def phi_t(self, W: Expr, p: Params, t: float) -> Expr:
        """Every pair H_{2i} H_{2i-1} to the power t, by t times its angle."""
        return _reflected(W, Live.of(_nearer, self.whole(p).whole_u.numbers, t))

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        """The best rotation of the r directions of the inputs in which W* - W is largest, as reflections.

        Of a weight with one output, of the plane of W and W*.
        """
        dense = W.dense()
        most = min(self.r, min(dense.shape) // 2 * 2)
        turned = W_star.dense() - dense if most else torch.cat([dense, W_star.dense()], 1)
        P = truncated_svd(turned, most or 2).U
        left, _, right = torch.linalg.svd(P.T @ W_star.dense() @ (P.T @ dense).T)
        left[:, -1] *= torch.linalg.det(left @ right).sign()  # an even number of reflections
        u0 = self.constants(W)["u0"]
        found = P @ reflections(left @ right)
        return {"u": torch.cat([found, u0[:, found.shape[1] :]], 1) - u0}

    def unpacked(self, values: dict[str, Tensor], constants: Constants, n: int, m: int) -> dict[str, Tensor]:
        """``whole_u`` = U_0 + u may stand for u."""
        if "whole_u" not in values:
            return values
        return {"u": values["whole_u"] - constants["u0"]}


def _columns(M: Tensor, generator: torch.Generator) -> Tensor:
    """Of about unit length."""
    return M.normal_(std=len(M) ** -0.5, generator=generator)


def reflections(M: Tensor) -> Tensor:
    """Unit columns u_1, ..., u_r with H_r ... H_1 = M for an orthogonal M (r, r) of determinant 1, r even."""
    found, rest = [], M.clone()
    for i in range(len(M)):
        u = rest[:, i].clone()
        u[i] -= 1
        if u.norm() > torch.finfo(M.dtype).eps ** 0.5:
            found.append(u / u.norm())
            rest = rest - 2 * torch.outer(found[-1], found[-1] @ rest)
    spare = torch.eye(len(M))[:, 0].to(M)  # by itself twice
    return torch.stack([*[spare] * (len(M) - len(found)), *reversed(found)], 1)


def _sum(u0: Tensor, u: Tensor) -> Tensor:
    return wide(u0) + wide(u)


def _unit(u: Tensor) -> Tensor:
    return normalize(u, dim=0)


def _nearer(u: Tensor, t: float) -> Tensor:
    """Unit columns, of which the second of each pair is turned to t times its angle with the first."""
    first, second = _unit(u).unflatten(1, (-1, 2)).unbind(2)
    cosine = (first * second).sum(0)
    second, cosine = torch.where(cosine < 0, -second, second), cosine.abs()  # u and -u reflect alike
    beside = second - cosine * first
    sine = beside.square().sum(0).clamp_min(torch.finfo(u.dtype).tiny ** 0.5).sqrt()
    angle = t * torch.atan2(sine, cosine)
    turned = torch.cos(angle) * first + torch.sin(angle) / sine * beside
    return torch.stack([first, turned], 2).flatten(1)


def _reflected(W: Expr, U: Live) -> Expr:
    """(I - U C U^T) W for unit columns U (n, r)."""
    return NearIdentity(Dense(U), Dense(Live.of(_back, U))) @ W


def _back(U: Tensor) -> Tensor:
    """-C U^T, (r, n)."""
    with without_autocast(U):
        L = torch.tril(U.T @ U, -1) + torch.eye(U.shape[1], dtype=U.dtype, device=U.device) / 2
        return -torch.linalg.solve_triangular(L, U.T, upper=False)
