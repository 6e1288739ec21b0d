"""Methods that sit on a block: what they put in front of its attention and beside its feed-forward.

Their parameters stand at the block's key weight, whose own forward stays as it is; hooks on the attention and on the
feed-forward read them there, so that names, saving and switching adapters are those of every other method. A hook that
finds no such adapter (deleted, switched off, unloaded) does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from subspace_tuning.method import Params
from subspace_tuning.methods.on_block import OnBlock
from subspace_tuning.structure.blocks import BlockWeight, read
from subspace_tuning.structure.roles import DOWN, FEED_FORWARD
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.tuner.targets import KINDS
from subspace_tuning.weights import Unsupported

MASKED_ALIKE = ("eager", "sdpa")  # attentions whose mask is a tensor (..., queries, keys), or none


def attach(model: nn.Module, key: str, method: OnBlock) -> None:
    """Ready the block of a key weight for a method. Raises ``Unsupported`` where the block is of an unknown kind."""
    weights = {w.name: w for w in read(model)}
    if key not in weights or not KINDS["key"](weights[key]):
        raise Unsupported(f"{method.name} sits on blocks, at their key weight: leave target_modules out")
    path, _, name = key.rpartition(".")
    attention: Any = model.get_submodule(path)
    if not {"hidden_states", "attention_mask", "past_key_values"} <= set(signature(attention.forward).parameters):
        raise Unsupported(f"{method.name} puts keys in front of those of before, and {path} takes none of before")
    if hasattr(attention, "has_relative_attention_bias"):
        raise Unsupported(
            f"{method.name} puts keys in front of the first position, and {path} adds a bias by positions"
        )
    how = getattr(getattr(attention, "config", None), "_attn_implementation", None)
    if how not in MASKED_ALIKE:
        raise Unsupported(
            f"{method.name} puts keys in front of attention of the kinds {', '.join(MASKED_ALIKE)}, not {how!r}; "
            f"load the model with attn_implementation='sdpa'"
        )
    feed_forward = model.get_submodule(_feed_forward(weights[key].block, weights.values()))
    if any(isinstance(hook, _InFront) for hook in attention._forward_pre_hooks.values()):
        return
    attention.register_forward_pre_hook(_InFront(name), with_kwargs=True)
    beside = _Beside(attention, name)
    if "input_tensor" in signature(feed_forward.forward).parameters:  # BERT's: the second half, given the residual
        feed_forward.register_forward_pre_hook(beside.to_residual)
    else:
        feed_forward.register_forward_hook(beside.to_output)


def _feed_forward(block: str, weights: Iterable[BlockWeight]) -> str:
    """The module around the feed-forward of a block. Raises ``Unsupported`` where there is more than one, or none."""
    ends = [w for w in weights if w.block == block and w.role == DOWN]
    if len(ends) == 1 and ends[0].part == FEED_FORWARD and "." in ends[0].short:
        return ends[0].name.rpartition(".")[0]
    raise Unsupported(f"{block} does not keep its feed-forward in one module of its own")


def held(attention: nn.Module, name: str) -> Iterator[tuple[OnBlock, Params]]:
    """The methods at work on a block, and their parameters."""
    layer = getattr(attention, name)
    if isinstance(layer, SubspaceLayer) and not layer.disable_adapters:
        for adapter in layer.active_adapters:
            if isinstance(method := layer.methods.get(adapter), OnBlock):
                yield method, layer.params(adapter)


class _InFront:
    """Keys and values in front of an attention's own, before each of its forwards."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for method, p in held(attention, self.name):
            K, V = method.in_front(p)
            x, mask = args[0] if args else kwargs["hidden_states"], kwargs.get("attention_mask")
            length = None
            if mask is None and attention.is_causal and x.shape[1] > 1:  # what attention then does of itself
                length = x.shape[1]
                mask = torch.ones(1, 1, length, length, dtype=torch.bool, device=x.device).tril()
            cache = _Prefixed(kwargs.get("past_key_values"), K, V, length)
            kwargs = {**kwargs, "attention_mask": seen_too(mask, len(K)), "past_key_values": cache}
        return args, kwargs


def seen_too(mask: Tensor | None, more: int) -> Tensor | None:
    """A mask (batch, 1, queries, keys), boolean or added, in which every query sees ``more`` keys in front as well."""
    if mask is None:
        return None  # all is seen
    if not isinstance(mask, Tensor) or mask.dim() != 4:
        raise Unsupported(f"keys in front of attention want a mask of four dimensions or none, got {type(mask)}")
    front = (*mask.shape[:-1], more)
    return torch.cat([mask.new_ones(front) if mask.dtype == torch.bool else mask.new_zeros(front), mask], dim=-1)


class _Prefixed:
    """What attention takes for a cache: K and V, then the first ``length`` keys and values of all so far."""

    def __init__(self, cache: Any, K: Tensor, V: Tensor, length: int | None):
        self.cache, self.K, self.V, self.length = getattr(cache, "self_attention_cache", cache), K, V, length

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.cache is not None:
            keys, values = self.cache.update(keys, values, *args, **kwargs)
        return _joined(self.K, keys[:, :, : self.length]), _joined(self.V, values[:, :, : self.length])


def _joined(K: Tensor, keys: Tensor) -> Tensor:
    """K (tokens, m) split among the heads, then keys (batch, heads, positions, m / heads)."""
    batch, heads, _, width = keys.shape
    front = K.to(keys.dtype).view(-1, heads, width).transpose(0, 1)
    return torch.cat([front.expand(batch, -1, -1, -1), keys], dim=2)


class _Beside:
    """What is added to a feed-forward, of what enters it."""

    def __init__(self, attention: nn.Module, name: str):
        self.attention, self.name = attention, name

    def added(self, x: Tensor, y: Tensor) -> Tensor:
        for method, p in held(self.attention, self.name):
            y = y + method.beside(x, p)
        return y

    def to_residual(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        y, x, *further = args
        return y, self.added(x, x), *further

    def to_output(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return self.added(args[0], output)
