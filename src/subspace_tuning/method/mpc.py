"""Matrix pattern constraints (MPC): a penalty or a nonlinearity on the factors A and B, without extra parameters.

Source: arXiv:2407.05417, eqs. (25) and (26); MPC_n is a nonlinearity between A and B.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subspace_tuning.algebra import Elementwise, Expr, Weight, matrix
from subspace_tuning.method.composition import Composition
from subspace_tuning.method.method import Method, Seat
from subspace_tuning.method.parameters import Constants, Params, Start


def orthonormal(A: Tensor, B: Tensor) -> Tensor:
    """MPC_o (25): ||A^T A - I||_F^2 + ||B B^T - I||_F^2 for A (n, r), B (r, m)."""
    eye = torch.eye(A.shape[1], dtype=A.dtype, device=A.device)
    return (A.T @ A - eye).square().sum() + (B @ B.T - eye).square().sum()


def diagonal(A: Tensor, B: Tensor) -> Tensor:
    """MPC_d (26): ||A^T A - I||_F^2 + ||B B^T - diag(B B^T)||_F^2 for A (n, r), B (r, m)."""
    eye = torch.eye(A.shape[1], dtype=A.dtype, device=A.device)
    gram = B @ B.T
    return (A.T @ A - eye).square().sum() + (gram - torch.diag(gram.diagonal())).square().sum()


PENALTIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"o": orthonormal, "d": diagonal}
PATTERNS = ("o", "d", "n")
WEIGHT = 0.036  # chosen by benchmarks/mpc_weight.py; the paper names none


@dataclass(frozen=True)
class Constrained(Method):
    """phi(W) of a method, its A and B held to a pattern.

    ``o`` and ``d`` hold A and B by ``weight`` times the mean of the penalty over all weights, whose gradient joins that
    of the loss at each step of the optimiser; ``n`` puts a ReLU between A and B, after which phi is
    no longer a map of W. Source: arXiv:2407.05417, section V.
    """

    method: Method = None  # type: ignore[assignment]
    pattern: str = "o"
    weight: float = WEIGHT

    category = "extension"
    formula = "as the method's"
    paper = "arXiv:2407.05417, eqs. (25)-(26)"

    def __post_init__(self) -> None:
        if self.pattern not in PATTERNS:
            raise ValueError(f"mpc is one of {', '.join(PATTERNS)}, got {self.pattern!r}")
        if not self.weight >= 0:
            raise ValueError(f"mpc_weight is a number >= 0, got {self.weight!r}")
        names = set(self.method.parameters(1 << 30, 1 << 30))
        if self.method.sits_on == "block":
            raise ValueError(f"mpc={self.pattern!r} is for the A and B of a weight; {self.method.name} sits on a block")
        if not {"A", "B"} <= names:
            held = ", ".join(sorted(names))
            raise ValueError(f"mpc={self.pattern!r} needs factors A and B; {self.method.name} has {held}")
        if self.pattern == "n" and self.method.category != "extension":
            raise ValueError(f"mpc='n' puts a nonlinearity between A and B, and {self.method.name} is no W + ... A B")

    name = property(lambda self: f"{self.method.name}+mpc_{self.pattern}")
    places = property(lambda self: self.method.places)
    sits_on = property(lambda self: self.method.sits_on)
    learning_rate = property(lambda self: self.method.learning_rate)
    mergeable = property(lambda self: self.pattern != "n" and self.method.mergeable)

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return self.method.parameters(n, m)

    def constants(self, W: Weight) -> dict[str, Tensor]:
        return self.method.constants(W)

    def phi(self, W: Expr, p: Params) -> Expr:
        return self.method.phi(W, self._patterned(p))

    def phi_t(self, W: Expr, p: Params, t: float) -> Expr:
        return self.method.phi_t(W, self._patterned(p), t)

    def _patterned(self, p: Params) -> Params:
        if self.pattern != "n":
            return p
        p = self.whole(p)
        held = {k: matrix(getattr(p, k)) for k in ("A", "A0") if k in p}
        return p.replace(**{k: A @ Elementwise(torch.relu, A.shape[1]) for k, A in held.items()})

    def whole(self, p: Params) -> Params:
        return self.method.whole(p)

    def factor_pairs(self) -> list[tuple[str, str, float]]:
        return self.method.factor_pairs()

    def bias(self, b: Any, p: Params) -> Any:
        return self.method.bias(b, p)

    def stored(self, n: int, m: int) -> dict[str, Start]:
        return self.method.stored(n, m)

    def calibrated(self, W: Weight, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.method.calibrated(W, found)

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        return self.method.project(W, W_star)

    def bias_t(self, b: Any, p: Params, t: float) -> Any:
        return self.method.bias_t(b, p, t)

    def output(self, m: int, p: Params) -> Expr | None:
        return self.method.output(m, p)

    def output_t(self, m: int, p: Params, t: float) -> Expr | None:
        return self.method.output_t(m, p, t)

    noisy = property(lambda self: self.method.noisy)
    rebuilds = property(lambda self: self.method.rebuilds)
    shared = property(lambda self: self.method.shared)
    calibration = property(lambda self: self.method.calibration)
    starts_at = property(lambda self: self.method.starts_at)
    no_decay = property(lambda self: self.method.no_decay)
    on_step = property(lambda self: self.method.on_step)
    needs_total = property(lambda self: self.method.needs_total)
    penalises = property(lambda self: self.pattern != "n" or self.method.penalises)

    def before_step(self, seats: Sequence[Seat], step: int, total: int) -> None:
        self.method.before_step(seats, step, total)

    def after_step(self, seats: Sequence[Seat], step: int, total: int) -> None:
        self.method.after_step(seats, step, total)

    def penalty(self, p: Params, among: int = 1) -> Tensor | None:
        own = self.method.penalty(p, among)
        if self.pattern == "n":
            return own
        p = self.whole(p)
        term = self.weight / among * PENALTIES[self.pattern](p.A.dense(), p.B.dense())
        return term if own is None else own + term

    def packed(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.method.packed(values)

    def unpacked(self, values: dict[str, Tensor], constants: Constants, n: int, m: int) -> dict[str, Tensor]:
        return self.method.unpacked(values, constants, n, m)

    def check(self, n: int, m: int) -> None:
        self.method.check(n, m)

    def fitted(self, n: int, m: int) -> Method:
        return Constrained(self.method.fitted(n, m), self.pattern, self.weight)

    def with_fields(self, **values: Any) -> Method:
        return Constrained(self.method.with_fields(**values), self.pattern, self.weight)

    def describe(self) -> str:
        return f"{self.method.describe()} + MPC_{self.pattern}"


def constrain(method: Method, pattern: str | None, weight: float = WEIGHT) -> Method:
    """Hold the factors of a method to a pattern; in a composition, those members that have an A and a B."""
    if pattern is None:
        return method
    if not isinstance(method, Composition):
        return Constrained(method, pattern, weight)
    able = [{"A", "B"} <= set(f.parameters(1 << 30, 1 << 30)) for f in method.members]
    if not any(able):
        raise ValueError(f"mpc={pattern!r} needs factors A and B; no member of {method.name} has them")
    pairs = zip(method.members, able, strict=True)
    return Composition(tuple(Constrained(f, pattern, weight) if yes else f for f, yes in pairs))
