"""Powers of scales and of rotations: exact at the ends, geodesic between them, smooth where eigenvalues meet."""

import math

import pytest
import torch

from cases import each
from subspace_tuning.linalg.powers import rotation_power, scale_power
from subspace_tuning.linalg.svd import cayley, skew


def random_skew(b, size=1.0):
    return skew(size * torch.randn(b * (b - 1) // 2, dtype=torch.float64), b)


@each(b=[2, 3, 6], size=[0.0, 1e-6, 1.0, 30.0])
def test_a_rotation_to_the_first_power_is_the_cayley_form(b, size):
    Q = random_skew(b, size)
    eye = torch.eye(b, dtype=Q.dtype)
    torch.testing.assert_close(rotation_power(Q, 1.0) + eye, cayley(-Q), rtol=0, atol=1e-12)
    torch.testing.assert_close(rotation_power(Q, 0.0), 0 * eye)


@each(t=[-0.5, 0.3, 1.5, 2.0])
def test_powers_of_rotations_are_rotations_and_add_up(t):
    Q = random_skew(5)
    eye = torch.eye(5, dtype=Q.dtype)
    R = rotation_power(Q, t) + eye
    torch.testing.assert_close(R @ R.T, eye)
    assert torch.linalg.det(R) == pytest.approx(1)
    torch.testing.assert_close(R @ (rotation_power(Q, 1 - t) + eye), rotation_power(Q, 1.0) + eye)


def test_the_angle_grows_with_the_power():
    angle = 2.5  # of the whole rotation; 1.5 times it is more than a half turn
    Q = math.tan(angle / 2) * torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    for t in (0.25, 0.5, 1.5):
        R = rotation_power(Q, t) + torch.eye(2, dtype=Q.dtype)
        c, s = math.cos(t * angle), math.sin(t * angle)
        torch.testing.assert_close(R, torch.tensor([[c, s], [-s, c]], dtype=torch.float64))


@each(q=[[0.0] * 6, [0.5, 0, 0, 0, 0, 0.5], [0.3, -1.0, 0.2, 2.0, 0.1, 0.7]])
def test_gradients_of_rotations_are_those_of_finite_differences(q):
    """At rest and for equal angles too, where the eigenvectors themselves have no derivative."""
    start = torch.tensor(q, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda q: rotation_power(skew(q, 4), 0.7), start)


def test_many_rotations_at_once_are_each_by_itself():
    Q = torch.stack([random_skew(4) for _ in range(3)])
    each_one = torch.stack([rotation_power(q, 0.4) for q in Q])
    torch.testing.assert_close(rotation_power(Q, 0.4), each_one)
    torch.testing.assert_close(torch.vmap(lambda q: rotation_power(q, 0.4))(Q), each_one)


def test_scales_are_powers_where_they_are_positive_and_lines_where_not():
    d = torch.tensor([4.0, 1.0, 0.25, 0.0, -2.0], dtype=torch.float64)
    torch.testing.assert_close(
        1 + scale_power(d - 1, 0.5), torch.tensor([2.0, 1.0, 0.5, 0.5, -0.5], dtype=torch.float64)
    )
    torch.testing.assert_close(scale_power(d - 1, 1.0), d - 1)
    tiny = torch.tensor([1e-12], dtype=torch.float64)  # a power of 1 + 1e-12 would have lost it
    torch.testing.assert_close(scale_power(tiny, 0.5), tiny / 2, rtol=1e-9, atol=0)


@each(t=[0.3, 1.5])
def test_gradients_of_scales_are_finite_everywhere(t):
    delta = torch.tensor([0.5, 0.0, -0.3, -1.0, -1.5, -3.0], dtype=torch.float64, requires_grad=True)
    grad = torch.autograd.grad(scale_power(delta, t).sum(), delta)[0]
    want = [t * 1.5 ** (t - 1), t, t * 0.7 ** (t - 1), t, t, t]
    torch.testing.assert_close(grad, torch.tensor(want, dtype=torch.float64))
