"""MAM adapter: keys and values in front of a block's attention, a bottleneck beside its feed-forward."""

from dataclasses import dataclass

from torch import Tensor

from subspace_tuning.method import Params, Start, kaiming, normal, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.extend.houlsby import check_nonlinearity, nonlinearity
from subspace_tuning.methods.on_block import OnBlock


@register("mam")
@dataclass(frozen=True)
class MAM(OnBlock):
    """Attn(Q, [K'; K], [V'; V]) and FFN(x) + s h(x A) B, in each block.

    Prefix tuning with few ``tokens``: K', V' in R^{tokens x m} are trained keys and values that every query sees, as
    they stand (no position is turned into them). A scaled parallel adapter beside the whole feed-forward, from what
    enters it to what is added to the residual: A in R^{n x r}, B in R^{r x n} starting at zero. n is the width of the
    model, m of its keys. The parameters of a block stand at its key weight. K' and V' start normal with deviation 0.02,
    so that MAM does not start as the identity: a prefix takes its share of each query's attention. They are
    trained themselves, not through a network that makes them.
    Source: arXiv:2110.04366.
    """

    tokens: int = 30
    r: int = 512
    s: float = 4.0
    h: str = "relu"

    category = "extension"
    formula = "2 tokens m + 2 r n"
    paper = "arXiv:2110.04366"
    wide = True
    no_decay = "keys and values of zeros take their share of each query's attention too"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonlinearity(self.name, self.h)
        if isinstance(self.tokens, bool) or not isinstance(self.tokens, int) or self.tokens < 1:
            raise ValueError(f"{self.name}: tokens is a whole number above 0, got tokens={self.tokens!r}")

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        l, r = self.tokens, self.r  # noqa: E741
        prefix = {"K": normal(l, m, std=0.02), "V": normal(l, m, std=0.02)}
        return {**prefix, "A": kaiming(n, r), "B": zeros(r, n)}

    def in_front(self, p: Params) -> tuple[Tensor, Tensor]:
        return p.K.dense(), p.V.dense()

    def beside(self, x: Tensor, p: Params) -> Tensor:
        return self.s * p.B.apply(nonlinearity(self.h, self.r).apply(p.A.apply(x)))
