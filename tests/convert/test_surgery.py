"""Spectral Surgery reweights what a trained change is made of, and nothing else."""

import pytest
import torch
from peft import PeftModel

import tiny
from command import subspace
from subspace_tuning.convert.change import Change
from subspace_tuning.convert.layers import changes_of, seats
from subspace_tuning.convert.source import opened
from subspace_tuning.convert.surgery import POLICIES, Policy, reweighted, surgery
from subspace_tuning.errors import BadInput
from subspace_tuning.linalg.svd import svd
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import encoded, run, trainer_of

N, M, K = 9, 7, 5
every_policy = pytest.mark.parametrize("name", POLICIES)


def factors():
    return torch.randn(N, K, dtype=torch.float64), torch.randn(K, M, dtype=torch.float64)


@every_policy
@pytest.mark.parametrize("thin", [True, False])
def test_directions_and_the_sum_of_the_singular_values_stay(name, thin):
    L, R = factors()
    change = Change((L, R) if thin else L @ R, torch.ones(M))
    made = reweighted(change, torch.randn(N, M), Policy(name))
    assert made.has_factors is thin
    assert made.db is change.db
    U, S, Vt = change.svd
    core = U.T @ made.dense() @ Vt.T
    torch.testing.assert_close(U @ core @ Vt, made.dense())
    torch.testing.assert_close(core, torch.diag(core.diag()))
    torch.testing.assert_close(core.diag().sum(), S.sum())
    assert not torch.allclose(core.diag(), S)


def test_what_the_loss_depends_on_most_grows_most():
    L, R = factors()
    U, S, Vt = svd(L @ R).top(K)
    g = torch.tensor([0.1, -4.0, 2.0, 0.0, 1.0], dtype=torch.float64)
    G = U * g @ Vt
    for name in ("smooth", "select"):
        f = (U.T @ reweighted(Change((L, R)), G, Policy(name)).dense() @ Vt.T).diag() / S
        assert f.argmax() == 1, name
        assert f.argmin() == 3, name
    f = (U.T @ reweighted(Change((L, R)), G, Policy("direction")).dense() @ Vt.T).diag() / S
    assert f.argsort().tolist() == g.argsort(descending=True).tolist()


@every_policy
def test_a_loss_that_depends_on_nothing_changes_nothing(name):
    L, R = factors()
    torch.testing.assert_close(reweighted(Change((L, R)), torch.zeros(N, M), Policy(name)).dense(), L @ R)


def test_the_control_does_not_look_at_the_gradient():
    change = Change(factors())
    one, other = (reweighted(change, torch.randn(N, M), Policy("random", seed=1)).dense() for _ in range(2))
    torch.testing.assert_close(one, other)
    assert not torch.allclose(one, reweighted(change, torch.randn(N, M), Policy("random", seed=2)).dense())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("surgery")
    run(make(tiny.recipe(folder, epochs=2, method={"name": "lora", "r": 4})))
    return folder / "run"


def test_a_small_step_against_the_gradient_lowers_the_loss_of_the_rows(finished, tmp_path):
    """The sign of g is right: along it the loss rises."""
    losses = []
    for eta in (0.02, -0.02):
        out = tmp_path / f"{eta}"
        surgery(finished, out, "merged", Policy("direction", eta=eta), batches=100)
        losses.append(_loss(finished, out))
    assert losses[0] < losses[1]


def _loss(finished, model):
    """Over all training rows, of a model in the place of the run's base."""
    recipe = RunFolder(finished).recipe()
    rows, _ = encoded(recipe, recipe.task_object())
    loaded = opened(finished).make_base().from_pretrained(model)
    trainer = trainer_of(recipe, RunFolder(finished), loaded, [])
    return trainer.evaluate(rows)["eval_loss"]


def test_the_command_writes_a_lora_of_the_reweighted_change(finished, tmp_path):
    code, out, _ = subspace("surgery", finished, tmp_path / "refined")
    assert code == 0
    assert "written to" in out
    source = opened(finished)
    before = changes_of(model := source.load(), model.active_adapters)
    after = PeftModel.from_pretrained(source.make_base(), tmp_path / "refined").merge_and_unload()
    base = source.make_base()
    for name in seats(model):
        dW = (after.get_submodule(name).weight - base.get_submodule(name).weight).T.double()
        U, S, Vt = before[name].svd
        core = U.T @ dW @ Vt.T
        assert (dW - U @ core @ Vt).norm() < 1e-4 * dW.norm()
        assert (core - torch.diag(core.diag())).norm() < 1e-4 * dW.norm()
        assert core.diag().sum().item() == pytest.approx(S.sum().item(), rel=1e-4)


def test_what_has_no_rows_is_told_so(finished, tmp_path):
    with pytest.raises(BadInput, match="give a run's folder"):
        surgery(finished / "adapter", tmp_path / "out")
    with pytest.raises(BadInput, match="smooth, select"):
        Policy("hard")
