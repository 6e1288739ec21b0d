"""Optimisers that know the factors: what their papers claim, as laws; PEFT's, step by step; any method, any loop."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer, create_riemannian_optimizer
from torch import nn

from subspace_tuning import METHODS, SSB, LoRA, SubspaceConfig, optim
from subspace_tuning.errors import BadInput
from subspace_tuning.method.mpc import Constrained
from subspace_tuning.methods import DoRA
from subspace_tuning.optim.lora_pro import adjusted, sylvester
from subspace_tuning.optim.muon import orthogonal

N, M, R = 7, 5, 3
FACTORED = ["lora_plus", "riemannian", "lora_rite", "lora_pro", "muon"]
PAIRED = ["lora", "trilora", "flora", "moslora", "pissa", "milora", "dora", "hira", "loha", "lokr", "adalora"]
PAIRED += ["parallel"]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(N, M, dtype=torch.float64))


def tuned(method, **kwargs):
    model = get_peft_model(net(), SubspaceConfig(method=method, target_modules=["0"], **kwargs))
    return model.double()


def loss_of(model, seed=0):
    torch.manual_seed(seed)
    x, y = torch.randn(16, N, dtype=torch.float64), torch.randn(16, M, dtype=torch.float64)
    return (model(x) - y).square().mean()


def trained(model, optimizer, steps=5):
    losses = []
    for i in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model, i % 2)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def factors(model):
    (pair,) = optim.pairs_of(model)
    return pair


def product(model):
    A, B = factors(model).whole()
    return A @ B


def started(A, B):
    model = tuned(LoRA(r=R, alpha=R))
    with torch.no_grad():
        factors(model).A.copy_(A)
        factors(model).B.copy_(B)
    return model


def two_splits():
    """One product, split in two ways."""
    torch.manual_seed(1)
    A, B, S = (torch.randn(*shape, dtype=torch.float64) for shape in ((N, R), (R, M), (R, R)))
    return started(A, B), started(A @ S, torch.linalg.solve(S, B))


def apart(name, steps=6, **fields):
    """How far two splits of one product are from each other after training."""
    models = two_splits()
    before = product(models[0])
    for model in models:
        trained(model, optim.create(name, model, 0.03, **fields), steps)
    one, other = (product(model) for model in models)
    return ((one - other).norm() / (one - before).norm()).item()


def test_rite_does_not_depend_on_how_the_product_is_split():
    assert apart("lora_rite") < 1e-8


def test_riemannian_gradients_do_not_depend_on_how_the_product_is_split():
    assert apart("riemannian", damping=0.0, kind=torch.optim.SGD) < 1e-8


@pytest.mark.parametrize("name", ["adamw", "lora_plus", "muon"])
def test_others_do(name):
    assert apart(name) > 1e-2


def test_riemannian_steps_do_not_depend_on_the_scale_of_A_nor_grow_with_the_rank():
    """At the start, where B = 0: A dB = -lr s (the gradient on the columns of A)."""
    sizes = []
    for r in (2, 4):
        for scale in (1.0, 10.0):
            model = tuned(LoRA(r=r, alpha=r))
            with torch.no_grad():
                factors(model).A.mul_(scale)
            trained(model, optim.riemannian(model, 0.1, damping=0.0, kind=torch.optim.SGD), 1)
            sizes.append(product(model).norm().item())
    full = net()
    loss_of(full).backward()
    assert sizes[0] == pytest.approx(sizes[1])
    assert sizes[2] == pytest.approx(sizes[3])
    assert max(sizes) <= 0.1 * full[0].weight.grad.norm().item() + 1e-12


def test_the_gradients_of_lora_pro_come_as_near_to_full_tuning_as_factors_can():
    """Against least squares over all dA, dB, with the matrix of the map (dA, dB) -> s (dA B + A dB)."""
    torch.manual_seed(0)
    s = 1.7
    A, B, G = (torch.randn(*shape, dtype=torch.float64) for shape in ((N, R), (R, M), (N, M)))
    given = s * G @ B.T, s * A.T @ G
    of_A, of_B = adjusted(A, B, *given, s)
    eye_n, eye_m = torch.eye(N).double(), torch.eye(M).double()
    J = s * torch.cat([torch.kron(eye_n, B.T.contiguous()), torch.kron(A, eye_m)], 1)  # row-major
    best = torch.linalg.lstsq(J, G.flatten().unsqueeze(1), driver="gelsd").solution.squeeze(1)
    found = torch.cat([of_A.flatten(), of_B.flatten()])
    torch.testing.assert_close(J @ found, J @ best)
    null = torch.linalg.svd(J).Vh[torch.linalg.matrix_rank(J) :]
    torch.testing.assert_close(null @ found, null @ torch.cat([g.flatten() for g in given]))  # nearest to those given


def test_sylvester():
    torch.manual_seed(0)
    P, Q, C = (torch.randn(2, R, R, dtype=torch.float64) for _ in range(3))
    P, Q = P @ P.mT, Q @ Q.mT
    X = sylvester(P, Q, C)
    torch.testing.assert_close(P @ X + X @ Q, C)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon to compare with")
def test_muon_moves_along_the_orthogonal_part_as_torch_does():
    torch.manual_seed(0)
    model = started(torch.randn(N, R).double(), torch.randn(R, M).double())
    theirs = copy.deepcopy(model)
    before = factors(model).A.detach().clone()
    trained(model, optim.Muon(model, 0.1), 1)
    trained(theirs, torch.optim.Muon([factors(theirs).A], lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"), 1)
    ours, torchs = (factors(m).A.detach() - before for m in (model, theirs))
    torch.testing.assert_close(torch.linalg.svdvals(ours), torch.full((R,), 0.1 * 0.2 * N**0.5).double())
    assert torch.cosine_similarity(ours.flatten(), torchs.flatten(), 0) > 0.97  # theirs is iterated in bfloat16
    assert ours.norm() == pytest.approx(torchs.norm().item(), rel=0.3)


def test_the_orthogonal_part_of_nothing_is_nothing():
    assert not orthogonal(torch.zeros(2, N, R)).any()


def theirs_and_ours():
    """PEFT's LoRA and ours, alike."""
    ours = tuned(LoRA(r=R, alpha=2 * R))
    theirs = get_peft_model(net(), LoraConfig(r=R, lora_alpha=2 * R, target_modules=["0"])).double()
    layer = theirs.base_model.model[0]
    with torch.no_grad():
        factors(ours).B.normal_()
        layer.lora_A.default.weight.copy_(factors(ours).A.T)
        layer.lora_B.default.weight.copy_(factors(ours).B.T)
    return theirs, ours


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_lora_plus_is_that_of_peft(kind):
    theirs, ours = theirs_and_ours()
    made = create_loraplus_optimizer(theirs, kind, lr=0.01, loraplus_lr_ratio=8.0, loraplus_weight_decay=0.1)
    mine = optim.lora_plus(ours, 0.01, 0.1, ratio=8.0, kind=kind)
    torch.testing.assert_close(trained(ours, mine, 8), trained(theirs, made, 8))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_riemannian_is_that_of_peft(kind):
    theirs, ours = theirs_and_ours()
    made = create_riemannian_optimizer(theirs, kind, lr=0.01, reg=0.05, weight_decay=0.1)
    mine = optim.riemannian(ours, 0.01, 0.1, damping=0.05, kind=kind)
    torch.testing.assert_close(trained(ours, mine, 8), trained(theirs, made, 8))


