"""Ranks by water-filling: each direction of G goes where it holds the most energy for a parameter.

A low-rank extension of rank r_l on layer l holds at most the r_l largest squared singular values of G_l, and costs
r_l (n_l + m_l). All directions stand in one line by energy over cost, and are taken until the budget is spent, as water
fills what is lowest first. No other ranks that cost as much hold more, up to the last direction that did not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappop, heappush
from typing import Any

import torch
from torch import Tensor

from subspace_tuning.advise.gradients import Seat

Spectra = Mapping[str, Tensor]  # squared singular values of G (k,), descending, by layer
Costs = Mapping[str, int]  # parameters of one rank
SHARE = 0.9  # of the energy, which a suggested rank holds


def spectra(seats: list[Seat]) -> dict[str, Tensor]:
    """Of the weights among the seats."""
    return {s.name: _energies(s.G.double()) for s in seats if s.G is not None}


def _energies(G: Tensor) -> Tensor:
    """The squared singular values of G (n, m), by its smaller Gram matrix."""
    gram = G @ G.T if G.shape[0] <= G.shape[1] else G.T @ G
    return torch.linalg.eigvalsh(gram).flip(0).clamp_min(0)


def fill(energies: Spectra, costs: Costs, budget: int) -> dict[str, int]:
    """Ranks above zero that spend at most the budget."""
    ranks: dict[str, int] = dict.fromkeys(energies, 0)
    line: list[tuple[float, str]] = []
    for name in energies:
        _join(line, name, energies[name], 0, costs[name])
    while line:
        _, name = heappop(line)
        if costs[name] > budget:  # and so is every further rank of this layer
            continue
        budget -= costs[name]
        ranks[name] += 1
        _join(line, name, energies[name], ranks[name], costs[name])
    return {name: r for name, r in ranks.items() if r}


def _join(line: list[tuple[float, str]], name: str, energies: Tensor, at: int, cost: int) -> None:
    if at < len(energies) and energies[at] > 0:
        heappush(line, (-energies[at].item() / cost, name))


def uniform(energies: Spectra, costs: Costs, budget: int) -> dict[str, int]:
    """The same rank on all layers, as large as the budget allows, which may be none."""
    r = budget // sum(costs[name] for name in energies)
    return {name: min(r, len(energies[name])) for name in energies if r}


def held(energies: Spectra, ranks: Mapping[str, int]) -> float:
    """The share of all energy within these ranks."""
    whole = sum(e.sum().item() for e in energies.values())
    return sum(energies[name][:r].sum().item() for name, r in ranks.items()) / whole


def least_rank(energies: Spectra, share: float = SHARE) -> int:
    """The least rank, the same on all layers, that holds so much of the energy."""
    longest = max(len(e) for e in energies.values())
    total = sum(torch.nn.functional.pad(e, (0, longest - len(e))) for e in energies.values())
    lines = torch.as_tensor(total).cumsum(0)
    return 1 + int((lines < share * lines[-1]).sum())


def pattern(ranks: Mapping[str, int], modules: Mapping[str, str], alpha_per_rank: float) -> dict[str, Any]:
    """The fields of a recipe, or of SubspaceConfig, that give each layer its rank at one scale s = alpha / r.

    modules: of each layer, the name that a config knows it by; fused experts take the largest of their ranks.
    """
    of_module: dict[str, int] = {}
    for name, r in ranks.items():
        of_module[modules[name]] = max(r, of_module.get(modules[name], 0))
    return {
        "target_modules": list(of_module),
        "rank_pattern": of_module,
        "alpha_pattern": {name: alpha_per_rank * r for name, r in of_module.items()},
    }
