"""What the measures of subspaces say where the answer is known."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cases import each
from subspace_tuning.linalg.svd import rank_of_energy, svd
from subspace_tuning.theory import subspaces as s


def orthonormal(n, r, seed=0):
    return torch.linalg.qr(torch.randn(n, r, generator=torch.Generator().manual_seed(seed)).double()).Q


@each(k=[1, 3, 7])
def test_ranks_of_equal_singular_values_count_them(k):
    S = torch.cat([torch.full((k,), 2.5), torch.zeros(4)])
    assert s.effective_rank(S) == pytest.approx(k)
    assert s.stable_rank(S) == pytest.approx(k)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12))
def test_ranks_lie_between_one_and_the_number_of_terms(values):
    S = torch.tensor(values, dtype=torch.float64)
    for rank in (s.effective_rank(S), s.stable_rank(S)):
        assert 1 - 1e-9 <= rank <= len(values) + 1e-9
        assert rank == pytest.approx((s.effective_rank if rank == s.effective_rank(S) else s.stable_rank)(7 * S))


def test_ranks_of_nothing_are_zero():
    assert s.effective_rank(torch.zeros(3)) == s.stable_rank(torch.zeros(3)) == s.stable_rank(torch.zeros(0)) == 0


@each(energy=[0.1, 0.5, 0.9, 0.999, 1.0])
def test_rank_of_energy_is_the_least(energy):
    S = torch.rand(20).double().sort(descending=True).values
    share = S.square().cumsum(0) / S.square().sum()
    k = rank_of_energy(S, energy)
    assert share[k - 1] >= energy - 1e-12
    assert k == 1 or share[k - 2] < energy


@each(angle=[0.0, 1e-9, 1e-4, 0.3, 1.0, math.pi / 2 - 1e-7, math.pi / 2])
def test_an_angle_is_found_whatever_its_size(angle):
    Q = orthonormal(8, 3)
    turned = math.cos(angle) * Q[:, :1] + math.sin(angle) * Q[:, 1:2]
    found = s.principal_angles(Q[:, :1], turned)
    assert found.item() == pytest.approx(angle, rel=1e-6, abs=1e-15 if angle else 1e-12)


def test_angles_do_not_depend_on_the_basis_and_are_symmetric():
    X, Y = orthonormal(9, 4), orthonormal(9, 2, seed=1)
    want = s.principal_angles(X, Y)
    assert want.shape == (2,)
    assert torch.allclose(s.principal_angles(Y, X), want)
    assert torch.allclose(s.principal_angles(X @ orthonormal(4, 4, seed=2), Y @ orthonormal(2, 2, seed=3)), want)
    cos = torch.linalg.svdvals(X.T @ Y)
    assert torch.allclose(want.cos(), cos)
    assert (want.diff() >= 0).all()


def test_scaling_singular_values_turns_nothing():
    W = torch.randn(10, 6).double()
    turned = s.rotation(svd(W), svd(3 * W), 4)
    assert torch.cat(turned).max() < 1e-6


def test_similarity_is_one_within_and_zero_across():
    Q = orthonormal(12, 6)
    psi = s.similarity(Q[:, :4], Q[:, :4])
    assert psi.shape == (4, 4)
    assert torch.allclose(psi, torch.ones(4, 4).double())  # the smaller subspace lies in the larger one
    assert s.similarity(Q[:, :3], Q[:, 3:]).abs().max() < 1e-12
    X, Y = orthonormal(12, 3, seed=1), orthonormal(12, 5, seed=2)
    psi = s.similarity(X, Y)
    for i in range(1, 4):
        for j in range(1, 6):
            want = (X[:, :i].T @ Y[:, :j]).square().sum() / min(i, j)
            assert psi[i - 1, j - 1] == pytest.approx(want.item())


def test_random_subspaces_are_alike_by_chance():
    values = [s.similarity(orthonormal(64, 8, a), orthonormal(64, 8, 100 + a))[-1, -1].item() for a in range(40)]
    assert sum(values) / 40 == pytest.approx(8 / 64, rel=0.1)


def test_amplification_is_how_much_stronger():
    U, V = orthonormal(9, 3), orthonormal(7, 3, seed=1)
    W = U @ torch.diag(torch.tensor([5.0, 2.0, 1.0]).double()) @ V.T
    change = svd(0.5 * U[:, 2:] @ V[:, 2:].T)
    assert s.amplification(W, change, 1) == pytest.approx(0.5)
    across = svd(U[:, :1] @ V[:, 1:2].T)
    assert s.amplification(W, across, 1) > 1e10


def test_inside_and_outside_the_span():
    U, V = orthonormal(10, 10), orthonormal(8, 8, seed=1)
    W = svd(U[:, :3] @ V[:, :3].T)
    within, outside = U[:, :3] @ torch.randn(3, 3).double() @ V[:, :3].T, U[:, 3:5] @ V[:, 3:5].T
    assert s.inside(W, within, 1.0).share == pytest.approx(1.0)
    assert s.inside(W, outside, 1.0).share == pytest.approx(0.0, abs=1e-12)
    assert s.inside(W, within, 1.0).chance == pytest.approx(9 / 80)
    shares = [s.inside(W, torch.randn(10, 8).double(), 1.0).share for _ in range(200)]
    assert sum(shares) / 200 == pytest.approx(9 / 80, rel=0.15)


def test_a_new_strong_direction_is_an_intruder_and_scaling_it_down_removes_it():
    U, V = orthonormal(20, 20), orthonormal(16, 16, seed=1)
    W = U[:, :8] @ torch.diag(torch.linspace(4, 1, 8).double()) @ V[:, :8].T
    before, after = svd(W).top(8), svd(W + 3.1 * U[:, 9:10] @ V[:, 9:10].T)
    assert s.intruders(before, before, 9) == []
    which = s.intruders(before, after, 9)
    assert len(which) == 1
    assert after.S[which[0]] == pytest.approx(3.1)
    assert torch.allclose(s.scaled_terms(W + 3.1 * U[:, 9:10] @ V[:, 9:10].T, after, which, 0.0), W)


def test_patterns_are_zero_on_the_pattern():
    A, B = orthonormal(9, 3), orthonormal(7, 3, seed=1).T
    assert max(s.patterns(A, B)) < 1e-12
    tall = s.patterns(2 * A, torch.diag(torch.tensor([1.0, 2.0, 3.0]).double()) @ B)
    assert tall.A_orthonormal == pytest.approx(3 * 3**0.5)
    assert tall.B_orthogonal < 1e-12 < tall.B_orthonormal
    assert tall.A_tilt < 1e-12
    alike = s.patterns(A, torch.ones(3, 7).double())
    assert alike.B_tilt == pytest.approx((6 / 9) ** 0.5)


def test_patterns_are_the_penalties_of_mpc():
    from subspace_tuning.method.mpc import diagonal
    from subspace_tuning.method.mpc import orthonormal as held

    A, B = torch.randn(9, 3).double(), torch.randn(3, 7).double()
    p = s.patterns(A, B)
    assert p.A_orthonormal**2 + p.B_orthonormal**2 == pytest.approx(held(A, B).item())
    assert p.A_orthonormal**2 + p.B_orthogonal**2 == pytest.approx(diagonal(A, B).item())
