"""Parameters that several layers share: they live once, at the root of the model, and layers read them by name.

So they are counted, saved, sharded and handed to an optimiser once, and their gradient is the sum over the layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from subspace_tuning.method import Method

HOME = "subspace_shared"  # the attribute of the model
SCOPES = {"shape": "layers of one shape", "kind": "layers of one kind", "model": "all layers"}


class SharedParameters(nn.ModuleDict):
    """Adapter -> parameters, by the names of the groups of layers that share them."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: dict[str, dict[str, tuple[int, ...]]] = {}  # adapter -> whole shapes
        self._layers: dict[str, int] = {}  # adapter -> how many layers read here

    def forward(self, x: Tensor) -> Tensor:
        """x: in an nn.Sequential it is called after the others."""
        return x

    @classmethod
    def of(cls, model: nn.Module) -> SharedParameters:
        """The model's own; made where it has none."""
        if not hasattr(model, HOME):
            model.add_module(HOME, cls())
        home = getattr(model, HOME)
        assert isinstance(home, cls)
        return home

    @classmethod
    def tidy(cls, model: nn.Module) -> None:
        """Leave none behind on a model where nobody shares anything."""
        if not getattr(model, HOME, True):
            delattr(model, HOME)

    def join(self, adapter: str, method: Method, path: str, W: tuple[int, int], values: Mapping[str, Tensor]) -> Joint:
        """Make a layer one of those that share; the first of a group brings the values.

        Raises ValueError where a parameter's size is not that of the group.
        """
        keys = {name: key_of(method, name, path, W) for name in values}
        shapes = self.shapes.get(adapter, {})
        for name, key in keys.items():
            if (own := tuple(values[name].shape)) != shapes.setdefault(key, own):
                raise ValueError(
                    f"{method.describe()} shares {name} between {SCOPES[method.shared[name]]}, and its size differs "
                    f"among them: {shapes[key]} and {own}; give these layers one rank, or leave some out"
                )
        if adapter not in self:
            self[adapter] = nn.ParameterDict()
        held = self[adapter]
        assert isinstance(held, nn.ParameterDict)
        held.update({key: nn.Parameter(values[name]) for name, key in keys.items() if key not in held})
        self.shapes[adapter] = shapes
        self._layers[adapter] = self._layers.get(adapter, 0) + 1
        return Joint(held, keys)

    def widen(self, adapter: str) -> None:
        """Keep an adapter's in single precision or better."""
        held = dict(self[adapter].named_parameters()) if adapter in self else {}
        for key, p in held.items():
            if (wide := torch.promote_types(p.dtype, torch.float32)) != p.dtype:
                setattr(self[adapter], key, nn.Parameter(p.detach().to(wide), p.requires_grad))

    def leave(self, adapter: str) -> None:
        """One layer fewer reads an adapter's; after the last they are gone."""
        self._layers[adapter] -= 1
        if not self._layers[adapter]:
            del self[adapter], self.shapes[adapter], self._layers[adapter]


@dataclass(frozen=True, eq=False)
class Joint(Mapping[str, nn.Parameter]):
    """What one layer has of the shared parameters of an adapter, by the method's names."""

    held: nn.ParameterDict
    names: dict[str, str]  # -> that of the group there

    def __getitem__(self, name: str) -> nn.Parameter:
        there: nn.Parameter = self.held[self.names[name]]
        return there

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def key_of(method: Method, name: str, path: str, W: tuple[int, int]) -> str:
    """The name of the group that a layer shares a parameter with: path is its module's name, W = (n, m) its size."""
    n, m = W
    group = {"shape": f"{n}x{m}", "kind": path.rpartition(".")[2], "model": ""}[method.shared[name]]
    return "@".join(filter(None, [name, re.sub(r"\W", "_", method.name), group]))
