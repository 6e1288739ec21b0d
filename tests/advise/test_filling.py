"""Water-filling is the best use of a budget."""

from itertools import product

import pytest
import torch

from subspace_tuning.advise.filling import fill, held, least_rank, pattern, uniform


def spectrum(*values):
    return torch.tensor(sorted(values, reverse=True), dtype=torch.float64)


def cost_of(ranks, costs):
    return sum(costs[name] * r for name, r in ranks.items())


def best(energies, costs, budget):
    """By trying all ranks."""
    names = list(energies)
    every = product(*(range(len(energies[name]) + 1) for name in names))
    allowed = (dict(zip(names, ranks, strict=True)) for ranks in every)
    return max(held(energies, ranks) for ranks in allowed if cost_of(ranks, costs) <= budget)


@pytest.mark.parametrize("seed", range(4))
def test_no_other_ranks_hold_more_for_as_many_parameters(seed):
    torch.manual_seed(seed)
    energies = {name: spectrum(*torch.rand(4).square().tolist()) for name in "abc"}
    equal, unequal = dict.fromkeys("abc", 3), {"a": 2, "b": 3, "c": 5}
    whole = sum(e.sum().item() for e in energies.values())
    for budget in range(0, 40, 3):
        filled = fill(energies, equal, budget)
        assert cost_of(filled, equal) <= budget
        assert held(energies, filled) == pytest.approx(best(energies, equal, budget))
        filled = fill(energies, unequal, budget)
        assert cost_of(filled, unequal) <= budget
        nexts = [energies[name][filled.get(name, 0)].item() for name in "abc" if filled.get(name, 0) < 4]
        assert held(energies, filled) >= best(energies, unequal, budget) - max(nexts, default=0.0) / whole - 1e-12
        assert held(energies, filled) == pytest.approx(best(energies, unequal, cost_of(filled, unequal))) or nexts


def test_water_filling_holds_no_less_than_one_rank_for_all():
    energies = {"a": spectrum(9, 4, 1), "b": spectrum(1, 0.5, 0.1)}
    costs = {"a": 10, "b": 10}
    assert uniform(energies, costs, 25) == {"a": 1, "b": 1}
    assert fill(energies, costs, 20) == {"a": 2}
    assert held(energies, fill(energies, costs, 20)) > held(energies, uniform(energies, costs, 20))
    assert uniform(energies, costs, 19) == {}
    assert fill({"a": spectrum(0, 0)}, {"a": 1}, 9) == {}


def test_the_least_rank_that_holds_a_share():
    energies = {"a": spectrum(8, 1, 1), "b": spectrum(8, 2)}
    assert [least_rank(energies, share) for share in (0.5, 0.8, 0.85, 1.0)] == [1, 1, 2, 3]


def test_a_pattern_keeps_one_scale():
    made = pattern(
        {"x.q": 4, "x.experts.0": 2, "x.experts.1": 3},
        {"x.q": "x.q", "x.experts.0": "x.experts", "x.experts.1": "x.experts"},
        2.0,
    )
    assert made["rank_pattern"] == {"x.q": 4, "x.experts": 3}
    assert made["alpha_pattern"] == {"x.q": 8.0, "x.experts": 6.0}
    assert made["target_modules"] == ["x.q", "x.experts"]
