"""OSF: train the tail of the singular value decomposition, at right angles to its head."""

from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Dense, Diag, Expr, Live, Weight
from subspace_tuning.linalg.store import whole_svd
from subspace_tuning.linalg.svd import svd
from subspace_tuning.method import Method, Params, Start, zeros
from subspace_tuning.method.registry import register


@register("osf")
@dataclass(frozen=True)
class OSF(Method):
    """phi(W) = W + (U_0 + P U) diag(s_0 + s) (V_0 + P' V)^T - U_0 diag(s_0) V_0^T.

    U_h (n, h), V_h (m, h) are the singular vectors of the h = round(kept k) largest singular values, k = min(n, m), and
    stay as they are: P = I - U_h U_h^T, P' = I - V_h V_h^T. U_0, s_0, V_0 are the rest; U (n, k - h), s and V
    (m, k - h), what is added to these, start at zero. The paper projects the gradients of U and V by P and P'; with the
    projections inside phi their gradients are exactly these, and the head is kept whatever the optimiser does with
    them. PEFT projects gradients only, so that Adam's steps leak into the head.
    Source: arXiv:2504.07097.
    """

    kept: float = 0.5

    category = "reconstruction"
    mode = "2: singular vectors, nonlinear"
    formula = "(k - round(kept k)) (n + m + 1)"
    paper = "arXiv:2504.07097"
    learning_rate = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.kept < 1:
            raise ValueError(f"{self.name}: kept is a share of the singular values in (0, 1), got {self.kept!r}")

    def head(self, n: int, m: int) -> int:
        """How many singular values are kept."""
        return round(self.kept * min(n, m))

    def check(self, n: int, m: int) -> None:
        if not 0 < self.head(n, m) < min(n, m):
            raise ValueError(
                f"{self.describe()}: of the {min(n, m)} singular values of a {n} x {m} weight {self.head(n, m)} would "
                "be kept, which leaves none to keep or none to train; choose another share or leave the module out"
            )

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        t = min(n, m) - self.head(n, m)
        return {"U": zeros(n, t), "s": zeros(t), "Vt": zeros(t, m)}

    def constants(self, W: Weight) -> dict[str, Tensor]:
        whole, h = whole_svd(W.dense()).to(W.dense().dtype), self.head(*W.shape)
        (Uh, _, Vht), (U0, s0, V0t) = whole.top(h), whole.tail(h)
        return {"Uh": Uh, "Vht": Vht, "U0": U0, "s0": s0, "V0t": V0t}

    def phi(self, W: Expr, p: Params) -> Expr:
        U = Dense(Live.of(_beside, p.U.numbers, p.Uh.numbers))
        Vt = Live.of(_beside, p.Vt.numbers.T, p.Vht.numbers.T).T
        V = Live.of(torch.add, p.V0t.numbers, Vt)
        return W + U @ Diag(p.s0 + p.s) @ V + p.U0 @ Live.of(_moved, p.s, V, p.s0, Vt)

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        head = self.constants(W)
        rest = _beside(_beside(W_star.dense(), head["Uh"]).T, head["Vht"].T).T
        U, s, Vt = svd(rest, len(head["s0"]))
        return {"U": U - head["U0"], "s": s - head["s0"], "Vt": Vt - head["V0t"]}


def _moved(s: Tensor, V: Tensor, s0: Tensor, moved: Tensor) -> Tensor:
    """diag(s0 + s) V - diag(s0) V0 for V = V0 + moved, all (k, m)."""
    return s.unsqueeze(1) * V + s0.unsqueeze(1) * moved


def _beside(U: Tensor, head: Tensor) -> Tensor:
    """What of the columns of U stands at right angles to the orthonormal columns of the head."""
    head = head.to(U.dtype)
    return U - head @ (head.T @ U)
