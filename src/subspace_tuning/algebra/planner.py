"""The order of products that costs least: matrix-chain planning for ``x @ E1 E2 ... Ek``.

The chain is [x, E1, ..., Ek], x with one row per token. Every way of bracketing it is a plan; its cost counts
multiplications and additions of the forward pass and, in training, of the gradients that the backward pass needs. Two
rules keep a plan affordable:

* factors that only act on rows (the frozen layer's forward, a nonlinearity, a sum) are never multiplied without x;
* in training no product of factors alone may hold more numbers than its factors train: its gradient would be dense.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple


class Factor(NamedTuple):
    """What the planner knows of one factor."""

    kind: str  # dense | diag | sparse | opaque; the last two only act on rows
    n: int
    m: int
    trainable: int = 0
    inner: tuple[Factor, ...] = ()
    rule: str = ""  # how the inner factors combine: chain | sum
    entries: int = 0  # of a sparse one

    @classmethod
    def chain(cls, inner: tuple[Factor, ...], n: int, m: int, trainable: int) -> Factor:
        return cls("opaque", n, m, trainable, inner, "chain")

    @classmethod
    def sum(cls, inner: tuple[Factor, ...], n: int, m: int, trainable: int) -> Factor:
        return cls("opaque", n, m, trainable, inner, "sum")

    def on_rows(self, tokens: int, training: bool) -> int:
        """FLOPs of rows times this factor; rows are assumed to carry a gradient in training."""
        if self.rule == "chain":
            return cheapest_order(tokens, self.inner, training).flops
        if self.rule == "sum":
            adds = (len(self.inner) - 1) * tokens * self.m
            return adds + sum(f.on_rows(tokens, training) for f in self.inner)
        forward = {"diag": tokens * self.n, "sparse": 2 * tokens * self.entries}.get(
            self.kind, 2 * tokens * self.n * self.m
        )
        return forward * (1 + training + (training and self.trainable > 0))


class Plan(NamedTuple):
    """A bracketing: a leaf (``leaf`` 0 is x, k is the k-th factor) or a product of two plans."""

    leaf: int | None = None
    left: Plan | None = None
    right: Plan | None = None
    flops: int = 0

    @classmethod
    def left_to_right(cls, count: int) -> Plan:
        plan = cls(0)
        for k in range(1, count + 1):
            plan = cls(None, plan, cls(k))
        return plan

    def sides(self) -> tuple[Plan, Plan]:
        """The two plans of a product."""
        if self.left is None or self.right is None:
            raise ValueError(f"{self} is a single factor, not a product")
        return self.left, self.right

    def ends_with(self, index: int) -> bool:
        """Whether the last thing this plan does is to meet that factor."""
        return self.right is not None and self.right.leaf == index

    def __str__(self) -> str:
        if self.leaf is not None:
            return "x" if self.leaf == 0 else f"E{self.leaf}"
        return f"({self.left} {self.right})"


class _Block(NamedTuple):
    plan: Plan
    cost: int
    diag: bool
    trainable: int


@lru_cache(maxsize=4096)
def cheapest_order(tokens: int, factors: tuple[Factor, ...], training: bool) -> Plan:
    """The plan with the fewest FLOPs for ``x E1 ... Ek``, x with ``tokens`` rows; ties go left to right."""
    k = len(factors)
    best: dict[tuple[int, int], _Block] = {}
    for i, f in enumerate(factors, 1):
        if f.kind in ("dense", "diag"):
            best[i, i + 1] = _Block(Plan(i), 0, f.kind == "diag", f.trainable)
    best[0, 1] = _Block(Plan(0), 0, False, 0)

    for width in range(2, k + 2):
        for i in range(0, k + 2 - width):
            j = i + width
            options = (_join(best, factors, i, s, j, tokens, training) for s in range(j - 1, i, -1))
            found = min((o for o in options if o is not None), key=lambda b: b.cost, default=None)
            if found is not None:
                best[i, j] = found
    whole = best[0, k + 1]
    return whole.plan._replace(flops=whole.cost)


def _join(best, factors: tuple[Factor, ...], i: int, s: int, j: int, tokens: int, training: bool) -> _Block | None:
    """The best plan for the block [i, j) split at s, or None where the rules forbid it."""
    left, last = best.get((i, s)), factors[s - 1]
    if left is None:
        return None
    if i == 0 and j == s + 1:
        cost = left.cost + last.on_rows(tokens, training)
        return _Block(Plan(None, left.plan, Plan(s)), cost, False, left.trainable + last.trainable)
    right = best.get((s, j))
    if right is None:
        return None
    trainable = left.trainable + right.trainable
    rows = tokens if i == 0 else factors[i - 1].n
    inner, cols = last.n, factors[j - 2].m
    if left.diag and right.diag:
        return None
    if i > 0 and training and trainable and rows * cols > trainable:
        return None
    once = rows * cols if left.diag or right.diag else 2 * rows * inner * cols
    gradients = 0
    if training:
        gradients = (1 if i == 0 else left.trainable > 0) + (right.trainable > 0)
    cost = left.cost + right.cost + once * (1 + gradients)
    return _Block(Plan(None, left.plan, right.plan), cost, False, trainable)
