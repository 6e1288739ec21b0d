"""Reflections, butterflies and rotations in planes: what they leave as it is, and how far they reach."""

import pytest
import torch

from cases import each
from subspace_tuning.algebra import BlockDiag, Pairs, Weight
from subspace_tuning.methods import BOFT, HRA, OFT, RoAd
from subspace_tuning.methods.reconstruct.oft import turns
from subspace_tuning.testing.cases import Case, tuned, tuned_layer, values_of
from subspace_tuning.testing.kinds import KINDS
from subspace_tuning.theory import Search, project

LINEAR = KINDS[0]


def layer_of(method):
    return tuned_layer(tuned(Case(method), LINEAR, dtype=torch.float64))


@each(method=[HRA(r=6), BOFT(b=2, factors=2), OFT(b=4)])
def test_inner_products_of_neurons_stay(method):
    layer = layer_of(method)
    values = values_of(layer)
    with torch.no_grad():
        for name in {"delta"} & set(values):
            values[name].zero_()
    made = layer.tuned(["default"])
    W, moved = made.W.dense(), made.E.dense()
    torch.testing.assert_close(moved.T @ moved, W.T @ W)
    assert (moved - W).norm() > 0.1


@each(r=[2, 4])
def test_reflections_change_w_by_a_matrix_of_rank_r(r):
    L, _ = layer_of(HRA(r=r)).tuned(["default"]).E.delta_factors()
    assert L.shape[1] == r


def test_reflections_come_in_pairs():
    with pytest.raises(ValueError, match="r is even, got r=3"):
        HRA(r=3)
    assert HRA(r=8).fitted(5, 40).r == 4
    with pytest.raises(ValueError, match="choose an even rank r <= 1"):
        HRA(r=2).check(1, 9)


def test_one_output_is_turned_wherever_it_should_go():
    W, towards = torch.randn(7, 1, dtype=torch.float64), torch.randn(7, 1, dtype=torch.float64)
    W_star = Weight(towards * W.norm() / towards.norm())
    found = project(HRA(r=4), Weight(W), W_star, Search(steps=0))
    assert found.captured_energy == pytest.approx(1, abs=1e-9)


@each(factors=[1, 2, 3])
def test_a_butterfly_joins_every_feature_with_all_within_its_reach(factors):
    n, b = 16, 4
    R = torch.eye(n, dtype=torch.float64)
    for i in range(factors):
        blocks = torch.rand(n // b, b, b, dtype=torch.float64)
        R = BlockDiag(blocks, n, 1 << i).dense() @ R
    reach = b << factors - 1
    for start in range(0, n, reach):
        part = R[start : start + reach]
        assert (part[:, start : start + reach] != 0).all()
        assert part.count_nonzero() == reach * reach


@each(terms=[4, 5, 7])
def test_a_sum_of_terms_is_as_near_to_a_rotation_as_its_first_missing_power(terms):
    q = 0.01 * torch.randn(6, dtype=torch.float64)
    off = []
    for scale in (1, 2):
        summed, exact = (turns(scale * q, 4, 1, k) for k in (terms, 0))
        off.append((summed - exact).norm())
    assert off[1] / off[0] == pytest.approx(2.0 ** (terms - 1), rel=0.05)


def test_an_output_without_a_partner_stays():
    method = RoAd(group=4)
    assert method.partners(7).tolist() == [2, 3, 0, 1, 5, 4, 6]
    partner = method.partners(7)
    f, h = torch.full((7,), 0.5), torch.ones(7) * (partner != torch.arange(7))
    x = torch.randn(3, 7)
    torch.testing.assert_close(Pairs(f, h, partner).apply(x), x @ Pairs(f, h, partner).dense())
