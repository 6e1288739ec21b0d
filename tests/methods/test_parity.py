"""Parity with PEFT's own implementation: same parameters in, same outputs, gradients and steps out."""

from types import SimpleNamespace

import pytest
import torch

from cases import each
from parity import BY_NAME, DIFFERENCES, PAIRS, Both
from subspace_tuning import penalty
from subspace_tuning.testing.kinds import inputs
from subspace_tuning.testing.law import relative

GRID = [(pair, BY_NAME[kind]) for pair in PAIRS for kind in pair.kinds]
paired = pytest.mark.parametrize(("pair", "kind"), GRID, ids=str)


def _outputs_and_gradients(pair, kind):
    """Of PEFT and of ours, each as name -> tensor, PEFT's in our layout."""
    both = Both.of(pair, kind)
    x = inputs(kind)
    found = []
    pull = None
    for model in (both.theirs, both.ours):
        own = x.clone().requires_grad_(x.is_floating_point())
        y = model(own)
        pull = torch.randn_like(y) if pull is None else pull
        (y * pull).sum().backward()
        found.append({"output": y.detach()} | ({} if own.grad is None else {"input": own.grad}))
    for name, (their, our, layout) in both.parameters().items():
        found[0][name], found[1][name] = layout(their.grad), our.grad
    return found


@paired
def test_outputs_and_gradients_are_pefts(pair, kind):
    theirs, ours = _outputs_and_gradients(pair, kind)
    assert set(theirs) == set(ours)
    for name, want in theirs.items():
        assert relative(ours[name], want) < 1e-5, name


@paired
@each(optimiser=[torch.optim.SGD, torch.optim.AdamW])
def test_three_training_steps_are_pefts(pair, kind, optimiser):
    both = Both.of(pair, kind)
    x = inputs(kind, 8)
    target = torch.randn_like(both.ours(x))
    for model in (both.theirs, both.ours):
        model.train()
        steps = optimiser([p for p in model.parameters() if p.requires_grad], lr=0.02)
        for _ in range(3):
            steps.zero_grad()
            (model(x) - target).square().mean().backward()
            steps.step()
    for name, (their, our, layout) in both.parameters().items():
        assert relative(our, layout(their)) < 1e-4, name
    assert relative(both.ours(x), both.theirs(x)) < 1e-4


@pytest.mark.parametrize("name", DIFFERENCES)
def test_known_differences_are_real(name):
    reason, pair, kind = DIFFERENCES[name]
    theirs, ours = _outputs_and_gradients(pair, BY_NAME[kind])
    assert max(relative(ours[key], want) for key, want in theirs.items()) > 1e-3, reason


def test_adaloras_penalty_is_the_papers_and_not_pefts():
    """The paper adds squares of norms (equation 4); PEFT adds the norms, and takes the mean over all factors."""
    pair = next(pair for pair in PAIRS if pair.title == "adalora")
    both = Both.of(pair, BY_NAME["linear"])
    values = both.layers()[1].subspace_params["default"]
    eye = torch.eye(3)
    a, b = (values["A"].T @ values["A"] - eye).norm(), (values["B"] @ values["B"].T - eye).norm()
    both.theirs.base_model.model.forward = lambda: SimpleNamespace(loss=torch.zeros(()))
    theirs = both.theirs.base_model().loss
    weight = both.theirs.peft_config["default"].orth_reg_weight
    torch.testing.assert_close(theirs, weight * (a + b) / 2)
    torch.testing.assert_close(penalty(both.ours), pair.ours.orthogonality * (a.square() + b.square()))
