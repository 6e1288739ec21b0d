"""The straight line between two matrices, by terms where it can be."""

import torch

from cases import each
from subspace_tuning.algebra import Dense, Diag, Identity, Sum, Weight, line


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64)


W = Weight(randn(4, 3), randn(3))
LOW = Dense(randn(4, 1)) @ Dense(randn(1, 3))


@each(t=[-0.5, 0.3, 1.5])
def test_it_is_the_line(t):
    for E in (W + LOW, (W + LOW) + LOW, Diag(randn(4)) @ W, Dense(randn(4, 3)), W + LOW - LOW):
        torch.testing.assert_close(line(W, E, t).dense(), W.dense() + t * (E.dense() - W.dense()))
        x, b = randn(5, 4), randn(3)
        torch.testing.assert_close(line(W, E, t).apply(x, b), x @ line(W, E, t).dense() + b)


def test_terms_of_an_expression_stay_as_they_are():
    start = W + LOW
    E = start + 2.0 * LOW
    found = line(start, E, 0.5)
    assert isinstance(found, Sum)
    assert found.terms[:2] == start.terms
    L, R = found.delta_factors()
    torch.testing.assert_close(L @ R, 2.0 * LOW.dense())
    assert line(start, start, 0.5) is start


def test_a_sum_that_only_begins_like_another_is_not_taken_for_more_of_it():
    found = line(W + LOW, W + Dense(randn(4, 3)), 0.5)
    assert found.terms[0] is not W


def test_the_identity_is_the_identity_whoever_made_it():
    found = line(Identity(3), Identity(3) + Dense(randn(3, 3)), 0.5)
    assert len(found.terms) == 2
