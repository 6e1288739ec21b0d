"""Circulant, repeated, blockwise and transformed matrices are their dense ones, and keep of x what its maker keeps."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from subspace_tuning.algebra import FOURIER, HAAR, Blocks, Circulant, Dense, Expr, Regroup, Repeated, Transformed

N, M = 12, 18


class Made(NamedTuple):
    """A matrix, and the numbers in it that train."""

    E: Expr
    held: Tensor


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def transformed(basis, n, m):
    values, size = numbers(9), basis.size(n) * basis.size(m)
    return Made(Transformed(torch.randperm(size)[:9], values, (n, m), basis), values)


def blocks():
    held = numbers(3, 4, 6)
    return Made(Blocks(held), held)


def regrouped():
    held = numbers(3, 4, 6)
    return Made(Regroup(3, 2, 2, held) @ Blocks(held), held)


def circulant():
    held = numbers(2, 3, 6)
    return Made(Circulant(held), held)


def repeated():
    held = numbers(5, M)
    return Made(Repeated(Dense(held), N), held)


MADE = {
    "blocks": blocks,
    "regrouped": regrouped,
    "circulant": circulant,
    "repeated": repeated,
    "fourier": lambda: transformed(FOURIER, N, M),
    "haar": lambda: transformed(HAAR, N, M),
    "haar_odd": lambda: transformed(HAAR, N + 1, M + 1),
}
named = pytest.mark.parametrize("name", MADE)


@named
@pytest.mark.parametrize("lead", [(), (0,), (4,), (2, 3)])
def test_products_and_gradients_are_those_of_the_dense_matrix(name, lead):
    E, held = MADE[name]()
    n, m = E.shape
    dense = E.dense()
    assert dense.shape == (n, m)
    x, bias = numbers(*lead, n), torch.randn(m, dtype=torch.float64)
    y, want = E.apply(x, bias), x @ dense + bias
    torch.testing.assert_close(y, want)
    pull = torch.randn_like(y)
    got = torch.autograd.grad(y, (x, held), pull)
    torch.testing.assert_close(got, torch.autograd.grad(want, (x, held), pull))


@named
def test_exact_factors_are_thin(name):
    E = MADE[name]().E
    pair = E.factors()
    if name != "repeated":
        assert pair is None
        return
    assert pair[0].shape[1] == 5
    torch.testing.assert_close(pair[0] @ pair[1], E.dense())


@named
def test_half_precision_rows_are_rounded_once(name):
    E, held = MADE[name]()
    held.data = held.data.float()
    x = torch.randn(40, E.shape[0]).bfloat16()
    y = E.apply(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), x.float() @ E.dense().float(), rtol=3e-2, atol=3e-2)
    y.sum().backward()
    assert held.grad.dtype == held.dtype


@named
def test_nothing_of_the_rows_is_kept_that_their_maker_does_not_keep(name):
    """Behind an activation only the numbers themselves, and rows as short as the r of a repeated D."""
    E, held = MADE[name]()
    tokens, kept = 64, {}

    def pack(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    u = numbers(tokens, E.shape[0])
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        x = torch.nn.functional.gelu(u)
        alone = sum(kept.values())
        E.apply(x)
    between = {"repeated": 5, "regrouped": E.shape[0]}.get(name, 0)  # of the regrouped ones nobody is the maker
    assert sum(kept.values()) - alone <= held.nbytes + 8 * tokens * between


@named
def test_flops_are_fewer_than_those_of_the_dense_matrix(name):
    wide = {
        "blocks": lambda: Blocks(numbers(16, 64, 64)),
        "regrouped": lambda: Regroup(16, 16, 4, numbers(1)) @ Blocks(numbers(16, 64, 64)),
        "circulant": lambda: Circulant(numbers(4, 4, 256)),
        "repeated": lambda: Repeated(Dense(numbers(8, 1024)), 1024),
    }
    basis = FOURIER if name == "fourier" else HAAR
    E = wide.get(name, lambda: transformed(basis, 1024, 1024).E)()
    assert 0 < E.flops(10) < Dense(torch.empty(1024, 1024)).flops(10) / 8
    assert E.flops(10, training=True) > 2 * E.flops(10)
