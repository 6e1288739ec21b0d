"""The decompositions that methods start from, against full ones in double precision."""

import pytest
import torch

from cases import each
from subspace_tuning.linalg.svd import cayley, qr, skew, svd, truncated_svd


def flat(n, m):
    return torch.randn(n, m)


def decaying(n, m):
    """Singular values 1, 2^-0.7, 3^-0.7, ..., as differences of trained weights have them."""
    k = min(n, m)
    values = torch.arange(1.0, k + 1) ** -0.7
    return qr(torch.randn(n, k))[0] * values @ qr(torch.randn(m, k))[0].T


def thin(n, m):
    return torch.randn(n, 5) @ torch.randn(5, m)


SPECTRA = [flat, decaying, thin]
SHAPES = [(150, 110), (110, 260), (14, 10)]


@each(spectrum=SPECTRA, shape=SHAPES, r=[1, 4, 9])
def test_truncated_svd_captures_what_the_exact_one_does(spectrum, shape, r):
    M = spectrum(*shape)
    exact = torch.linalg.svdvals(M.double())[:r].square().sum() / M.double().square().sum()
    U, S, Vt = truncated_svd(M, r)
    left = (M - (U * S) @ Vt).double().square().sum() / M.double().square().sum()
    assert abs(1 - left - exact) < 1e-5
    assert abs(S.double().square().sum() / M.double().square().sum() - exact) < 1e-5
    eye = torch.eye(r)
    torch.testing.assert_close(U.T @ U, eye, rtol=0, atol=1e-5)
    torch.testing.assert_close(Vt @ Vt.T, eye, rtol=0, atol=1e-5)
    assert (S.diff() <= 0).all()


@each(tolerance=[1e-2, 1e-4, 1e-8])
def test_the_bound_holds_for_every_seed(tolerance):
    M = flat(160, 160)
    exact = torch.linalg.svdvals(M.double())[:4].square().sum()
    for seed in range(20):
        missed = exact - truncated_svd(M.double(), 4, tolerance, seed).S.square().sum()
        assert -1e-9 <= missed <= tolerance * M.double().square().sum()


@each(spectrum=SPECTRA)
def test_the_same_seed_gives_the_same_bits(spectrum):
    M = spectrum(150, 260)
    first, again = truncated_svd(M, 4, seed=3), truncated_svd(M.clone(), 4, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_truncated_svd_of_nothing_and_on_the_meta_device():
    U, S, Vt = truncated_svd(torch.zeros(100, 120), 3)
    assert not S.any()
    assert U.isfinite().all()
    assert Vt.isfinite().all()
    assert [t.shape for t in truncated_svd(torch.empty(400, 300, device="meta"), 3)] == [(400, 3), (3,), (3, 300)]


@each(shape=SHAPES, dtype=[torch.float32, torch.bfloat16])
def test_svd_and_qr_give_the_matrix_back_with_signs_that_every_machine_finds(shape, dtype):
    W = torch.randn(*shape).to(dtype)
    U, S, Vt = svd(W)
    torch.testing.assert_close(U * S @ Vt, W.float(), rtol=1e-4, atol=1e-4)
    assert (U.gather(0, U.abs().argmax(0, keepdim=True)) > 0).all()
    Q, R = qr(W)
    torch.testing.assert_close(Q @ R, W.float(), rtol=1e-4, atol=1e-4)
    assert (R.diagonal() >= 0).all()


def test_top_tail_and_bottom_share_out_the_terms():
    whole = svd(torch.randn(7, 5))
    assert torch.equal(whole.top(2).S, whole.S[:2])
    assert torch.equal(torch.cat([whole.top(2).S, whole.tail(2).S]), whole.S)
    assert torch.equal(whole.bottom(2).Vt, whole.Vt[3:])


@each(r=[1, 2, 5])
def test_cayley_of_a_skew_matrix_is_a_rotation(r):
    Q = skew(torch.randn(r * (r - 1) // 2), r)
    torch.testing.assert_close(Q, -Q.T)
    R = cayley(Q)
    torch.testing.assert_close(R @ R.T, torch.eye(r), rtol=0, atol=1e-5)
    assert torch.det(R) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("change", [lambda W: W.data.mul_(2), lambda W: W.set_(W.clone() * 2), lambda W: W.mul_(2)])
def test_a_weight_that_changed_is_decomposed_anew(change):
    """However it changed: what is written to .data raises no version."""
    W = torch.randn(6, 4)
    before = svd(W)
    change(W)
    torch.testing.assert_close(svd(W).S, 2 * before.S)


@pytest.mark.parametrize("decompose", [svd, lambda W: truncated_svd(W, 2), lambda W: truncated_svd(W.T, 2), qr])
@pytest.mark.parametrize("hole", [float("nan"), float("inf")])
def test_numbers_that_are_none_have_no_singular_vectors(decompose, hole):
    W = torch.randn(80, 70)
    W[3, 5] = hole
    with pytest.raises(ValueError, match=r"this weight of (80 x 70|70 x 80) holds NaNs or infinities"):
        decompose(W)
