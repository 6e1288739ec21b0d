"""The strength dial: phi_t between W (t = 0) and phi(W) (t = 1), as a method of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from subspace_tuning.algebra import Expr
from subspace_tuning.method.method import Method
from subspace_tuning.method.parameters import Params, Start


@dataclass(frozen=True)
class AtStrength(Method):
    """phi_t(W), W itself at t = 0."""

    method: Method = None  # type: ignore[assignment]
    t: float = 1.0

    name = property(lambda self: self.method.name)
    sits_on = property(lambda self: self.method.sits_on)
    mergeable = property(lambda self: self.method.mergeable)

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return self.method.parameters(n, m)

    def phi(self, W: Expr, p: Params) -> Expr:
        return self.method.phi_t(W, p, self.t) if self.t else W

    def bias(self, b: Any, p: Params) -> Any:
        return self.method.bias_t(b, p, self.t) if self.t else b

    def output(self, m: int, p: Params) -> Expr | None:
        return self.method.output_t(m, p, self.t) if self.t else None

    def describe(self) -> str:
        return f"{self.method.describe()} at strength {self.t:g}"


def check_dial(method: Method) -> None:
    """Raise ValueError where a method is at work whole or not at all."""
    if method.sits_on == "block":
        raise ValueError(f"{method.name} sits on whole blocks, not on weights: it has no strength but 1")


def at_strength(method: Method, t: float) -> Method:
    """The method whose phi is phi_t; at t = 1 the method itself."""
    return method if t == 1 else AtStrength(method, t)


def rule(method: type[Method]) -> str:
    """How phi_t of a method goes, in its own words: the first line that its ``phi_t`` says."""
    elsewhere = {"bias": "b + t (b' - b)", "output": "y + t (y' - y)"}
    if method.sits_on in ("block", "tokens"):
        return "none: at work whole or not at all"
    said = (method.phi_t.__doc__ or Method.phi_t.__doc__ or "").strip().splitlines()[0].rstrip(".")
    return elsewhere.get(method.sits_on, said)
