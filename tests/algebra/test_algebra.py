"""x @ E is x times the matrix of E, for any expression and any rows; the planner's order is the cheapest allowed."""

from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from subspace_tuning.algebra import Dense, Diag, Elementwise, Expr, Live, NotALinearMap, Weight, matrix, root
from subspace_tuning.algebra.planner import Factor, Plan, cheapest_order

settings.register_profile("laws", deadline=None, max_examples=300, derandomize=True)
settings.load_profile("laws")
SIZES = st.integers(1, 6)


class Grown(NamedTuple):
    """An expression, the same matrix written densely, and the numbers that both were made of."""

    expr: Expr
    dense: Tensor
    trained: list[Tensor]


def numbers(*shape: int, train: bool = False) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).requires_grad_(train)


@st.composite
def grown(draw, n: int | None = None, m: int | None = None, depth: int = 3) -> Grown:
    n, m = n or draw(SIZES), m or draw(SIZES)
    kinds = ["weight", "biased", "dense", "live"] + ["diag", "identity"] * (n == m)
    kind = draw(st.sampled_from(kinds + ["product", "sum", "scaled"] * 2 if depth else kinds))
    if kind == "product":
        k = draw(SIZES)
        left, right = draw(grown(n, k, depth - 1)), draw(grown(k, m, depth - 1))
        return Grown(left.expr @ right.expr, left.dense @ right.dense, left.trained + right.trained)
    if kind == "sum":
        left, right = draw(grown(n, m, depth - 1)), draw(grown(n, m, depth - 1))
        if draw(st.booleans()):
            return Grown(left.expr - right.expr, left.dense - right.dense, left.trained + right.trained)
        return Grown(left.expr + right.expr, left.dense + right.dense, left.trained + right.trained)
    if kind == "scaled":
        one, s = draw(grown(n, m, depth - 1)), draw(st.sampled_from([-1.5, 0.0, 1.0, 2.0]))
        return Grown(s * one.expr, s * one.dense, one.trained)
    if kind in ("weight", "biased"):
        W = numbers(n, m)
        return Grown(Weight(W, numbers(m) if kind == "biased" else None), W, [])
    if kind == "identity":
        return Grown(Elementwise(lambda x: x, n, linear=True), torch.eye(n, dtype=torch.float64), [])
    train = draw(st.booleans())
    if kind == "diag":
        d = numbers(n, train=train)
        return Grown(Diag(d), torch.diag(d), [d] * train)
    M = numbers(n, m, train=train)
    return Grown(Dense(Live(lambda: M) if kind == "live" else M), M, [M] * train)


@st.composite
def rows(draw, n: int) -> Tensor:
    """x (..., n): vectors, batches, none at all, strided."""
    shape = draw(st.sampled_from([(), (1,), (4,), (0,), (2, 3), (50,), (2, 0)]))
    x = numbers(*shape, n)
    return torch.stack([x, x], -2)[..., 0, :] if draw(st.booleans()) else x


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-8)


@given(st.data())
def test_rows_times_an_expression_are_rows_times_its_matrix(data):
    it = data.draw(grown())
    x = data.draw(rows(it.expr.shape[0]))
    assert it.expr.shape == tuple(it.dense.shape)
    close(x @ it.expr, x @ it.dense)
    with torch.no_grad():
        close(x @ it.expr, x @ it.dense)


@given(st.data())
def test_any_bias_is_added_once(data):
    """Also the expression's own, which a frozen layer adds by itself."""
    it = data.draw(grown())
    x, b = data.draw(rows(it.expr.shape[0])), numbers(it.expr.shape[1])
    close(it.expr.apply(x, b), x @ it.dense + b)
    own = it.expr.own_bias
    if own is not None:
        close(it.expr.apply(x, own), x @ it.dense + own)
    close(it.expr.apply(x, None), x @ it.dense)


@given(st.data())
def test_dense_is_the_matrix(data):
    it = data.draw(grown())
    close(it.expr.dense().to(torch.float64), it.dense)


@given(st.data())
def test_gradients_are_those_of_the_matrix(data):
    it = data.draw(grown())
    x = data.draw(rows(it.expr.shape[0])).detach().requires_grad_()
    assert it.expr.trainable == sum(t.numel() for t in it.trained)
    pull = numbers(*(x @ it.dense).shape)
    leaves = [x, *it.trained]
    got = torch.autograd.grad((x @ it.expr * pull).sum(), leaves, allow_unused=True, materialize_grads=True)
    want = torch.autograd.grad((x @ it.dense * pull).sum(), leaves, allow_unused=True, materialize_grads=True)
    for g, w in zip(got, want, strict=True):
        close(g, w)


