"""Sequences that begin alike, as one: every prefix that some share stands, and is computed, once."""

from __future__ import annotations

from collections.abc import Sequence as Sequences
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Sequence(NamedTuple):
    """Token ids, and which of them are judged: their log-probability, given all before, is asked for."""

    ids: NDArray[np.int32]
    judged: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Trie:
    """The distinct prefixes of some sequences as nodes, parents before children, those that nothing follows last.

    ids, parents, depths: of each node (a first token has the parent -1). paths: of each sequence its nodes.
    """

    ids: NDArray[np.int64]
    parents: NDArray[np.int64]
    depths: NDArray[np.int64]
    paths: list[NDArray[np.int64]]
    judged: list[NDArray[np.bool_]]

    @staticmethod
    def of(sequences: Sequences[Sequence]) -> Trie:
        if len(sequences) == 1:
            [line] = sequences
            depths = np.arange(len(line.ids), dtype=np.int64)
            return Trie(line.ids.astype(np.int64), depths - 1, depths, [depths], [line.judged])
        known: dict[tuple[int, int], int] = {}  # parent and id -> node
        ids: list[int] = []
        parents: list[int] = []
        places: list[int] = []
        paths: list[NDArray[np.int64]] = []
        for sequence in sequences:
            node = -1
            path: list[int] = []
            for depth, token in enumerate(sequence.ids.tolist()):
                at = known.setdefault((node, token), len(ids))
                if at == len(ids):
                    ids.append(token)
                    parents.append(node)
                    places.append(depth)
                node = at
                path.append(node)
            paths.append(np.array(path, dtype=np.int64))
        order, place = _leaves_last(np.array(parents))
        above = np.append(place, -1)[parents]  # the parent -1 stays -1
        paths, judged = [place[path] for path in paths], [sequence.judged for sequence in sequences]
        return Trie(np.array(ids)[order], above[order], np.array(places)[order], paths, judged)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def asked(self) -> NDArray[np.int64]:
        """The nodes of which a log-probability is asked for, each once."""
        return np.unique(np.concatenate([path[judged] for path, judged in zip(self.paths, self.judged, strict=True)]))

    @cached_property
    def read(self) -> int:
        """So many nodes, the first, have to be read; of the rest only the probability can be asked for."""
        return max(1, int(self.parents.max()) + 1)

    @property
    def is_line(self) -> bool:
        return len(self.paths) == 1

    def sees(self) -> NDArray[np.bool_]:
        """(read, read): each node that is read sees itself and what it follows."""
        seen = np.eye(self.read, dtype=bool)
        for node, parent in enumerate(self.parents[: self.read]):
            if parent >= 0:
                seen[node] |= seen[parent]
        return seen

    def told(self, log_probs: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """From a number for each node to those of each sequence's judged tokens."""
        return [log_probs[path[judged]] for path, judged in zip(self.paths, self.judged, strict=True)]


def _leaves_last(parents: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Nodes in their new order, and of each node its new place."""
    leaf = np.ones(len(parents), dtype=bool)
    leaf[parents[parents >= 0]] = False
    order = np.argsort(leaf, kind="stable")
    return order, np.argsort(order)
