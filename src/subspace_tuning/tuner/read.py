"""Layers whose owner reads their weight instead of calling them: what it reads is phi(W).

phi(W) is built there, n m numbers and as many in its gradient. A method has a seat that is a map of the weight alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from subspace_tuning.method import Method, members
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.tuner.start import check_built
from subspace_tuning.weights import Unsupported

ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
Children = dict[str, tuple[str, ...]]  # of a class of modules, by its name
NEVER_CALLED: Children = {"MultiheadAttention": ("query", "key", "value", "out_proj"), "WavLMAttention": ATTENTION}
BY_KERNELS: Children = {"TransformerEncoderLayer": ("linear1", "linear2", "norm1", "norm2")}  # called on other paths
OF_MIXERS, OF_MIXERS_BY_KERNELS = ("dt_proj",), ("conv1d", "x_proj", "out_proj")  # which have a decay of their own


def only_read(owner: nn.Module) -> tuple[str, ...]:
    """The children of a module whose weights it reads and never calls."""
    return OF_MIXERS if hasattr(owner, "A_log") else _of(owner, NEVER_CALLED)


def read_by(owner: nn.Module) -> tuple[str, ...]:
    """The children of a module whose weights it reads, on some path at least."""
    by_kernels = OF_MIXERS_BY_KERNELS if hasattr(owner, "A_log") else _of(owner, BY_KERNELS)
    return only_read(owner) + by_kernels


def _of(owner: nn.Module, table: Children) -> tuple[str, ...]:
    return next((table[kind.__name__] for kind in type(owner).__mro__ if kind.__name__ in table), ())


def check_read(method: Method) -> None:
    """Raise Unsupported where a method is not all said by phi(W) and the bias."""
    for part in members(method):
        if part.sits_on != "bias":
            check_built(part, "its owner reads this weight and does not call the layer")


class SubspaceRead(SubspaceLayer):
    """A tuned layer that answers both ways: rows go through phi, and who reads its weight or bias reads phi(W).

    only: whether it is never called.
    """

    def __init__(self, base_layer: nn.Module, only: bool):
        super().__init__(base_layer)
        self.only = only

    def add(self, adapter: str, method: Method, *how: Any, **told: Any) -> None:
        if self.only:
            check_read(method)
        super().add(adapter, method, *how, **told)

    @property
    def answers_reading(self) -> bool:
        try:
            for method in self.methods.values():
                check_read(method)
        except Unsupported:
            return False
        return True

    def _reading(self) -> list[str]:
        """The adapters that are at work, where phi(W) says it all."""
        if self.by_row:
            raise ValueError(f"adapter_names picks an adapter for each sample, and {self.path} is read for all of them")
        return self.working() if self.answers_reading else []

    @property
    def weight(self) -> Tensor:
        self.was_read = True
        weight: Tensor = _answer(self._weight)
        return weight

    @property
    def bias(self) -> Any:
        return _answer(self._bias)

    def _weight(self) -> Tensor:
        if adapters := self._reading():
            W, E, _, _ = self.tuned(adapters, self.training)
            if E is not W:
                return W.as_stored(E.dense().to(W.dtype))
        return self.frozen_weight

    def _bias(self) -> Any:
        own: Any = self.get_base_layer().bias
        adapters = self._reading()
        b = self.tuned(adapters, self.training).b if adapters else None
        return own if b is None else b.now().to(own.dtype).view_as(own)


def _answer(made: Callable[[], Any]) -> Any:
    try:
        return made()
    except AttributeError as error:  # with which nn.Module would look elsewhere, and find what is frozen
        raise RuntimeError(str(error)) from error
