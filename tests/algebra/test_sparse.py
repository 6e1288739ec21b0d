"""A sparse matrix is its dense truth, forward and backward; one that is sparse enough is never laid out on the way."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cases import each
from subspace_tuning.algebra import Diag, Sparse, Weight, sparse
from subspace_tuning.weights.conv import Patches
from subspace_tuning.weights.embedding import OneHot

N, M = 23, 17


def some(share=0.3, dtype=torch.float64, n=N, m=M):
    k = max(1, round(share * n * m))
    places = torch.randperm(n * m)[:k].sort().values
    values = torch.randn(k, dtype=dtype, requires_grad=True)
    dense = torch.zeros(n * m, dtype=dtype).scatter(0, places, values).view(n, m)
    return Sparse(places, values, (n, m)), values, dense


class Sizes(TorchDispatchMode):
    """The largest tensor that anything computes."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else (out,):
            if isinstance(t, torch.Tensor):
                self.largest = max(self.largest, t.numel())
        return out


@each(share=[1e-9, 0.1, 1.0], shape=[(N,), (0, N), (4, N), (2, 3, N), (2, 20, N)], chunk=[7, 1 << 20])
def test_products_and_gradients_are_those_of_the_dense_matrix(share, shape, chunk, monkeypatch):
    monkeypatch.setattr(sparse, "CHUNK", chunk)
    E, values, dense = some(share)
    x = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(M, dtype=torch.float64)
    y, want = E.apply(x, bias), x @ dense + bias
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(E.dense(), dense)
    pull = torch.randn_like(y)
    got = torch.autograd.grad(y, (x, values), pull)
    torch.testing.assert_close(got, torch.autograd.grad(want, (x, values), pull))


@each(dtype=[torch.bfloat16, torch.float32], rows=[5, 50])
def test_rows_of_another_precision(dtype, rows):
    E, values, dense = some(dtype=torch.float32)
    x = torch.randn(rows, N, dtype=dtype)
    y = E.apply(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(E.apply(x), y, rtol=0, atol=0)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), x.float() @ dense, rtol=3e-2, atol=3e-2)
    y.sum().backward()
    assert values.grad.dtype == torch.float32


def test_rows_of_a_table_and_of_images():
    E, values, dense = some()
    ids = torch.randint(N, (3, 4))
    rows = OneHot(ids, N, torch.float64) * torch.arange(1.0, N + 1, dtype=torch.float64)
    want = dense[ids] * (ids + 1).unsqueeze(-1)
    torch.testing.assert_close(E.apply(rows), want)
    pull = torch.randn_like(want)
    got = torch.autograd.grad(E.apply(rows), values, pull)
    torch.testing.assert_close(got, torch.autograd.grad(want, values, pull))
    conv = torch.nn.Conv2d(2, 5, (3, 2), padding=1).double()
    E, _, dense = some(n=12, m=5)
    x = torch.randn(2, 2, 6, 5, dtype=torch.float64)
    want = torch.nn.functional.conv2d(x, dense.T.reshape(5, 2, 3, 2), padding=1).movedim(1, -1)
    torch.testing.assert_close(E.apply(Patches(x, conv)), want)


def test_nothing_as_large_as_the_matrix_is_computed():
    E, values, _ = some(0.01, n=300, m=200)
    x = torch.randn(4, 300, dtype=torch.float64, requires_grad=True)
    with Sizes() as sizes:
        E.apply(x).sum().backward()
    assert sizes.largest < 300 * 200 / 10
    assert values.grad.shape == values.shape
    E, *_ = some(0.005, n=300, m=200)
    x = torch.randn(100, 300, dtype=torch.float64)
    with Sizes() as sizes:
        E.apply(x)
    assert sizes.largest < 300 * 200
    with Sizes() as sizes:
        E.apply(OneHot(torch.tensor([[3, 5], [5, 299]]), 300, torch.float64)).sum().backward()
    assert sizes.largest < 300 * 200 / 10


def test_flops_count_the_entries():
    E, *_ = some(0.1)
    k = E.values.numel()
    assert E.flops(10) == 2 * 10 * k
    assert E.flops(10, training=True) == 3 * E.flops(10)
    W = Weight(torch.randn(N, M, dtype=torch.float64))
    assert (W + E).flops(10) == 2 * 10 * (N * M + k) + 10 * M
    assert E.delta_factors() is None


def test_products_with_other_expressions():
    E, _, dense = some()
    W, d = torch.randn(N, M, dtype=torch.float64), torch.randn(N, dtype=torch.float64)
    x = torch.randn(3, N, dtype=torch.float64)
    for tokens in (x, x.repeat(40, 1)):
        torch.testing.assert_close((Diag(d) @ (Weight(W) + E)).apply(tokens), (tokens * d) @ (W + dense))
    torch.testing.assert_close((2.0 * E).apply(x), 2 * x @ dense)
    torch.testing.assert_close((2.0 * E).dense(), 2 * dense)


@pytest.mark.parametrize("kind", ["rows", "many rows", "ids"])
def test_it_compiles_without_graph_breaks(kind):
    E, values, _ = some(dtype=torch.float32)
    ids = torch.randint(N, (3, 4))
    x = ids if kind == "ids" else torch.randn(50 if kind == "many rows" else 3, N)

    def apply(x):
        return E.apply(OneHot(x, N, torch.float32) if kind == "ids" else x)

    torch.compiler.reset()
    traced = torch.compile(apply, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(traced(x), apply(x))
    (got,) = torch.autograd.grad(traced(x).square().sum(), values)
    torch.testing.assert_close(got, torch.autograd.grad(apply(x).square().sum(), values)[0])
