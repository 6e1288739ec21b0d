"""Texts that a model writes after prompts: greedy, in batches padded on the left, up to eos or a stop string."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from subspace_tuning.judge.ready import embedding, known, numbers

Progress = Callable[[int, int], None]


class Numbers(LogitsProcessor):
    """The largest of logits that are no numbers is none of them."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return numbers(scores)


class Stops(StoppingCriteria):
    """Ends each row once it has written one of the strings."""

    def __init__(self, tokenizer: Any, stops: Sequence[str], first: int):
        self.tokenizer, self.stops, self.first = tokenizer, stops, first
        self.reach = max(len(stop.encode()) for stop in stops) + 4  # tokens: one has a byte at least

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        tail = input_ids[:, max(self.first, input_ids.shape[1] - self.reach) :]
        texts = [self.tokenizer.decode(row) for row in tail]
        done = [any(stop in text for stop in self.stops) for text in texts]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[NDArray[np.int32]],
    *,
    max_new_tokens: int,
    batch_size: int,
    stops: Sequence[str] = (),
    progress: Progress | None = None,
) -> list[str]:
    """What the model writes after each prompt, without the stop string and what follows it."""
    texts: dict[int, str] = {}
    for batch in _batches(model, [len(prompt) for prompt in prompts], batch_size):
        written = _batch(model, tokenizer, [prompts[at] for at in batch], max_new_tokens, stops)
        texts |= dict(zip(batch, written, strict=True))
        if progress is not None:
            progress(len(texts), len(prompts))
    return [texts[at] for at in range(len(prompts))]


def _batches(model: Any, lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Rows of like length, the longest first; of one length under soft prompts, which padding would stand behind."""
    alike = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)
    batch: list[int] = []
    for at in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        if batch and (len(batch) == size or (alike and lengths[at] != lengths[batch[0]])):
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch


def ends_of(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer: the model's and the tokenizer's."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = own if isinstance(own, list) else [own]
    return sorted({end for end in (*ends, tokenizer.eos_token_id) if end is not None})


def _batch(
    model: Any, tokenizer: Any, prompts: Sequence[NDArray[np.int32]], max_new_tokens: int, stops: Sequence[str]
) -> list[str]:
    ends = ends_of(model, tokenizer)
    padding = next((i for i in (tokenizer.pad_token_id, *ends) if i is not None), 0)
    length = max(map(len, prompts))
    ids = torch.full((len(prompts), length), padding)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :] = torch.from_numpy(prompt)
        mask[row, length - len(prompt) :] = 1
    known(model, ids)
    device = embedding(model).device
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=padding,
        repetition_penalty=1.0,
        use_cache=True,
    )
    out = model.generate(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        generation_config=config,
        logits_processor=LogitsProcessorList([Numbers()]),
        stopping_criteria=StoppingCriteriaList([Stops(tokenizer, stops, length)] if stops else []),
    )
    return [_text(tokenizer, row.tolist(), ends, stops) for row in out[:, length:]]


def _text(tokenizer: Any, ids: list[int], ends: list[int], stops: Sequence[str]) -> str:
    end = next((at for at, token in enumerate(ids) if token in ends), len(ids))
    text = tokenizer.decode(ids[:end], skip_special_tokens=True)
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]
