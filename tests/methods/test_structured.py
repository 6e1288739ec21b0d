"""What is particular to random, rotated, element-wise, Kronecker and curved updates."""

import copy

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from torch import nn

from cases import each
from models import batch, bert
from subspace_tuning import SubspaceConfig
from subspace_tuning.algebra import Dense, Hadamard, Kronecker, Weight
from subspace_tuning.methods import OFT, HiRA, LoKr, RandLoRA, StelLA, VeRA
from subspace_tuning.testing.cases import Case, tuned, values_of
from subspace_tuning.testing.kinds import KINDS, inputs
from subspace_tuning.testing.law import relative
from subspace_tuning.tuner.layer import SubspaceLayer

LINEAR = KINDS[0]


# --- VeRA, RandLoRA: random projections ------------------------------------------------------------------------------


@each(method=["vera", "randlora"])
def test_projections_follow_from_the_seed_and_are_never_stored(method, tmp_path):
    weights = bert().state_dict()

    def made(**fields):
        model = bert()
        model.load_state_dict(weights)
        torch.manual_seed(torch.initial_seed() + 1)  # whatever else is drawn
        return get_peft_model(model, SubspaceConfig(method=method, init_weights=False, **fields)).eval()

    model, inputs = made(), batch()
    model.save_pretrained(tmp_path)
    stored = {k.rsplit(".", 1)[1] for k in load_file(tmp_path / "adapter_model.safetensors")}
    assert stored == ({"b", "delta"} if method == "vera" else {"l", "g"})
    other = made(seed=1)
    other.load_state_dict(model.state_dict(), strict=False)
    same = made()
    same.load_state_dict(model.state_dict(), strict=False)
    assert torch.equal(same(**inputs).logits, model(**inputs).logits)
    assert not torch.equal(other(**inputs).logits, model(**inputs).logits)


def test_layers_of_one_shape_share_their_projections():
    model = get_peft_model(bert(), SubspaceConfig(method="vera", r=5, target_modules=["query", "value", "dense"]))
    held = {}
    for layer in model.modules():
        if isinstance(layer, SubspaceLayer):
            shape = layer.frozen.shape
            A = layer.subspace_constants["default"]["A"]
            assert held.setdefault(shape, A.data_ptr()) == A.data_ptr()
    assert len(held) == 3


def test_vera_works_with_add_adapter_of_transformers():
    model = bert()
    model.add_adapter(SubspaceConfig(method=VeRA(r=4), init_weights=False))
    want = model(**batch()).logits
    assert want.shape == (3, 2)
    model.disable_adapters()
    assert not torch.equal(model(**batch()).logits, want)


@each(kind=KINDS[:2], r=[3, 7])
def test_randlora_is_of_full_rank(kind, r):
    layer = tuned(Case(RandLoRA(r=r)), kind, dtype=torch.float64).base_model.model.layer
    delta = layer.tuned(["default"]).E.delta()
    assert torch.linalg.matrix_rank(delta) == min(delta.shape)


# --- OFT -------------------------------------------------------------------------------------------------------------


@each(b=[2, 4, 32])
def test_oft_keeps_angles_and_norms_of_the_neurons(b):
    layer = tuned(Case(OFT(b=b)), LINEAR, dtype=torch.float64).base_model.model.layer
    W, E = layer.frozen.dense(), layer.tuned(["default"]).E.dense()
    torch.testing.assert_close(E.T @ E, W.T @ W)
    assert relative(E, W) > 1e-2


# --- Hadamard and Kronecker ------------------------------------------------------------------------------------------


def test_few_rows_pass_through_w_and_many_rebuild_it():
    W, A, B = torch.randn(30, 20), torch.randn(30, 2), torch.randn(2, 20)
    E = Hadamard(Weight(W), Dense(A), Dense(B))
    for rows, few in ((1, True), (64, False)):
        x = torch.randn(rows, 30)
        assert E._by_rows(x) == few
        torch.testing.assert_close(E.apply(x), x @ (W * (A @ B)))


def test_a_hadamard_product_of_one_hot_rows_never_rebuilds_the_embedding():
    kind = next(k for k in KINDS if k.name == "embedding")
    model = tuned(Case(HiRA(r=2)), kind)
    layer = model.base_model.model.layer
    layer.tuned(["default"]).E.terms[1].dense = None  # not callable
    assert model(inputs(kind, 29)).shape == (29, 5, 10)


