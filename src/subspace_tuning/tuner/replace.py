"""Put one module in place of another, wherever in the model that one stands."""

from __future__ import annotations

from collections import defaultdict

from torch import nn


class Owners:
    """Who owns each module of a model, and by which name: one walk for many replacements.

    Places that come to be later are not known; one that holds another module by now is left alone.
    """

    def __init__(self, model: nn.Module):
        self._of: dict[nn.Module, list[tuple[nn.Module, str]]] = defaultdict(list)
        for owner in model.modules():
            for name, module in owner._modules.items():
                if module is not None:
                    self._of[module].append((owner, name))

    def replace(self, old: nn.Module, new: nn.Module) -> None:
        for owner, name in self._of.get(old, ()):
            if owner is not new and owner._modules.get(name) is old:
                setattr(owner, name, new)
