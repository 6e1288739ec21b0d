"""What adapters hold on one layer: what is trained, what W made, what is stored; how it starts and is read."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from subspace_tuning.algebra import Live
from subspace_tuning.method import Constants, Method, Params
from subspace_tuning.tuner.start import Started, start


def _read(held: Any, name: str) -> Tensor:
    value: Tensor | None = held._parameters.get(name)  # a container is slow to ask, and each word asks each layer
    if value is None:
        value = held[name]
    return value


class Held(nn.Module):
    """The part of a tuned layer that keeps numbers."""

    def params(self: Any, adapter: str, training: bool = False) -> Params:
        """The parameters and constants of an adapter as phi reads them."""
        live = {k: Live(partial(_read, group, k)) for group in self.own(adapter) for k in group}
        if joint := self.joint.get(adapter):
            live |= {k: Live(partial(self._brought, joint.held, key)) for k, key in joint.names.items()}
        return Params(live, training)

    def _brought(self: Any, held: Any, key: str) -> Tensor:
        """What is shared, on this layer's device where a model is spread over several."""
        value: Tensor = held[key]
        return value.to(self.weight.device) if self.dispatched and not self.is_away else value

    def constants(self: Any, adapter: str) -> Constants:
        """What the frozen weight made for an adapter."""
        held: Any = self.subspace_constants
        return dict(held[adapter].items()) if adapter in held else {}

    def own(self: Any, adapter: str) -> list[Any]:
        """The parameters, constants and stored numbers of an adapter that no other layer shares, each by name."""
        held: tuple[Any, ...] = (self.subspace_params, self.subspace_constants, self.subspace_stored)
        return [group[adapter] for group in held if adapter in group]

    def held(self: Any, adapter: str) -> list[Any]:
        """The parameters, constants and stored numbers of an adapter, each by name."""
        return [*self.own(adapter), *([self.joint[adapter]] if adapter in self.joint else [])]

    def trained(self: Any, adapter: str) -> dict[str, nn.Parameter]:
        """The parameters of an adapter, by name."""
        held: Any = self.subspace_params
        return {**dict(held[adapter].items()), **self.joint.get(adapter, {})}

    @property
    def containers(self: Any) -> list[nn.ModuleDict]:
        """What holds numbers of adapters."""
        own = self._modules
        return [own["subspace_params"], own["subspace_constants"], own["subspace_stored"], *self._home]

    def values(self: Any, adapter: str) -> dict[str, Tensor]:
        """The parameters, constants and stored numbers of an adapter, by name."""
        return {k: group[k] for group in self.held(adapter) for k in group}

    def start(self: Any, method: Method) -> Started:
        """What a method starts from here."""
        return start(method, self.frozen.known_as(self.path), self.like)

    @property
    def like(self: Any) -> Tensor:
        """A tensor of the precision and on the device that parameters are made in: the CPU where W is away."""
        own = self.frozen.stored
        return torch.empty(0, dtype=own.dtype) if self.is_away else own

    @property
    def is_away(self: Any) -> bool:
        """Whether the numbers of W are elsewhere at the moment."""
        return bool(self.dispatched and self.frozen.stored.is_meta)

    @torch.no_grad()
    def catch_up(self: Any, adapters: list[str]) -> None:
        """W is here: what it makes of adapters that were put on while it was away."""
        for adapter in self.unstarted.keys() & set(adapters):
            constants, started, stored = self.start(self.methods[adapter])
            held: Any = self.subspace_constants
            if adapter in held:
                held[adapter].update({k: v for k, v in constants.items() if k not in stored})
            loaded = any(hasattr(p, "_is_hf_initialized") for p in self.subspace_params[adapter].parameters())
            if not self.unstarted.pop(adapter) and not loaded:  # as transformers marks what it puts in place itself
                for name, value in (started | stored).items():
                    if name not in self.methods[adapter].shared:  # other layers may be trained already
                        self.values(adapter)[name].copy_(value)

    def restart(self: Any, adapter: str, values: dict[str, Tensor]) -> None:
        """Start from these parameters and stored numbers instead."""
        held = self.values(adapter)
        with torch.no_grad():
            for name, value in values.items():
                held[name].copy_(value)
        self._uncalibrated.pop(adapter, None)

    @property
    def uncalibrated(self: Any) -> set[str]:
        """Adapters whose start waits for data (see calibrate.py), unless a loader put other parameters in place."""
        held: Any = self.subspace_params
        return {a for a, p in self._uncalibrated.items() if next(iter(held[a].values())) is p}

    def _load_from_state_dict(self: Any, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        params = f"{prefix}subspace_params."
        for adapter in [a for a in self._uncalibrated if any(k.startswith(f"{params}{a}.") for k in state_dict)]:
            del self._uncalibrated[adapter]  # a checkpoint was calibrated before it was trained
        for adapter in [a for a in self.unstarted if any(k.startswith(f"{params}{a}.") for k in state_dict)]:
            self.unstarted[adapter] = True
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _move_adapter_to_device_of_base_layer(self: Any, adapter_name: str, device: torch.device | None = None) -> None:
        if (device := device or self.frozen.stored.device).type == "meta":
            return
        for group in (self.subspace_params, self.subspace_constants, self.subspace_stored):
            held: Any = group[adapter_name] if adapter_name in group else nn.Module()
            if not any(p.is_meta for p in held.parameters()):
                held.to(device)

    def shapes(self: Any, adapter: str) -> dict[str, tuple[int, ...]]:
        """Of the parameters and stored numbers of an adapter."""
        method, (n, m) = self.methods[adapter], self.frozen.shape
        return {k: start.shape for k, start in (method.parameters(n, m) | method.stored(n, m)).items()}

    def packed(self: Any, adapter: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parameters of an adapter as a checkpoint stores them."""
        method: Method = self.methods[adapter]
        return method.packed(values)

    def unpacked(self: Any, adapter: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parameters of an adapter from those of a checkpoint."""
        method: Method = self.methods[adapter]
        return method.unpacked(values, self.constants(adapter), *self.frozen.shape)
