"""RoAd: rotate the outputs of W two by two, and scale them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subspace_tuning.algebra import Expr, Live, Pairs, Weight
from subspace_tuning.algebra.pairs import mixed
from subspace_tuning.linalg.powers import scale_power
from subspace_tuning.method import Method, Params, Start, zeros
from subspace_tuning.method.registry import register

VARIANTS = (1, 2, 4)


@register("road")
@dataclass(frozen=True)
class RoAd(Method):
    """phi([W; b^T]) = [W; b^T] R, R turning pairs of outputs by theta and scaling them by 1 + delta.

    y_i = (1 + delta) (z_i cos(theta) - z_j sin(theta)) and y_j = (1 + delta) (z_j cos(theta) + z_i sin(theta)) for
    z = x W + b. Pairs are i and j = i + group / 2 for i in the first half of each ``group`` of outputs; what is left
    over at the end is a smaller group, and an output without a partner stays as it is. theta and delta start at zero.
    ``variant`` 1 has one theta and one delta for a pair, 2 one of each for every output, 4 others for the cosine of an
    output than for its sine.
    Source: arXiv:2409.00119, eq. (4).
    """

    variant: int = 1
    group: int = 64

    category = "reconstruction"
    mode = "2: singular vectors, nonlinear"
    formula = "2 variant P"
    paper = "arXiv:2409.00119"
    learning_rate = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in VARIANTS:
            raise ValueError(f"{self.name}: variant is one of 1, 2, 4, got {self.variant!r}")
        if isinstance(self.group, bool) or not isinstance(self.group, int) or self.group < 2 or self.group % 2:
            raise ValueError(f"{self.name}: group is an even number above 0, got {self.group!r}")

    def sizes(self, n: int, m: int) -> dict[str, int]:
        """P: the number of pairs."""
        return {"P": m // 2}

    def check(self, n: int, m: int) -> None:
        if m < 2:
            raise ValueError(f"{self.describe()}: a single output has no partner; leave the module out")

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        many = self.variant * (m // 2)
        return {"theta": zeros(many), "delta": zeros(many)}

    def constants(self, W: Weight) -> dict[str, Tensor]:
        """Of each output (m,): its partner; -1 for the first of a pair, 1 for the second, 0 for one that is alone;
        where its cosine and where its sine are held."""
        m, device = W.shape[1], W.dense().device
        partner = self.partners(m)
        sign = (torch.arange(m) - partner).sign()
        counted = sign < 0 if self.variant == 1 else sign != 0
        cosine = (counted.long().cumsum(0) - 1).clamp_min(0)
        if self.variant == 1:
            cosine = torch.where(sign > 0, cosine[partner], cosine)
        sine = cosine + m // 2 * 2 if self.variant == 4 else cosine
        found = {"partner": partner, "sign": sign, "cosine": cosine, "sine": sine}
        return {name: value.to(device) for name, value in found.items()}

    def partners(self, m: int) -> Tensor:
        """The partner of each output (m,); itself where there is none."""
        partner = torch.arange(m)
        for start in range(0, m, self.group):
            half = min(self.group, m - start) // 2
            partner[start : start + half] += half
            partner[start + half : start + 2 * half] -= half
        return partner

    def phi(self, W: Expr, p: Params) -> Expr:
        return W @ Pairs(*_numbers(p), p.partner)

    def phi_t(self, W: Expr, p: Params, t: float) -> Expr:
        """[W; b^T] R^t, by t theta and (1 + delta)^t; where delta <= -1, 1 + t delta."""
        return self.phi(W, _powered(p, t))

    def bias(self, b: Any, p: Params) -> Any:
        if b is None:
            return None
        made = Live.of(mixed, b, *_numbers(p), p.partner)
        return made if isinstance(b, Live) else made.now()

    def bias_t(self, b: Any, p: Params, t: float) -> Any:
        return self.bias(b, _powered(p, t))

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        at, (z, y) = self.constants(W), (_columns(V) for V in (W, W_star))
        sign = at["sign"]
        across = sign * z[:, at["partner"]]
        zz, aa, za = ((a * b).sum(0) for a, b in ((z, z), (across, across), (z, across)))
        zy, ay = (z * y).sum(0), (across * y).sum(0)
        if self.variant == 1:  # one rotation for both: what the two see of each other cancels
            zz, aa, zy, ay = (v + v[at["partner"]] for v in (zz, aa, zy, ay))
            za = torch.zeros_like(za)
        normal = torch.stack([zz, za, za, aa], -1).unflatten(-1, (2, 2))
        cosine, sine = (torch.linalg.pinv(normal) @ torch.stack([zy, ay], -1).unsqueeze(-1)).squeeze(-1).unbind(-1)
        held = sign < 0 if self.variant == 1 else sign != 0
        cosine, sine = cosine[held], sine[held]
        if self.variant == 4:
            theta = torch.cat([torch.zeros_like(cosine), torch.full_like(sine, torch.pi / 2)])
            return {"theta": theta, "delta": torch.cat([cosine, sine]) - 1}
        return {"theta": torch.atan2(sine, cosine), "delta": torch.hypot(sine, cosine) - 1}


def _numbers(p: Params) -> tuple[Live, Live]:
    """f and h (m,): y_j = f_j z_j + h_j z_j' for an output j and its partner j'."""
    own = Live.of(_cosines, p.theta, p.delta, p.cosine, p.sign)
    return own, Live.of(_sines, p.theta, p.delta, p.sine, p.sign)


def _cosines(theta: Tensor, delta: Tensor, at: Tensor, sign: Tensor) -> Tensor:
    return torch.where(sign != 0, ((1 + delta) * torch.cos(theta))[at], 1.0)


def _sines(theta: Tensor, delta: Tensor, at: Tensor, sign: Tensor) -> Tensor:
    return sign * ((1 + delta) * torch.sin(theta))[at]


def _powered(p: Params, t: float) -> Params:
    return p.replace(theta=t * p.theta, delta=Live.of(scale_power, p.delta, t))


def _columns(W: Weight) -> Tensor:
    """[W; b^T], (n + 1, m)."""
    b = W.own_bias
    return W.dense() if b is None else torch.cat([W.dense(), b.unsqueeze(0)])