@given(st.data())
def test_factors_are_exact_and_thin(data):
    it = data.draw(grown())
    pair = it.expr.factors()
    if pair is not None:
        L, R = pair
        assert L.shape[1] < min(it.dense.shape) or isinstance(it.expr, Dense)
        close(L.double() @ R.double(), it.dense)


@given(st.data(), SIZES, SIZES, st.integers(1, 3))
def test_delta_and_its_factors_are_exact(data, n, m, r):
    W, b = numbers(n, m), numbers(m)
    added = [data.draw(grown(n, m, 2)) for _ in range(2)]
    if any(leaf.frozen for t in added for leaf in t.expr.leaves()):
        added = [Grown(matrix(A) @ B, A @ B, []) for A, B in [(numbers(n, r), numbers(r, m))] * 2]
    E = Weight(W, b) + 0.5 * added[0].expr - added[1].expr
    want = 0.5 * added[0].dense - added[1].dense
    close(E.delta(), want)
    assert torch.equal(root(E).dense(), W)
    pair = E.delta_factors()
    if pair is not None:
        close(pair[0] @ pair[1], want)
    scaled = Diag(numbers(n)) @ Weight(W, b)
    assert scaled.delta_factors() is None
    close(scaled.delta(), scaled.dense() - W)


def test_a_low_rank_update_keeps_its_factors():
    W, A, B = numbers(6, 5), numbers(6, 2), numbers(2, 5)
    L, R = (Weight(W) + 2.0 * (matrix(A) @ B)).delta_factors()
    assert (L.shape, R.shape) == ((6, 2), (2, 5))
    close(L @ R, 2.0 * A @ B)
    L, R = Weight(W).delta_factors()
    assert L.shape == (6, 0)
    close(L @ R, torch.zeros(6, 5, dtype=torch.float64))


@given(st.data())
def test_bf16_rows_give_bf16(data):
    it = data.draw(grown(depth=2))
    x = data.draw(rows(it.expr.shape[0])).to(torch.bfloat16)
    y = x @ it.expr
    assert y.dtype == torch.bfloat16
    want = x.double() @ it.dense
    assert y.shape == want.shape
    largest = (x.double().abs() @ it.dense.abs()).norm()  # what cancellation leaves of rounding errors
    assert (y.double() - want).norm() <= 0.05 * largest + 0.05


# --- the planner -----------------------------------------------------------------------------------------------------


@st.composite
def chains(draw) -> tuple[Factor, ...]:
    sizes = draw(st.lists(st.integers(1, 30), min_size=2, max_size=5))
    out = []
    for n, m in pairwise(sizes):
        kind = draw(st.sampled_from(["dense", "dense", "opaque"]))
        trained = n * m if kind == "dense" and draw(st.booleans()) else 0
        out.append(Factor(kind, n, m, trainable=trained))
        if draw(st.integers(0, 3)) == 0:
            out.append(Factor("diag", m, m, trainable=m * draw(st.booleans())))
    return tuple(out)


def forward_cost(plan: Plan, tokens: int, chain: tuple[Factor, ...]):
    """(multiplications and additions, rows, columns, is diagonal) of a bracketing, counted a second time."""
    if plan.leaf is not None:
        if plan.leaf == 0:
            return 0, tokens, chain[0].n, False
        f = chain[plan.leaf - 1]
        return 0, f.n, f.m, f.kind == "diag"
    left, right = plan.sides()
    (a, n, k, ld), (b, _, m, rd) = forward_cost(left, tokens, chain), forward_cost(right, tokens, chain)
    return a + b + (n * m if ld or rd else 2 * n * k * m), n, m, False


def without_x(plan: Plan):
    """Every product of factors alone in a plan, as the set of its factors."""
    if plan.leaf is not None:
        return ({plan.leaf}, []) if plan.leaf else (None, [])
    (a, found), (b, more) = map(without_x, plan.sides())
    inside = None if a is None else a | b
    return inside, found + more + ([inside] if inside else [])


@given(chains(), st.integers(0, 100))
def test_the_plan_is_never_costlier_than_left_to_right(chain, tokens):
    plan = cheapest_order(tokens, chain, False)
    straight = Plan.left_to_right(len(chain))
    assert forward_cost(plan, tokens, chain)[0] == plan.flops
    assert plan.flops <= forward_cost(straight, tokens, chain)[0]


def brackets(i: int, j: int):
    """Every bracketing of the factors i, ..., j - 1."""
    if j == i + 1:
        yield Plan(i)
    for s in range(i + 1, j):
        for left in brackets(i, s):
            yield from (Plan(None, left, right) for right in brackets(s, j))


def allowed(plan: Plan, chain: tuple[Factor, ...], training: bool) -> bool:
    for inside in without_x(plan)[1]:
        parts = [chain[i - 1] for i in sorted(inside)]
        trained = sum(f.trainable for f in parts)
        if any(f.kind == "opaque" for f in parts) or all(f.kind == "diag" for f in parts):
            return False
        if training and trained and parts[0].n * parts[-1].m > trained:
            return False
    return True


