"""What is made again for the backward pass is what was there; gradients do not depend on how x was kept."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from subspace_tuning.algebra import Dense, Diag
from subspace_tuning.algebra.kept import way_to

settings.register_profile("laws", deadline=None, max_examples=100, derandomize=True)
settings.load_profile("laws")
torch.manual_seed(0)
N = 6
GAIN, SHIFT = torch.rand(N, dtype=torch.float64) + 0.5, torch.randn(N, dtype=torch.float64)


def rms_norm(u):
    return GAIN * (u * torch.rsqrt(u.square().mean(-1, keepdim=True) + 1e-3)).to(u.dtype)


MAKERS = {
    "layer norm": lambda u: F.layer_norm(u, (N,), GAIN, SHIFT),
    "bare layer norm": lambda u: F.layer_norm(u, (N,)),
    "rms norm": rms_norm,
    "gelu": F.gelu,
    "tanh gelu": lambda u: F.gelu(u, approximate="tanh"),
    "silu": F.silu,
    "gated": lambda u: F.silu(u) * u.sin(),
    "viewed": lambda u: F.gelu(u).reshape(-1, N).view(2, -1, N),
    "cast": lambda u: F.silu(u.float()).double(),
}


def start(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("name", MAKERS)
def test_x_is_made_again(name):
    x = MAKERS[name](start(2, 5, N))
    way = way_to(x)
    assert way is not None
    torch.testing.assert_close(way.make(*way.sources), x)


@pytest.mark.parametrize("make", [torch.relu, lambda u: u + 1, lambda u: u @ torch.eye(N).double(), lambda u: u])
def test_where_no_maker_keeps_enough_x_is_kept(make):
    assert way_to(make(start(3, N))) is None


@given(st.sampled_from([*MAKERS]), st.sampled_from(["product", "scale"]), st.sampled_from([-1.5, 1.0]), st.booleans())
def test_gradients_are_those_of_the_matrix_twice(name, kind, s, biased):
    """First and second derivatives, through the maker of x too."""
    u, M, d, b = start(2, 3, N), start(N, 2), start(N), start(2, 3, N if kind == "scale" else 2)
    E, matrix = (s * Dense(M), s * M) if kind == "product" else (s * Diag(d), s * torch.diag(d))
    leaves = [u, M if kind == "product" else d, *[b] * biased]
    ys = [E.apply(MAKERS[name](u), b if biased else None), MAKERS[name](u) @ matrix + (b if biased else 0)]
    pull, again = torch.randn_like(ys[0]), [torch.randn_like(t) for t in leaves]
    firsts = [torch.autograd.grad((y.square() * pull).sum(), leaves, create_graph=True) for y in ys]
    seconds = [torch.autograd.grad(sum((g * p).sum() for g, p in zip(gs, again, strict=True)), leaves) for gs in firsts]
    for got, want in (firsts, seconds):
        for g, w in zip(got, want, strict=True):
            torch.testing.assert_close(g, w, rtol=1e-6, atol=1e-6 if name == "cast" else 1e-8)


def kept_bytes(run) -> int:
    storages = {}

    def pack(t):
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes(), t
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        run().sum().backward()
    return sum(size for size, _ in storages.values())


@pytest.mark.parametrize("name", ["layer norm", "gelu", "silu", "rms norm"])
def test_a_thin_product_keeps_nothing_of_the_size_of_x(name):
    u, M = start(500, N), start(N, 1)
    alone = kept_bytes(lambda: MAKERS[name](u))
    assert kept_bytes(lambda: Dense(M).apply(MAKERS[name](u))) <= alone + M.nbytes


def test_checkpointing_reads_what_it_saved_only_once():
    norm, M = nn.LayerNorm(N).double(), start(N, 2)
    u = start(4, N)

    def run(u):
        return Dense(M).apply(norm(u)).sin()

    want = torch.autograd.grad(run(u).sum(), [u, M])
    got = torch.autograd.grad(checkpoint(run, u, use_reentrant=False).sum(), [u, M])
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w)


def test_offloading_what_is_saved_changes_nothing():
    u, M = start(4, N), start(N, 2)
    want = torch.autograd.grad(Dense(M).apply(F.gelu(u)).sum(), [u, M])
    with torch.autograd.graph.save_on_cpu():
        y = Dense(M).apply(F.gelu(u))
    for g, w in zip(torch.autograd.grad(y.sum(), [u, M]), want, strict=True):
        torch.testing.assert_close(g, w)


def test_changing_what_x_was_made_from_is_noticed():
    u, M = start(4, N), start(N, 2)
    v = u * 1.0
    y = Dense(M).apply(F.gelu(v))
    v.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_bf16_autocast_meets_bf16_rows():
    u, M, b = torch.randn(3, N, requires_grad=True), torch.randn(N, 2, requires_grad=True), torch.randn(3, 2)
    with torch.autocast("cpu", torch.bfloat16):
        y = Dense(M).apply(F.gelu(u), b.bfloat16())
    assert y.dtype == torch.bfloat16
    got = torch.autograd.grad(y.float().sum(), [u, M])
    want = torch.autograd.grad((F.gelu(u) @ M + b).sum(), [u, M])
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=0.05, atol=0.05)


def test_bf16_autocast_left_before_backward():
    """As is usual; what is made again has the precision that it had."""
    torch.manual_seed(0)
    u, M, norm = torch.randn(3, N, requires_grad=True), torch.randn(N, N, requires_grad=True), nn.LayerNorm(N)
    with torch.autocast("cpu", torch.bfloat16):
        y = Dense(M).apply(norm(Dense(M).apply(u)))
    got = torch.autograd.grad(y.float().square().sum(), [u, M])
    want = torch.autograd.grad((norm(u @ M) @ M).square().sum(), [u, M])
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("maker", ["layer norm", "gelu", "viewed"])
def test_an_input_written_into_has_its_gradient_or_an_error(maker, when):
    """Without the graph's knowledge before the product, or after it."""
    u, M = start(2, 5, N), start(N, 2)
    x = MAKERS[maker](u)
    with torch.no_grad():
        if when == "before":
            x.mul_(3)
        rows = x.clone().reshape(-1, N)
    y = Dense(M).apply(x)
    if when == "after":
        x.mul_(3)
    (got,) = torch.autograd.grad(y.sum(), M)
    torch.testing.assert_close(got, rows.T @ torch.ones(len(rows), 2, dtype=torch.float64))


def test_a_scaled_output_written_into_keeps_what_its_gradient_needs():
    x, d, b = start(4, N), torch.rand(N, dtype=torch.float64).add(0.5).requires_grad_(), start(N).detach()
    y = Diag(d).apply(x, b)
    (got,) = torch.autograd.grad(torch.relu_(y).sum(), d)
    (want,) = torch.autograd.grad(torch.relu(x * d + b).sum(), d)
    torch.testing.assert_close(got, want)
