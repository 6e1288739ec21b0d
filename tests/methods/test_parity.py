"""Parity with PEFT's own implementation: same parameters in, same outputs, gradients and steps out."""

import copy
from types import SimpleNamespace

import peft
import pytest
import torch
from peft import get_peft_model

from cases import each
from models import batch, bert
from parity import BY_NAME, DIFFERENCES, PAIRS, Both
from subspace_tuning import SubspaceConfig, penalty, set_total_steps
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
        found[0][name], found[1][name] = layout(their.grad) * both.origin(name).unit, our.grad
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
    """DoRA's magnitudes, which are trained in units of their norms here, rest; so does weight decay where it leads to
    the start here and to zero there."""
    both = Both.of(pair, kind)
    held = both.parameters()
    for name, (their, our, _) in held.items():
        for p in (their, our):
            p.requires_grad_(not isinstance(both.origin(name).unit, torch.Tensor))
    decay = {"weight_decay": 0.0} if pair.origins(both.layers()[1]) else {}
    x = inputs(kind, 8)
    target = torch.randn_like(both.ours(x))
    for model in (both.theirs, both.ours):
        model.train()
        steps = optimiser([p for p in model.parameters() if p.requires_grad], lr=0.02, **decay)
        for _ in range(3):
            steps.zero_grad()
            (model(x) - target).square().mean().backward()
            steps.step()
    for name, (their, our, layout) in held.items():
        assert relative(our, both.origin(name).ours(layout(their))) < 1e-4, name
    assert relative(both.ours(x), both.theirs(x)) < 1e-4


@pytest.mark.parametrize("name", DIFFERENCES)
def test_known_differences_are_real(name):
    reason, pair, kind = DIFFERENCES[name]
    theirs, ours = _outputs_and_gradients(pair, BY_NAME[kind])
    assert max(relative(ours[key], want) for key, want in theirs.items()) > 1e-3, reason


def test_kasas_penalty_is_pefts_on_one_layer():
    pair = next(pair for pair in PAIRS if pair.title == "kasa")
    both = Both.of(pair._replace(ours=pair.ours.with_fields(beta=1e-4, gamma=1e-3)), BY_NAME["linear"])
    torch.testing.assert_close(penalty(both.ours), both.theirs.base_model._get_kasa_loss())


def test_adaloras_penalty_and_steps_with_it_are_pefts():
    pair = next(pair for pair in PAIRS if pair.title == "adalora")
    pair = pair._replace(ours=pair.ours.with_fields(orthogonality=0.5))
    both, x = Both.of(pair, BY_NAME["linear"]), inputs(BY_NAME["linear"], 8)
    target = torch.randn_like(both.ours(x))
    net = both.theirs.base_model.model
    net.forward = lambda x: SimpleNamespace(loss=(net.layer(x) - target).square().mean())
    assert both.theirs.peft_config["default"].orth_reg_weight == 0.5
    apart = both.theirs.base_model(x).loss - (both.ours(x) - target).square().mean()
    torch.testing.assert_close(penalty(both.ours), apart)
    set_total_steps(both.ours, 100)
    steps = [torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=0.1) for m in (both.theirs, both.ours)]
    for _ in range(3):
        for optimizer in steps:
            optimizer.zero_grad()
        both.theirs.base_model(x).loss.backward()
        (both.ours(x) - target).square().mean().backward()
        for optimizer in steps:
            optimizer.step()
    for name, (their, our, layout) in both.parameters().items():
        assert relative(our, layout(their)) < 1e-4, name


def test_norms_saved_whole_beside_a_method_train_as_in_pefts_ln_tuning():
    """The method's own parameters rest."""
    base, inputs = bert(), batch(bert)
    theirs = get_peft_model(copy.deepcopy(base), peft.LNTuningConfig(target_modules=["LayerNorm"]))
    beside = SubspaceConfig(method="ssb", target_modules=["query"], modules_to_save=["LayerNorm"])
    ours = get_peft_model(base, beside)
    trained = [
        {k: p for k, p in model.named_parameters() if p.requires_grad and "subspace_" not in k}
        for model in (theirs, ours)
    ]
    assert len(trained[0]) == len(trained[1]) > 4
    for model, mine in zip((theirs, ours), trained, strict=True):
        optimizer = torch.optim.SGD(mine.values(), lr=0.05)
        for _ in range(3):
            optimizer.zero_grad()
            model.eval()(**inputs).loss.backward()
            optimizer.step()
    for p, q in zip(trained[0].values(), trained[1].values(), strict=True):
        torch.testing.assert_close(p, q)
    assert relative(ours(**inputs).logits, theirs(**inputs).logits) < 1e-5
