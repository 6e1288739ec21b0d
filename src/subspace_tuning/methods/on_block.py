"""What methods share that sit on a whole block; tuner/blocks.py brings what they add to it."""

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from subspace_tuning.method import Method, Params


@dataclass(frozen=True)
class OnBlock(Method):
    """Attn(Q, [K'; K], [V'; V]) and FFN(x) + E(x), the parameters at the block's key weight in R^{n x m}."""

    sits_on = "block"
    places = "key"
    mergeable = False

    @abstractmethod
    def in_front(self, p: Params) -> tuple[Tensor, Tensor]:
        """K' and V' (tokens, m), in front of the keys and values of the block's attention."""

    @abstractmethod
    def beside(self, x: Tensor, p: Params) -> Tensor:
        """E(x), what is added to the block's feed-forward, of what enters it; both (..., n)."""