@given(chains(), st.integers(1, 100))
def test_the_plan_is_the_cheapest_of_all_that_are_allowed(chain, tokens):
    every = [p for p in brackets(0, len(chain) + 1) if allowed(p, chain, False)]
    assert cheapest_order(tokens, chain, False).flops == min(forward_cost(p, tokens, chain)[0] for p in every)


@given(chains(), st.integers(1, 1000))
def test_no_plan_has_a_dense_gradient_in_training(chain, tokens):
    assert allowed(cheapest_order(tokens, chain, True), chain, True)


def test_many_rows_rebuild_and_few_rows_do_not():
    """U S V^T: rows by rows for a few, the product first for many; never the product while it trains."""
    U, s, V = Factor("dense", 64, 32), Factor("diag", 32, 32), Factor("dense", 32, 64)
    assert str(cheapest_order(2, (U, s, V), False)) == "(((x E1) E2) E3)"
    assert str(cheapest_order(10_000, (U, V), False)) == "((x E1) E2)"
    wide = (Factor("dense", 64, 60), Factor("diag", 60, 60), Factor("dense", 60, 64))
    assert str(cheapest_order(10_000, wide, False)).startswith("(x (")
    training = (wide[0], Factor("diag", 60, 60, trainable=60), wide[2])
    assert str(cheapest_order(10_000, training, True)) == "(((x E1) E2) E3)"


@given(st.lists(st.integers(1, 12), min_size=2, max_size=5), st.integers(1, 40), st.booleans())
def test_flops_are_what_torch_counts(sizes, tokens, training):
    mats = [numbers(n, m, train=training) for n, m in pairwise(sizes)]
    E = matrix(mats[0])
    for M in mats[1:]:
        E = E @ M
    x = numbers(tokens, sizes[0], train=training)
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(training):
        y = x @ E
        if training:
            y.sum().backward()
    assert E.flops(tokens, training) == counter.get_total_flops()


def test_flops_of_lora_count_base_and_update():
    W, A, B = numbers(20, 30), numbers(20, 2, train=True), numbers(2, 30, train=True)
    E = Weight(W) + matrix(A) @ B
    t = 7
    assert E.flops(t) == 2 * t * 20 * 30 + 2 * t * (20 * 2 + 2 * 30) + t * 30
    assert E.flops(t, training=True) > 2 * E.flops(t)


# --- what is no matrix, and what does not fit ------------------------------------------------------------------------


def test_a_nonlinearity_is_no_matrix_but_meets_rows():
    A, B, x = numbers(6, 2), numbers(2, 5), numbers(3, 6)
    E = matrix(A) @ Elementwise(torch.relu, 2) @ B
    close(x @ E, (x @ A).relu() @ B)
    assert E.factors() is None
    with pytest.raises(NotALinearMap, match="nonlinearity between the factors"):
        E.dense()
    with pytest.raises(NotALinearMap):
        (Weight(numbers(6, 5)) + E).delta()


def test_shapes_that_do_not_fit_say_so():
    with pytest.raises(ValueError, match=r"cannot multiply \(2, 3\) by \(4, 5\): inner sizes differ"):
        matrix(numbers(2, 3)) @ numbers(4, 5)
    with pytest.raises(ValueError, match=r"cannot add matrices of shapes"):
        matrix(numbers(2, 3)) + numbers(3, 2)
    with pytest.raises(ValueError, match="a matrix has two dimensions"):
        matrix(numbers(2, 3, 4))
    with pytest.raises(ValueError, match="holds no frozen weight"):
        matrix(numbers(2, 3)).delta()


def test_live_numbers_are_read_at_each_use():
    held = {"d": numbers(4), "M": numbers(4, 3)}
    E = Diag(torch.exp(Live(lambda: held["d"]))) @ Dense(2.0 * Live(lambda: held["M"]))
    x = numbers(2, 4)
    for _ in range(2):
        close(x @ E, x @ torch.diag(held["d"].exp()) @ (2.0 * held["M"]))
        held.update(d=numbers(4, train=True), M=numbers(4, 3))
    assert E.trainable == 4


ASKED = []


def _scaled(t, by):
    ASKED.append(by)
    return t * by


def test_a_function_is_asked_once_what_tensors_of_a_form_become():
    def outline(by, *sizes):
        t = torch.ones(*sizes, dtype=torch.int64)
        return Live.of(_scaled, Live(lambda: t), by)._outline

    assert outline(2, 3, 4).shape == outline(2, 3, 4).shape == (3, 4)
    assert (outline(2, 3).dtype, outline(2.0, 3).dtype) == (torch.int64, torch.float32)
    assert ASKED == [2, 2, 2.0]
