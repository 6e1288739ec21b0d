"""A conversation with a language model, answer by answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import TextStreamer

from subspace_tuning.errors import BadInput
from subspace_tuning.judge.generate import ends_of
from subspace_tuning.judge.ready import judged, limit_of
from subspace_tuning.rows.encode import tokens
from subspace_tuning.rows.forms import ASSISTANT, USER
from subspace_tuning.rows.spans import Kind, Span, written


class Chat:
    """What was said so far. The oldest turns go when the model can read no more."""

    def __init__(self, model: Any, tokenizer: Any, max_new_tokens: int = 256, temperature: float = 0.0):
        self.model, self.tokenizer = model, tokenizer
        self.max_new_tokens, self.temperature = max_new_tokens, temperature
        self.turns: list[tuple[str, str]] = []

    def reset(self) -> None:
        self.turns = []

    def say(self, text: str, write: Callable[[str], None]) -> str:
        """The answer; ``write`` gets its pieces as they come. Ctrl-C ends it, and what was said by then stands."""
        self.turns.append((USER, text))
        streamed = _Pieces(self.tokenizer, write)
        try:
            ids = self._prompt()
            with judged(self.model):
                self.model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=self.max_new_tokens,
                    streamer=streamed,
                    pad_token_id=self.tokenizer.pad_token_id,
                    eos_token_id=ends_of(self.model, self.tokenizer) or None,
                    **self._how(),
                )
        except KeyboardInterrupt:
            pass
        except BaseException:
            self.turns.pop()
            raise
        self.turns.append((ASSISTANT, streamed.text.strip()))
        return streamed.text

    def _how(self) -> dict[str, Any]:
        if self.temperature == 0:
            return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        return {"do_sample": True, "temperature": self.temperature}

    def _prompt(self) -> torch.Tensor:
        limit = limit_of(self.model)
        while True:
            text = written(tuple(self.turns), self.tokenizer, opens=True)
            [(ids, _)] = tokens([[Span(text, Kind.PROMPT)]], self.tokenizer)
            if limit is None or len(ids) + self.max_new_tokens <= limit:
                return torch.from_numpy(ids).long()[None].to(self.model.get_input_embeddings().weight.device)
            if len(self.turns) == 1:
                raise BadInput(
                    f"this has {len(ids)} tokens; with --max-new-tokens {self.max_new_tokens} that is more than the "
                    f"{limit} that the model reads"
                )
            self.turns = self.turns[2:]


class _Pieces(TextStreamer):
    """Hands text on as soon as it cannot change any more."""

    def __init__(self, tokenizer: Any, write: Callable[[str], None]):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.write, self.text = write, ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.text += text
        self.write(text)