@pytest.mark.parametrize("name", FACTORED)
@pytest.mark.parametrize("method", [*PAIRED, "composition", "constrained"])
def test_every_method_with_factors_trains(method, name):
    made = {"composition": SSB() | DoRA(r=2), "constrained": Constrained(LoRA(r=2), "o")}.get(method)
    made = made or METHODS[method](**({"init_r": 4, "r": 2} if method == "adalora" else {"r": 2}))
    model = tuned(made, **({"total_steps": 60} if method == "adalora" else {}))
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad and not p.any():
                p.normal_(std=0.05)  # LoRA's A has no gradient while B is zero
    before = {k: p.detach().clone() for k, p in model.named_parameters() if p.requires_grad}
    losses = trained(model, optim.create(name, model, 3e-3), 40)
    assert all(not torch.equal(p, before[k]) for k, p in model.named_parameters() if p.requires_grad)
    assert sum(losses[-4:]) < sum(losses[:4])


@pytest.mark.parametrize("name", FACTORED)
def test_decay_leads_back_to_W(name):
    """Parameters are deviations: with gradients of zero, decay takes phi(W) to W; with a start too (PiSSA)."""
    for method in (LoRA(r=2), METHODS["pissa"](r=2), SSB() | LoRA(r=2)):
        model = tuned(method)
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p.normal_()
        optimizer = optim.create(name, model, 0.01, weight_decay=5.0)
        x = torch.randn(4, N, dtype=torch.float64)
        base = model.base_model.model[0].base_layer(x)
        for _ in range(300):
            for p in model.parameters():
                p.grad = torch.zeros_like(p) if p.requires_grad else None
            optimizer.step()
        torch.testing.assert_close(model(x), base, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [*FACTORED, "adamw"])
