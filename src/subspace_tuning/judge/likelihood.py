"""Log-probabilities of judged tokens under a causal language model, of sequences in groups that begin alike.

A group goes through the model as one sequence in which each token sees only what it follows (a tree of tokens, as in
speculative decoding: SpecInfer, arXiv:2305.09781), so that keys and values of a shared beginning are computed once.
The head sees only the places that a judged token follows. Models that take no such mask read sequence by sequence.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from subspace_tuning.judge import trie
from subspace_tuning.judge.ready import embedding, known, numbers
from subspace_tuning.judge.trie import Trie

Progress = Callable[[int, int], None]  # done, of so many (rows, or windows of long ones)
Group = Sequence[trie.Sequence]
HEAD_ROWS = 1024  # rows of logits at once: 200 MB with a vocabulary of 49,152
CHUNK = 256  # of which so many are turned into float32 at once
AGREES = {torch.float32: 1e-3, torch.float64: 1e-6}  # nats a token; of shared and single reading
AGREES_ROUNDED = 0.25


@dataclass
class Likelihood:
    """Reads groups of sequences; ``batch_tokens`` bounds the tokens of a batch, padding included."""

    model: nn.Module
    batch_tokens: int = 4096

    def __post_init__(self) -> None:
        self.shares = _takes_trees(self.model)

    def __call__(self, groups: Sequence[Group], progress: Progress | None = None) -> list[list[NDArray[np.float64]]]:
        """Of each group, of each sequence: the log-probabilities (nats) of its judged tokens."""
        if self.shares and any(len(group) > 1 for group in groups):
            self.shares = self._agrees(max((group for group in groups if len(group) > 1), key=_size))
        parts = [
            (at, part) for at, group in enumerate(groups) for part in ([group] if self.shares else [[s] for s in group])
        ]
        tries = [Trie.of(part) for _, part in parts]
        if any((one.parents[one.asked] < 0).any() for one in tries):
            raise ValueError("a first token follows nothing and cannot be judged: see judge.ready.opened")
        told: dict[int, list[NDArray[np.float64]]] = {}
        open_parts = Counter(at for at, _ in parts)
        for batch in _packed(tries, self.batch_tokens):
            read = self.read([tries[i] for i in batch])
            told |= {i: tries[i].told(log_probs) for i, log_probs in zip(batch, read, strict=True)}
            open_parts.subtract(parts[i][0] for i in batch)
            if progress is not None:
                progress(sum(left == 0 for left in open_parts.values()), len(groups))
        found: list[list[NDArray[np.float64]]] = [[] for _ in groups]
        for i, (at, _) in enumerate(parts):
            found[at] += told[i]
        return found

    def _agrees(self, group: Group) -> bool:
        """Whether the model reads a tree, the longest, as its sequences one by one: some ignore masks or positions."""
        try:
            [tree] = self.read([Trie.of(group)])
        except (TypeError, ValueError, RuntimeError):
            return False
        together = Trie.of(group).told(tree)
        alone = [Trie.of([one]) for one in group]
        singly = [one.told(read)[0] for one, read in zip(alone, self.read(alone), strict=True)]
        apart = max(float(np.abs(a - b).max(initial=0)) for a, b in zip(together, singly, strict=True))
        return apart < self._tolerance()

    def _tolerance(self) -> float:
        device = embedding(self.model).device.type
        if torch.is_autocast_enabled(device):
            return AGREES_ROUNDED
        return AGREES.get(embedding(self.model).dtype, AGREES_ROUNDED)

    def read(self, tries: Sequence[Trie]) -> list[NDArray[np.float64]]:
        """Log-probabilities of every asked node of each trie, 0 for the others, in one batch."""
        length = max(one.read for one in tries)
        ids = torch.zeros(len(tries), length, dtype=torch.long)
        for row, one in enumerate(tries):
            ids[row, : one.read] = torch.from_numpy(one.ids[: one.read])
            known(self.model, torch.from_numpy(one.ids))
        weight = embedding(self.model)
        inputs = {"input_ids": ids.to(weight.device), "use_cache": False}
        inputs |= _single(tries, length, weight) if all(one.is_line for one in tries) else _tree(tries, length, weight)
        places, targets = _asked(tries, length)
        rows = np.unique(places)  # each place once, however many tokens follow it
        logits = numbers(_logits_at(self.model, torch.from_numpy(rows).to(weight.device), length, inputs))
        log_probs = _chosen(logits, np.searchsorted(rows, places), targets)
        found, first = [], 0
        for one in tries:
            asked = one.asked
            values = np.zeros(len(one))
            values[asked] = log_probs[first : first + len(asked)]
            first += len(asked)
            found.append(values)
        return found


def _size(group: Group) -> int:
    return sum(len(one.ids) for one in group)


def _packed(tries: Sequence[Trie], tokens: int) -> Iterator[list[int]]:
    """Batches of like length, the longest first: what does not fit into memory fails at once."""
    batch: list[int] = []
    rows = 0
    for at in sorted(range(len(tries)), key=lambda at: -tries[at].read):
        more = len(tries[at].asked)
        if batch and ((len(batch) + 1) * tries[batch[0]].read > tokens or rows + more > HEAD_ROWS):
            yield batch
            batch, rows = [], 0
        batch.append(at)
        rows += more
    if batch:
        yield batch


def _asked(tries: Sequence[Trie], length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each asked node the place of its parent in the batch laid flat, and its own id."""
    places = [one.parents[one.asked] + row * length for row, one in enumerate(tries)]
    return np.concatenate(places), np.concatenate([one.ids[one.asked] for one in tries])


