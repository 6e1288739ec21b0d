"""What has been made of rows, kept in memory under a hash of all that it was made from."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """The results last used, at most ``size`` of them."""

    def __init__(self, size: int = 8):
        self.size = size
        self._held: OrderedDict[str, T] = OrderedDict()

    def get(self, made_from: list[Any], make: Callable[[], T]) -> T:
        key = digest(made_from)
        if key not in self._held:
            self._held[key] = make()
            while len(self._held) > self.size:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        return self._held[key]


def digest(of: Any) -> str:
    return hashlib.sha256(json.dumps(of, sort_keys=True, default=str).encode()).hexdigest()


def fingerprint(tokenizer: Any) -> str:
    """A hash of all that decides how a tokenizer encodes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
    return digest([type(tokenizer).__name__, vocabulary, tokenizer.special_tokens_map, tokenizer.chat_template])