def test_a_saved_optimiser_goes_on_as_if_undisturbed(name):
    model = tuned(LoRA(r=2) | SSB())
    optimizer = optim.create(name, model, 0.01)
    trained(model, optimizer, 3)
    again = copy.deepcopy(model)
    second = optim.create(name, again, 0.01)
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert trained(again, second, 3) == trained(model, optimizer, 3)


@pytest.mark.parametrize("name", FACTORED)
def test_several_weights_in_one_parameter_move_as_each_would_alone(name):
    """What a layer of fused experts holds: the leading dimension counts weights."""
    moved = []
    for which in (slice(0, 1), slice(1, 2), slice(0, 2)):
        torch.manual_seed(0)
        A, B, G_A, G_B = (torch.randn(2, *shape, dtype=torch.float64) for shape in ((N, R), (R, M)) * 2)
        model = tuned(LoRA(r=R))
        layer = model.base_model.model[0]
        held = layer.subspace_params["default"]
        held["A"], held["B"] = nn.Parameter(A[which].clone()), nn.Parameter(B[which].clone())
        optimizer = optim.create(name, model, 0.1)
        for _ in range(2):
            held["A"].grad, held["B"].grad = G_A[which].clone(), G_B[which].clone()
            optimizer.step()
        moved.append((held["A"].detach(), held["B"].detach()))
    for one, other, both in zip(*moved, strict=True):
        torch.testing.assert_close(torch.cat([one, other]), both)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("lora_pluss", "did you mean 'lora_plus'"),
        ({"name": "lora_plus", "rate": 2}, "its fields are ratio"),
        ({"name": "lora_plus", "ratio": -1}, "above 0"),
        ({"name": "riemannian", "damping": -1}, ">= 0"),
        ("schedule_free", "pip install schedulefree"),
    ],
)
def test_what_cannot_be_made_is_said(asked, says):
    with pytest.raises(BadInput, match=says):
        optim.create(asked, tuned(LoRA(r=2)), 0.1)


@pytest.mark.parametrize("name", FACTORED)
def test_methods_without_factors_are_refused(name):
    with pytest.raises(BadInput, match="factors A and B"):
        optim.create(name, tuned(SSB()), 0.1)


@pytest.mark.parametrize("name", FACTORED[1:])
def test_a_closure_would_change_the_gradients_and_is_refused(name):
    model = tuned(LoRA(r=2))
    with pytest.raises(BadInput, match="closure"):
        optim.create(name, model, 0.1).step(lambda: loss_of(model))
