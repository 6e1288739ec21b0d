"""A model as it is judged: without dropout, without gradients, and afterwards as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def judged(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, then each in its own mode again."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():  # not inference mode: what modules keep of this must serve in training
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def limit_of(model: Any) -> int | None:
    """How many tokens the model can read, soft prompts taken off; None where it does not say."""
    config = model.config.get_text_config()
    known = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len"))
    limit = next((int(length) for length in known if length), None)
    peft: Any = getattr(model, "active_peft_config", None)
    return limit - peft.num_virtual_tokens if limit and getattr(peft, "is_prompt_learning", False) else limit
