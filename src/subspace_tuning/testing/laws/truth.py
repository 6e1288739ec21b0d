"""phi(W) as the package computes it is the dense truth: outputs, gradients, matrices, what is merged."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from subspace_tuning.testing.cases import Case, held_by, sits, tuned, tuned_layer, values_of
from subspace_tuning.testing.kinds import Kind, inputs
from subspace_tuning.testing.law import law, mergeable, require


def has_truth(case: Case, kind: Kind) -> bool:
    return case.truth is not None and sits(case, kind)


def has_dense_truth(case: Case, kind: Kind) -> bool:
    return case.truth is not None and mergeable(case, kind)


class Setup(NamedTuple):
    """A tuned model, its layer, and W and b as they were."""

    model: Any
    layer: Any
    W: Tensor
    b: Tensor | None

    @classmethod
    def of(cls, case: Case, kind: Kind) -> "Setup":
        model = tuned(case, kind, dtype=torch.float64)
        layer = tuned_layer(model)
        b = getattr(layer.base_layer, "bias", None)
        W = kind.matrix(layer.base_layer).detach().clone()
        return cls(model, layer, W, None if b is None else b.detach().clone())


def same(got: Tensor, want: Tensor, what: str, within: float = 1e-9) -> None:
    torch.testing.assert_close(got, want, rtol=within, atol=within, msg=lambda says: f"{what}: {says}")


@law(where=has_truth)
def forward_is_the_dense_truth(case: Case, kind: Kind) -> None:
    model, layer, W, b = Setup.of(case, kind)
    x = inputs(kind, dtype=torch.float64)
    want = case.rows(kind.rows(layer.base_layer, x), W, b, held_by(layer))
    same(kind.outputs(model(x)), kind.own(layer.base_layer, want), "the output")


@law(where=has_truth)
def gradients_are_those_of_autograd_through_the_dense_truth(case: Case, kind: Kind) -> None:
    model, layer, W, b = Setup.of(case, kind)
    x = inputs(kind, dtype=torch.float64)
    values = values_of(layer)
    y = kind.outputs(model(x))
    pull = torch.randn_like(y)
    got = torch.autograd.grad((y * pull).sum(), list(values.values()))
    copies = {k: v.detach().clone().requires_grad_() for k, v in values.items()}
    truth = case.rows(kind.rows(layer.base_layer, x), W, b, {**held_by(layer), **copies})
    want = torch.autograd.grad((kind.own(layer.base_layer, truth) * pull).sum(), list(copies.values()))
    for name, g, w in zip(values, got, want, strict=True):
        same(g, w, f"the gradient of {name}", 1e-8)


@law(where=has_dense_truth, first=1)
def dense_and_delta_are_the_dense_truth(case: Case, kind: Kind) -> None:
    _, layer, W, b = Setup.of(case, kind)
    want, _ = case.dense(W, b, held_by(layer))
    E = layer.tuned(["default"]).E
    same(E.dense(), want, "phi(W)")
    same(E.dense() - layer.frozen.dense(), want - W, "phi(W) - W")
    if (pair := E.delta_factors()) is not None:
        A, B = pair
        require(A.shape[1] < min(W.shape), f"the factors of phi(W) - W have the rank {A.shape[1]}, which is full")
        same(A @ B, want - W, "the factors of phi(W) - W")


@law(where=has_dense_truth)
def merged_weight_is_the_dense_truth(case: Case, kind: Kind) -> None:
    model, layer, W, b = Setup.of(case, kind)
    want_W, want_b = case.dense(W, b, held_by(layer))
    model.merge_adapter()
    same(kind.matrix(layer.base_layer), want_W, "the merged weight")
    if b is not None:
        assert want_b is not None, "the truth leaves out the bias"
        same(layer.base_layer.bias, want_b, "the merged bias")
