"""What is drawn at random in a run follows from its seed and from where it stands, not from what happened before.

A run that goes on from a checkpoint therefore draws what it would have drawn undisturbed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler, Subset
from transformers.trainer_pt_utils import get_length_grouped_indices


def seed_of(seed: int, what: str, number: int) -> int:
    """A seed for one step or one epoch, below 2^32."""
    told = f"{seed} {what} {number}".encode()
    return int.from_bytes(hashlib.blake2b(told, digest_size=4).digest(), "little")


class Order(Sampler[int]):
    """The order of the rows in an epoch; with ``lengths``, rows of like length stand together."""

    def __init__(self, rows: int, seed: int, lengths: Sequence[int] | None = None, batch_size: int = 1):
        self.rows, self.seed, self.lengths, self.batch_size = rows, seed, lengths, batch_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        drawn = torch.Generator().manual_seed(seed_of(self.seed, "epoch", self.epoch))
        if self.lengths is None:
            return iter(torch.randperm(self.rows, generator=drawn).tolist())
        return iter(get_length_grouped_indices(list(self.lengths), self.batch_size, generator=drawn))


def by_length(rows: Any) -> Any:
    """Inputs to judge by, the longest first: batches are even, and memory that is short runs out at once."""
    lengths = [len(row.get("input_ids", ())) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: -lengths[i])
    return [rows[i] for i in order] if isinstance(rows, list) else Subset(rows, order)  # of rows on the disk no copy
