"""Diff pruning: train a difference to W that becomes sparse."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from subspace_tuning.algebra import Dense, Expr, Live
from subspace_tuning.method import Constants, Method, Params, Seat, Start, zeros
from subspace_tuning.method.registry import register

SURE = 50.0  # a gate with this much certainty is open or closed, whatever is drawn


@register("diff_pruning")
@dataclass(frozen=True)
class DiffPruning(Method):
    """phi(W) = W + Z o V, Z in [0, 1]^{n x m} hard-concrete gates.

    V in R^{n x m} starts at zero. Z = clamp(S (high - low) + low, 0, 1) with S = sigmoid(logit(u) + a), a in R^{n x m}
    trained and u uniform, drawn anew for each batch; outside of training S = sigmoid(a). The loss gains l0 times the
    relaxed L0 norm, the expected number of gates that are not closed: sum sigmoid(a - log(-low / high)).
    ``structured`` multiplies Z by one more gate for the whole weight. When the share ``fixed`` of all steps is left,
    the ``share`` of entries with the largest |Z o V|, over all weights together, stay: their gates open for good, all
    others close, and V trains on. There V counts ``second`` times, which is as good as that much more learning rate:
    few entries have to move further than all of them (ours; 1 without). From there on a checkpoint stores places and
    numbers of these entries alone.
    Source: arXiv:2012.07463, sections 3.1-3.3.
    """

    share: float = 0.005
    fixed: float = 0.3
    second: float = 30.0
    l0: float = 1.25e-7
    structured: bool = False
    gate: float = 5.0
    low: float = -1.5
    high: float = 1.5

    category = "reconstruction"
    mode = "2: singular vectors, element-wise"
    formula = "2 n m + structured"
    paper = "arXiv:2012.07463"
    learning_rate = 1e-4  # of the first stage, in which all of W moves
    noisy = True
    rebuilds = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0.0 < self.share <= 1.0 and 0.0 <= self.fixed < 1.0 and self.l0 >= 0.0):
            raise ValueError(f"{self.describe()}: share in (0, 1], fixed in [0, 1) and l0 >= 0 expected")
        if not self.second > 0.0:
            raise ValueError(f"{self.describe()}: second > 0 expected, 1 for the learning rate as it is")
        if not (self.low < 0.0 and self.high > 1.0):
            raise ValueError(f"{self.describe()}: gates reach 0 and 1 only with low < 0 and high > 1")

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        whole = {"a_all": Start((1,), self._half_open)} if self.structured else {}
        return {"V": zeros(n, m), "a": Start((n, m), self._half_open), **whole}

    def _half_open(self, a: Tensor, _: Constants) -> None:
        a.fill_(self.gate)

    def phi(self, W: Expr, p: Params) -> Expr:
        gates = [p.a.numbers, p.a_all] if self.structured else [p.a.numbers]
        return W + Dense(Live.of(self._gated, p.V.numbers, gates, p.training))

    def _gated(self, V: Tensor, gates: list[Tensor], training: bool) -> Tensor:
        for a in gates:
            noise = torch.logit(torch.rand_like(a), eps=1e-6) if training else 0.0
            Z = (torch.sigmoid(a + noise) * (self.high - self.low) + self.low).clamp(0, 1)
            V = V * Z
        return torch.where(gates[0] > SURE / 2, self.second * V, V)  # open for good: a step of V goes so much further

    @property
    def needs_total(self) -> bool:
        return True

    def penalty(self, p: Params, among: int = 1) -> Tensor | None:  # each entry has its price, among however many
        if not self.l0:
            return None
        shift = log(-self.low / self.high)
        opened = torch.sigmoid(p.a.dense() - shift).sum()
        return self.l0 * (opened * torch.sigmoid(p.a_all.now() - shift).squeeze() if self.structured else opened)

    def after_step(self, seats: Sequence[Seat], step: int, total: int) -> None:
        if step != max(1, total - round(self.fixed * total)):
            return
        gates = ["a", "a_all"] if self.structured else ["a"]
        deltas = [self._gated(s.values["V"], [s.values[a] for a in gates], False) for s in seats]
        sizes = torch.cat([delta.abs().flatten().cpu() for delta in deltas])
        kept = torch.zeros_like(sizes, dtype=torch.bool)
        kept[sizes.topk(max(1, round(self.share * len(sizes)))).indices] = True
        for seat, delta, mine in zip(seats, deltas, kept.split([d.numel() for d in deltas]), strict=True):
            mine = mine.view(delta.shape).to(delta.device)
            seat.values["V"].copy_(delta * mine / self.second)
            seat.values["a"].copy_(torch.where(mine, SURE, -SURE))
            if self.structured:
                seat.values["a_all"].fill_(SURE)

    def packed(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        if values["a"].is_meta or not bool((values["a"].abs() > SURE / 2).all()):
            return values
        places = (values["a"] > 0).flatten().nonzero().squeeze(1)
        return {"places": places, "v": values["V"].flatten()[places]}

    def unpacked(self, values: dict[str, Tensor], constants: Constants, n: int, m: int) -> dict[str, Tensor]:
        if "places" not in values:
            return values
        places, v = values["places"], values["v"]
        dense = {"V": v.new_zeros(n * m).index_put((places,), v), "a": v.new_full((n * m,), -SURE)}
        dense["a"][places] = SURE
        whole = {"a_all": v.new_full((1,), SURE)} if self.structured else {}
        return {name: value.view(n, m) for name, value in dense.items()} | whole
