"""A layer of a network as a frozen weight W in R^{n x m}: what every kind of layer has in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from subspace_tuning.algebra import Expr, Weight
from subspace_tuning.algebra.precision import plus
from subspace_tuning.weights import parametrised
from subspace_tuning.weights.parametrised import made_of
from subspace_tuning.weights.written import Survived, check_taken

REAL = {torch.float64, torch.float32, torch.float16, torch.bfloat16}  # numbers that are no codes for others
OURS: set[Callable[..., Any]] = set()  # hooks that leave a layer's own product as it is


class Unsupported(ValueError):
    """Raised where a method cannot sit on a kind of layer."""


class LayerWeight(Weight):
    """The weight of a layer; x @ W goes through the layer's own forward."""

    holds_matrix = True
    quantised = False
    built = False  # whether rows meet phi(W) built whole, because no row meets all of W

    def __init__(self, layer: nn.Module):
        self.layer: Any = layer
        self.shape = self.size(layer)

    @staticmethod
    def size(layer: Any) -> tuple[int, int]:
        """(n, m) of the layer."""
        raise NotImplementedError

    def rows(self, x: Tensor) -> Any:
        """x as rows of length n."""
        return x

    def finish(self, y: Tensor) -> Tensor:
        """(..., m) back in the layer's own layout."""
        return y

    def unfinish(self, y: Tensor) -> Tensor:
        """(..., m) of an output in the layer's own layout."""
        return y

    def meet(self, x: Tensor, E: Expr, bias: Tensor | None) -> Tensor:
        """x phi(W) + bias, (..., m), for an input in the layer's own layout and E = phi(W)."""
        if not self.built or E is self:
            return E.apply(self.rows(x), bias)
        return self.meet_built(x, E.dense().to(self.dtype), None if bias is None else bias.to(self.dtype))

    def meet_built(self, x: Tensor, W: Tensor, bias: Tensor | None) -> Tensor:
        """x W + bias, for another W (n, m)."""
        raise NotImplementedError

    def forward(self, x: Any) -> Tensor:
        return self.layer(x)

    def product(self, x: Any) -> Tensor:
        """x W, never x W + b - b where the layer is no more than its numbers: rounding would have left its mark."""
        own = self.own_bias
        if own is None:
            return self.forward(x)
        return self.without_bias(x) if self._is_plain() else plus(self.forward(x), -own)

    plain: tuple[type[nn.Module], ...] = ()  # whose product with rows ``without_bias`` computes

    def without_bias(self, x: Any) -> Tensor:
        """x W, as the plain layer computes it."""
        raise NotImplementedError

    def _is_plain(self) -> bool:
        """Whether nothing hangs on the layer's forward: no hook, no other storage, no other class."""
        layer = self.layer
        hooks = layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks
        foreign = any(hook not in OURS for kind in hooks for hook in kind.values())
        own = type(layer) in self.plain and "forward" not in vars(layer) and not foreign
        return own and type(layer.weight) in (nn.Parameter, Tensor)

    @property
    def own_bias(self) -> Tensor | None:
        return getattr(self.layer, "bias", None)

    @property
    def dtype(self) -> torch.dtype:
        own = self.layer.weight.dtype
        return own if own.is_floating_point else torch.get_default_dtype()

    @property
    def stored(self) -> Tensor:
        """A tensor that the layer keeps, where it keeps it."""
        return self.layer.weight

    @property
    def like(self) -> Tensor:
        return torch.empty(0, dtype=self.dtype, device=self.stored.device)

    def assign(self, W: Tensor | None, bias: Tensor | None) -> None:
        """Write W (n, m) and the bias into the layer; None leaves what is there. Raises NotTaken."""
        with torch.no_grad():
            for name, value in self._to_store(W, bias):
                if (made := made_of(self.layer, name)) is not None:
                    made.write(value)
                    continue
                held = self.numbers(name)
                held.copy_(value)
                check_taken(self.layer, name, held, value)

    def check_takes(self, W: Tensor | None, bias: Tensor | None) -> None:
        """Raise NotTaken where the layer computes its weight or bias, and could not compute these. Writes nothing."""
        for name, value in self._to_store(W, bias):
            if (made := made_of(self.layer, name)) is not None:
                made.taken(value)

    def _to_store(self, W: Tensor | None, bias: Tensor | None) -> Iterator[tuple[str, Tensor]]:
        if W is not None:
            yield "weight", self.as_stored(W)
        if bias is not None:
            yield "bias", bias.view_as(self.numbers("bias"))

    def take(self, W: Tensor) -> Survived:
        """Write W (n, m) into a quantised layer as Q(W), however little of W - W_q that leaves, and say how much."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise Unsupported where the layer turns out to be no product with a weight."""

    def numbers(self, name: str) -> Tensor:
        """The layer's weight or bias as it is stored, to be written into."""
        return getattr(self.layer, name)

    def part(self, name: str) -> Any:
        """The layer's weight or bias, or what it computes them from, to be put back later."""
        made = made_of(self.layer, name)
        return getattr(self.layer, name) if made is None else made.stored()

    def put(self, name: str, part: Any) -> None:
        """Put back what ``part`` gave, on the device and in the precision that the layer has by now."""
        made = made_of(self.layer, name)
        if made is None:
            parametrised.put(self.layer, name, part)
        else:
            made.store(part)

    def renew(self, name: str) -> None:
        """Give the layer a weight or bias of its own: the one that it has may be tied, or be put back later."""
        made = made_of(self.layer, name)
        if made is None:
            parametrised.renew(self.layer, name)
        else:
            made.renew()

    def as_stored(self, W: Tensor) -> Tensor:
        """W (n, m) in the shape of the layer's weight."""
        raise NotImplementedError


class Part(NamedTuple):
    """One of the weights that a layer holds: its name there, W, and what it has of a tensor that they share."""

    name: str
    W: LayerWeight
    of: Callable[[Tensor], Tensor]

    def under(self, layer: str) -> str:
        """Its name in a model, given that of the layer."""
        return f"{layer}.{self.name}" if self.name else layer
