"""What a backward pass needs of a tensor x, kept in the cheapest way: x itself, or what its maker keeps of it anyway.

The output of a layer norm or of an activation need not be kept by those who read it, because its maker keeps what it
was made from; x is made again from that, by one pass over memory. Autograd shows what a maker keeps as the attributes
``_saved_...`` of ``x.grad_fn``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Way(NamedTuple):
    """x = make(*sources)."""

    make: Callable[..., Tensor]
    sources: tuple[Tensor | None, ...]


def keep(ctx: Any, x: Tensor, *others: Tensor | None) -> None:
    """Save x, or the way to it, and the others for the backward pass of a function."""
    way = way_to(x) or Way(lambda x: x, (x,))
    ctx.make, ctx.dtype, ctx.count = way.make, x.dtype, len(way.sources)
    ctx.save_for_backward(*way.sources, *others)


def kept(ctx: Any) -> tuple[Any, ...]:
    """x and the others."""
    saved = ctx.saved_tensors
    x = ctx.make(*saved[: ctx.count]).to(ctx.dtype)  # mixed precision may be off by now
    return x, *saved[ctx.count :]


def way_to(x: Tensor) -> Way | None:
    """How to make x again from what its maker keeps; None where the maker keeps nothing, or not enough.

    A tensor that was written into is no longer what its maker made.
    """
    if x.grad_fn is None or x.output_nr != 0 or x._version or _unpacked_once():
        return None
    return _from(x.grad_fn)


def _unpacked_once() -> bool:
    """Whether what makers save can be read only once, or dearly: torch's own hooks, of checkpoints or offloading."""
    look = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    if look is None:  # a torch that does not tell: better safe
        return True
    hooks = look(True)
    return hooks is not None and str(getattr(hooks[0], "__module__", "")).partition(".")[0] == "torch"


def _from(node: Any) -> Way | None:
    rule = RULES.get(node.name())
    try:
        return None if rule is None else rule(node)
    except (AttributeError, RuntimeError):  # a torch whose makers call it by other names; kept tensors written into
        return None


def _layer_norm(node: Any) -> Way:
    sources = (node._saved_input, node._saved_result1, node._saved_result2, node._saved_weight, node._saved_bias)
    return Way(_normalised, sources)


def _normalised(u: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """(u - mean) rstd weight + bias."""
    if torch.is_grad_enabled():  # what is saved of mean and rstd are constants: make them again as functions of u
        dims = [d for d in range(u.dim()) if mean.shape[d] == 1 != u.shape[d]]
        var, mean = torch.var_mean(u, dims, correction=0, keepdim=True)
        rstd = (var + (rstd**-2 - var).detach()).rsqrt()
        y = (u - mean) * rstd
    else:
        y = torch.sub(u, mean).mul_(rstd)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _gelu(node: Any) -> Way:
    approximate = node._saved_approximate
    return Way(lambda u: F.gelu(u, approximate=approximate), (node._saved_self,))


def _silu(node: Any) -> Way:
    return Way(F.silu, (node._saved_self,))


def _times(node: Any) -> Way | None:
    """a b, either of which may have to be made again itself."""
    a, b = (
        Way(lambda u: u, (saved,)) if isinstance(saved, Tensor) else _before(node, k)
        for k, saved in enumerate((node._saved_self, node._saved_other))
    )
    if a is None or b is None:
        return None
    cut, left, right = len(a.sources), a.make, b.make
    return Way(lambda *s: left(*s[:cut]) * right(*s[cut:]), (*a.sources, *b.sources))


def _viewed(node: Any) -> Way | None:
    shape = tuple(node._input_metadata[0].shape)
    return _then(_before(node), lambda t: t.reshape(shape))


def _cast(node: Any) -> Way | None:
    dtype = node._input_metadata[0].dtype
    return _then(_before(node), lambda t: t.to(dtype))


def _before(node: Any, k: int = 0) -> Way | None:
    """The way to the k-th input of a node."""
    maker, output = node.next_functions[k] if k < len(node.next_functions) else (None, 0)
    return None if maker is None or output != 0 else _from(maker)


def _then(way: Way | None, last: Callable[[Tensor], Tensor]) -> Way | None:
    if way is None:
        return None
    first = way.make
    return Way(lambda *s: last(first(*s)), way.sources)


RULES: dict[str, Callable[[Any], Way | None]] = {
    "NativeLayerNormBackward0": _layer_norm,
    "GeluBackward0": _gelu,
    "SiluBackward0": _silu,
    "MulBackward0": _times,
    "ViewBackward0": _viewed,
    "UnsafeViewBackward0": _viewed,
    "ToCopyBackward0": _cast,
}
