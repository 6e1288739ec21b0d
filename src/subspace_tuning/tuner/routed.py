"""The rows of a batch, each handed to the adapter that is named for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from subspace_tuning.tuner.layer import BASE, SubspaceLayer


def copies(model: nn.Module, kwargs: dict[str, Any]) -> int:
    """How often generation repeats each sample of a batch, by its own arguments or else by the model's."""
    config = kwargs.get("generation_config") or getattr(model, "generation_config", None)
    said = (kwargs.get(name) or getattr(config, name, None) for name in ("num_beams", "num_return_sequences"))
    return max(times or 1 for times in said)


@contextmanager
def routed(model: nn.Module, names: Sequence[str], copies: int = 1) -> Iterator[None]:
    """Within this, each row of a batch goes by the adapter that is named for it, and by that one's head.

    A batch may also hold each sample ``copies`` times, one after the other (beams).
    """
    of = partial(_for_rows, names, copies)
    seats = [m for m in model.modules() if isinstance(m, SubspaceLayer)]
    handles = [seat.register_forward_pre_hook(partial(_with_names, of), with_kwargs=True) for seat in seats]
    heads = [m for m in model.modules() if isinstance(m, ModulesToSaveWrapper)]
    handles += [head.register_forward_hook(partial(_by_own_head, of), with_kwargs=True) for head in heads]
    for seat in seats:
        seat.by_row = True
    try:
        yield
    finally:
        for seat in seats:
            seat.by_row = False
        for handle in handles:
            handle.remove()


def _for_rows(names: Sequence[str], copies: int, x: Tensor) -> Sequence[str]:
    return [name for name in names for _ in range(copies)] if len(x) == copies * len(names) else names


def _with_names(of: Callable[[Tensor], Sequence[str]], layer: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    return args, {**kwargs, "adapter_names": of(args[0])}


def _by_own_head(of: Callable[[Tensor], Sequence[str]], wrapper: Any, args: Any, kwargs: Any, output: Tensor) -> Tensor:
    (x,), names = args, of(args[0])
    rows = {name: [i for i, other in enumerate(names) if other == name] for name in dict.fromkeys(names)}
    heads = {BASE: wrapper.original_module, **dict(wrapper.modules_to_save.items())}
    done = torch.cat([heads[name](x[own], **kwargs) for name, own in rows.items()])
    return done[torch.tensor([i for own in rows.values() for i in own]).argsort().to(done.device)]
