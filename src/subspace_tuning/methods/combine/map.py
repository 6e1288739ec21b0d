"""MAP: the length of W and the length of its change, trained beside the direction of the change."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from subspace_tuning.algebra import Diag, Expr, Product, Sum, Weight
from subspace_tuning.algebra.norms import frobenius
from subspace_tuning.linalg.nearest import in_turn
from subspace_tuning.method import Method, Params, Start, zeros
from subspace_tuning.method.registry import lookup, register
from subspace_tuning.methods.extend.dropout import check_probability

EXTENSIONS = ("lora", "trilora", "flora", "moslora", "lora_xs", "pica", "vera")  # D = L R, one factor zero at first
LEAST = 1e-6  # of ||D||_F: what is shorter has no direction


@register("map")
@dataclass(frozen=True)
class MAP(Method):
    """phi(W) = (1 + alpha) W + (length + beta) D / ||D||_F, D = phi_e(W) - W.

    phi_e is the ``extension`` with its parameters, of rank r; around LoRA this is the paper's LoMAP. alpha and beta,
    one number each for the whole weight, start at zero. As in the authors' code D = 0 at first, and from the first
    step on it is as long as ``length`` says: the scale of an extension cancels. The paper trains ||W||_F (1 + alpha)
    itself; for alpha a step is a part of W's length, whatever that is.
    Source: arXiv:2505.23094.
    """

    r: int = 8
    extension: str = "lora"
    length: float = 1.0
    dropout: float = 0.0

    category = "combination"
    formula = "e + 2"
    paper = "arXiv:2505.23094"
    no_decay = "a change that weight decay makes smaller keeps its direction, and that is all that counts here"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.extension not in EXTENSIONS:
            raise ValueError(f"{self.name}: extension is one of {', '.join(EXTENSIONS)}, got {self.extension!r}")
        if not self.length > 0:
            raise ValueError(f"{self.name}: length is a number above 0, got {self.length!r}")
        check_probability(self.name, self.dropout)

    @property
    def inner(self) -> Method:
        return lookup(self.extension)().with_fields(r=self.r, dropout=self.dropout)

    wide = property(lambda self: self.inner.wide)

    def sizes(self, n: int, m: int) -> dict[str, int]:
        """e: the extension's parameters."""
        return {"e": self.inner.count(n, m)}

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {**self.inner.parameters(n, m), "alpha": zeros(1), "beta": zeros(1)}

    def constants(self, W: Weight) -> dict[str, Tensor]:
        return self.inner.constants(W)

    def factor_pairs(self) -> list[tuple[str, str, float]]:
        return [(A, B, 1.0) for A, B in self.inner.pairs]

    def phi(self, W: Expr, p: Params) -> Expr:
        return self._of_lengths(W, p, 1 + p.alpha, self.length + p.beta)

    def phi_t(self, W: Expr, p: Params, t: float) -> Expr:
        """W + t (phi(W) - W)."""
        return self._of_lengths(W, p, 1 + t * p.alpha, t * (self.length + p.beta))

    def _of_lengths(self, W: Expr, p: Params, of_W: Any, of_D: Any) -> Expr:
        """of_W W + of_D D / ||D||_F."""
        D = self._change(W, p)
        cuts = [f.shape[1] for f in D.chain[:-1]]
        k = cuts.index(min(cuts)) + 1
        c = (of_D / frobenius(D, LEAST)).expand(min(cuts))
        direction = Product((*D.chain[:k], Diag(c), *D.chain[k:]), D.scale)
        return Sum((Diag(of_W.expand(W.shape[0])) @ W, direction))

    def _change(self, W: Expr, p: Params) -> Product:
        """D, the last term of what the extension makes of W."""
        E = self.inner.phi(W, p)
        assert isinstance(E, Sum)
        D = E.terms[-1]
        assert isinstance(D, Product)
        return D

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        dense, constants = W.dense(), self.constants(W)
        energy = dense.square().sum().clamp_min(1e-30)

        def extended(D: Tensor) -> tuple[dict[str, Tensor], Tensor]:
            found = self.inner.project(W, Weight(dense + D))
            return found, self._change(W, Params({**constants, **found})).dense()

        def scaled(D: Tensor) -> Tensor:
            return (dense * D).sum() / energy * dense

        found, beside = in_turn(W_star.dense() - dense, extended, scaled)
        length = self._change(W, Params({**constants, **found})).dense().norm()
        alpha = (dense * beside).sum() / energy
        return {**found, "alpha": alpha.unsqueeze(0), "beta": (length - self.length).unsqueeze(0)}