def _single(tries: Sequence[Trie], length: int, weight: Tensor) -> dict[str, Tensor]:
    """Padding on the right is never seen by what stands before it."""
    lengths = torch.tensor([one.read for one in tries])
    return {"attention_mask": (torch.arange(length)[None] < lengths[:, None]).long().to(weight.device)}


def _tree(tries: Sequence[Trie], length: int, weight: Tensor) -> dict[str, Tensor]:
    sees = torch.eye(length, dtype=torch.bool).repeat(len(tries), 1, 1)  # padding sees itself: no row sees nothing
    depths = torch.zeros(len(tries), length, dtype=torch.long)
    for row, one in enumerate(tries):
        sees[row, : one.read, : one.read] = torch.from_numpy(one.sees())
        depths[row, : one.read] = torch.from_numpy(one.depths[: one.read])
    dtype = weight.dtype
    hidden = torch.zeros(sees.shape, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)
    return {"attention_mask": hidden[:, None].to(weight.device), "position_ids": depths.to(weight.device)}


def _logits_at(model: Any, rows: Tensor, length: int, inputs: dict[str, Any]) -> Tensor:
    """Logits (rows, vocabulary) at places of the batch laid flat; the head, where it is a module, sees no others."""
    head = model.get_output_embeddings()
    seen = False

    def keep(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal seen
        seen = True
        states = args[0][:, -length:]  # soft prompts stand in front
        return (states.reshape(-1, states.shape[-1])[rows.to(states.device)][None], *args[1:])

    hook = head.register_forward_pre_hook(keep) if head is not None else None
    try:
        logits = model(**inputs).logits
    finally:
        if hook is not None:
            hook.remove()
    return logits[0] if seen else logits[:, -length:].reshape(-1, logits.shape[-1])[rows.to(logits.device)]


def _chosen(logits: Tensor, rows: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """log softmax of logits, in float32 at least, at (row, target)."""
    totals = torch.cat([part.to(_wide(part)).logsumexp(-1) for part in logits.split(CHUNK)])
    at, chosen = torch.from_numpy(rows).to(logits.device), torch.from_numpy(targets).to(logits.device)
    return (logits[at, chosen].to(totals.dtype) - totals[at]).double().cpu().numpy()


def _wide(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _takes_trees(model: Any) -> bool:
    """Whether a mask of one's own and positions can be given at all; that they are heeded is tried out."""
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        return False
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    takes = inspect.signature(base.forward).parameters
    implementation = getattr(base.config, "_attn_implementation", None)
    return {"position_ids", "attention_mask"} <= set(takes) and implementation in ("eager", "sdpa")
