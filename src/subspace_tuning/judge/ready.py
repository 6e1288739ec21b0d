"""What is judged, made ready: the model without dropout and gradients (and afterwards as it was), and what it reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from subspace_tuning.errors import BadInput, RunFailed


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


def embedding(model: Any) -> Tensor:
    """The weight that token ids meet first; its device is the inputs' device."""
    return model.get_input_embeddings().weight


def known(model: Any, ids: Tensor) -> None:
    """Raises BadInput for token ids that the model has no embedding of."""
    size = embedding(model).shape[0]
    if int(ids.max()) >= size:
        raise BadInput(
            f"the tokenizer gives the token {int(ids.max())}, and the model knows {size} tokens: they do not belong "
            "together; load the tokenizer from the model's folder"
        )


def opened(
    ids: NDArray[np.int32], asked: NDArray[np.bool_], tokenizer: Any
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Ids and what is judged; a first token that is follows bos, or eos, with which models learn that a text begins."""
    if not asked[0]:
        return ids, asked
    opens = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if opens is None:
        raise BadInput(
            "the tokenizer has neither a bos nor an eos token, so that the first token of a text follows nothing; "
            "set tokenizer.bos_token"
        )
    return np.concatenate([[opens], ids]).astype(np.int32), np.concatenate([[False], asked])


def numbers(logits: Tensor) -> Tensor:
    """The logits. Raises RunFailed where they are none."""
    if logits.isnan().any():
        raise RunFailed(
            "the model's logits are not numbers (NaN), so that it cannot be judged: its training diverged, or "
            "its dtype is too narrow (float16; take bfloat16)"
        )
    return logits