@each(sizes=[((2, 3), (5, 7)), ((3, 2), (4, 9)), ((1, 1), (6, 5)), ((6, 5), (2, 2))])
def test_kronecker_products_have_exact_factors_where_they_are_thin(sizes):
    (n1, m1), (n2, m2) = sizes
    C, L, R = torch.randn(n1, m1), torch.randn(n2, 1), torch.randn(1, m2)
    E = Kronecker(Dense(C), Dense(L) @ Dense(R))
    x = torch.randn(4, n1 * n2)
    torch.testing.assert_close(E.apply(x), x @ E.dense())
    found = E.factors()
    if min(n1, m1) < min(E.shape):
        assert found[0].shape[1] == min(n1, m1)
        torch.testing.assert_close(found[0] @ found[1], torch.kron(C, L @ R))
    else:
        assert found is None


def test_lokr_splits_sizes_as_evenly_as_they_go():
    assert LoKr(r=8).sizes(768, 3072) == {"n1": 24, "m1": 48, "d": 8 * (32 + 64)}
    assert LoKr(r=8, factor=4).sizes(768, 768) == {"n1": 4, "m1": 4, "d": 8 * (192 + 192)}
    assert LoKr(r=8).sizes(17, 768) == {"n1": 1, "m1": 24, "d": 8 * (17 + 32)}


# --- StelLA ----------------------------------------------------------------------------------------------------------


@each(scaling=[None, 16.0])
def test_stella_stays_on_the_manifold_and_learns(scaling):
    model = tuned(Case(StelLA(r=3, scaling=scaling)), LINEAR, init_weights=True).train()
    p, x = values_of(model.base_model.model.layer), inputs(LINEAR, 8)
    target = model(x).detach() + x @ torch.randn(14, 2) @ torch.randn(2, 10) / 8
    optimiser = torch.optim.AdamW(p.values(), lr=0.02, weight_decay=0.1)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (model(x) - target).pow(2).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        for name in "UV":
            torch.testing.assert_close(p[name].T @ p[name], torch.eye(3), atol=1e-5, rtol=0)
    assert losses[-1] < 0.5 * losses[0]


def test_stellas_gradients_are_riemannian_and_its_small_steps_follow_them():
    model = tuned(Case(StelLA(r=3)), LINEAR, init_weights=True, dtype=torch.float64).train()
    p = values_of(model.base_model.model.layer)
    with torch.no_grad():
        p["S"].copy_(torch.randn(3, 3))
    model(inputs(LINEAR, dtype=torch.float64)).pow(2).sum().backward()
    lr = 1e-9
    start, euclidean = copy.deepcopy(dict(p)), {k: v.grad.clone() for k, v in p.items()}
    torch.optim.SGD(p.values(), lr=lr).step()
    for name in "UV":
        U, G = start[name], p[name].grad
        torch.testing.assert_close(G, euclidean[name] - U @ euclidean[name].T @ U)
        torch.testing.assert_close(U.T @ G, -(G.T @ U))  # tangent
    for name in "UV":
        torch.testing.assert_close((p[name] - start[name]) / lr, -p[name].grad, rtol=1e-4, atol=1e-4)


# --- fields ----------------------------------------------------------------------------------------------------------


@each(
    given=[
        ("moslora", {"mixer": "zero"}, "the mixer starts kaiming or orthogonal"),
        ("liera", {"order": "second"}, "order is first or exponential"),
        ("oft", {"b": 1}, "block size b is a whole number above 1"),
        ("lokr", {"factor": 0}, "factor is a whole number above 0"),
        ("stella", {"scaling": -1.0}, "scaling is a number above 0"),
    ]
)
def test_fields_out_of_range_are_refused(given):
    name, fields, said = given
    with pytest.raises(ValueError, match=f"{name}: .*{said}"):
        SubspaceConfig(method=name, **fields)


def test_a_vera_wider_than_the_weight_is_fine():
    assert get_peft_model(nn.Sequential(nn.Linear(4, 3)), SubspaceConfig(method="vera", target_modules=["0"]))(
        torch.ones(2, 4)
    ).shape == (2, 3)
