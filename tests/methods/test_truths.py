"""phi(W) as the package computes it, against the dense truth written in the tests: outputs, matrices and gradients."""

import torch

from cases import CASES, KINDS, adapter_parameters, each, held_by, inputs, relative, seated, sits, tuned, values_of
from subspace_tuning import METHODS
from truths import ON_ROWS, TRUTHS, dense_truth, rows_truth


def test_every_registered_method_has_a_truth():
    for name, cls in METHODS.items():
        on_rows = not cls.mergeable and cls.sits_on not in ("tokens", "block")
        assert (name in TRUTHS) == bool(cls.mergeable), name
        assert (name in ON_ROWS) == on_rows, name


def _setup(case, kind):
    model = tuned(case, kind, dtype=torch.float64)
    layer = model.base_model.model.layer
    W = kind.matrix(layer.base_layer).detach().clone()
    b = getattr(layer.base_layer, "bias", None)
    return model, layer, W, None if b is None else b.detach().clone()


def _as_rows(y, kind):
    return y.flatten(2).transpose(1, 2) if kind.name.startswith("conv2d") else y


@seated
def test_forward_is_the_dense_truth(case, kind):
    model, layer, W, b = _setup(case, kind)
    x = inputs(kind, dtype=torch.float64)
    want = rows_truth(case.resolved, kind.rows(layer.base_layer, x), W, b, held_by(layer))
    torch.testing.assert_close(_as_rows(model(x), kind), want, rtol=1e-9, atol=1e-9)


@seated
def test_gradients_are_those_of_autograd_through_the_dense_truth(case, kind):
    model, layer, W, b = _setup(case, kind)
    x = inputs(kind, dtype=torch.float64)
    names = list(values_of(layer))
    y = _as_rows(model(x), kind)
    pull = torch.randn_like(y)
    got = torch.autograd.grad((y * pull).sum(), [values_of(layer)[k] for k in names])
    copies = {k: values_of(layer)[k].detach().clone().requires_grad_() for k in names}
    want = torch.autograd.grad(
        (rows_truth(case.resolved, kind.rows(layer.base_layer, x), W, b, {**held_by(layer), **copies}) * pull).sum(),
        list(copies.values()),
    )
    for name, g, w in zip(names, got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-8, atol=1e-8, msg=lambda m, name=name: f"{name}: {m}")


@each(case=[c for c in CASES if c.resolved.mergeable])
def test_dense_and_delta_are_the_dense_truth(case):
    kind = KINDS[0]
    _, layer, W, b = _setup(case, kind)
    want, _ = dense_truth(case.resolved, W, b, held_by(layer))
    E = layer.tuned(["default"]).E
    torch.testing.assert_close(E.dense(), want, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(E.dense() - layer.frozen.dense(), want - W, rtol=1e-9, atol=1e-9)
    pair = E.delta_factors()
    if pair is not None:
        assert pair[0].shape[1] < min(W.shape) or pair[0].shape[1] == 0
        torch.testing.assert_close(pair[0] @ pair[1], want - W, rtol=1e-9, atol=1e-9)


@seated
def test_merged_weight_is_the_dense_truth(case, kind):
    if not case.resolved.mergeable:
        return
    model, layer, W, b = _setup(case, kind)
    want_W, want_b = dense_truth(case.resolved, W, b, held_by(layer))
    model.merge_adapter()
    torch.testing.assert_close(kind.matrix(layer.base_layer), want_W, rtol=1e-9, atol=1e-9)
    if b is not None:
        torch.testing.assert_close(layer.base_layer.bias, want_b, rtol=1e-9, atol=1e-9)


@each(case=CASES)
def test_few_and_many_tokens_take_different_orders_to_the_same_output(case):
    """The planner may bracket differently when tokens outnumber the weight; the numbers must not."""
    kind = KINDS[0]
    assert sits(case, kind)
    model, *_ = _setup(case, kind)
    x = torch.randn(40, 5, 14, dtype=torch.float64)
    with torch.no_grad():
        many = model(x)
        few = torch.cat([model(row[None]) for row in x])
        single = torch.stack([model(row) for row in x[0]])
    assert relative(many, few) < 1e-12
    assert relative(single, many[0]) < 1e-12
    trained = model(x)
    assert relative(trained, many) < 1e-12
    assert len(adapter_parameters(model)) == len(case.resolved.parameters(14, 10))
