"""What the calibration pass finds is what autograd finds with W trainable; and methods start from it."""

import pytest
import torch
from peft import PeftModel, get_peft_model

from cases import each
from models import ALL, batch, bert
from subspace_tuning import METHODS, SSB, LoRA, SubspaceConfig, calibrate
from subspace_tuning.method import Method
from subspace_tuning.method.registry import register
from subspace_tuning.methods import FishMask
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from subspace_tuning.testing.cases import Net, adapter_parameters, held_by, stored_numbers
from subspace_tuning.testing.kinds import KINDS, inputs
from subspace_tuning.testing.law import relative
from subspace_tuning.tuner.calibrate import STATISTICS, needs_calibration
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.weights.slices import Slice
from tiny import recipe

SEEN = {}


@register("tests_witness")
class Witness(Method):
    """phi(W) = W.

    Looks at everything and keeps it.
    """

    category, formula, paper = "extension", "1", "tests"
    calibration = tuple(STATISTICS)

    def parameters(self, n, m):
        return FishMask(share=1e-9).parameters(n, m)

    def calibrated(self, W, found):
        SEEN[W.layer] = dict(found)
        return {}


METHODS.pop("tests_witness")


def loss_of(model, x):
    return (model(x) - 1).square().flatten(1).sum(1).mean()


def mean_loss(model, x):
    """Over the rows of all batches."""
    return sum(len(part) * loss_of(model, part) for part in x) / sum(map(len, x))


@each(kind=KINDS)
def test_statistics_are_those_of_autograd_on_single_examples(kind):
    net = Net(kind.layer()).double()
    x = [inputs(kind, b, torch.float64) for b in (4, 2)]
    rows = torch.cat([kind.rows(net.layer, part) for part in x]).double()
    own = getattr(net.layer, "whole", net.layer).weight.requires_grad_(True)

    def gradient(part):
        (g,) = torch.autograd.grad(loss_of(net, part), own)
        g = net.layer.of(g.T).T if isinstance(net.layer, Slice) else g
        return (
            g.flatten(1).T
            if kind.name.startswith("conv2d")
            else g.T
            if "linear" in kind.name or kind.name == "slice"
            else g
        )

    single = torch.stack([gradient(row[None]) for part in x for row in part])
    bias = dict(net.layer.named_parameters(recurse=False)).get("bias")  # a slice's is a part of another's
    of_bias = None if bias is None else torch.autograd.grad(mean_loss(net, x), bias)[0].flatten()
    model = get_peft_model(net, SubspaceConfig(method=Witness(), target_modules=["layer"]))
    calibrate(model, x, loss=loss_of, progress=False)
    found = SEEN[net.layer.base_layer]
    torch.testing.assert_close(found["gradients"], single.mean(0))
    torch.testing.assert_close(found["fisher"], single.square().mean(0))
    if of_bias is not None:
        torch.testing.assert_close(found["biases"], of_bias)
    flat = rows.flatten(0, 1)
    torch.testing.assert_close(found["activations"], flat.T @ flat / len(flat))


@each(make=ALL)
def test_every_architecture_calibrates_and_nothing_else_changes(make):
    model = get_peft_model(make(), SubspaceConfig(method=FishMask(share=0.05) | LoRA(r=2, init="corda"))).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    data = batch(make)
    with torch.no_grad():
        want = model.eval()(**data).logits
        model.train()
    assert needs_calibration(model)
    calibrate(model, [data, batch(make)], progress=False)
    assert not needs_calibration(model)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all(".subspace_" in k for k in changed)
    assert relative(model.eval()(**data).logits, want) < 1e-5  # phi(W) = W
    model.train()(**data).loss.backward()


def test_padding_says_nothing_of_activations():
    data = batch(bert)
    data["attention_mask"] = torch.ones_like(data["input_ids"])
    longer = {k: torch.cat([v, torch.zeros_like(v)], 1) if v.dim() == 2 else v for k, v in data.items()}
    base, found = bert(), []
    for one in (data, longer):
        model = get_peft_model(base, SubspaceConfig(method=Witness()))
        calibrate(model, [one], progress=False)
        found.append([SEEN[m.base_layer] for m in model.modules() if isinstance(m, SubspaceLayer)])
        base = model.unload()
    for a, b in zip(*found, strict=True):
        assert set(a) == set(b)
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-6)


def one_layer(method):
    net = Net(torch.nn.Linear(14, 10)).double()
    model = get_peft_model(net, SubspaceConfig(method=method, target_modules=["layer"]), autocast_adapter_dtype=False)
    x = inputs(KINDS[0], 20, torch.float64)
    calibrate(model, [x], loss=loss_of, progress=False)
    layer = model.base_model.model.layer
    return layer, x.flatten(0, 1), layer.base_layer.weight.T.detach(), held_by(layer)


def test_fishmask_keeps_the_largest_fisher_information():
    net = Net(torch.nn.Linear(14, 10)).double()
    model = get_peft_model(net, SubspaceConfig(method=FishMask(share=0.1), target_modules=["layer"]))
    x = inputs(KINDS[0], 8, torch.float64)
    net.eval().layer.base_layer.weight.requires_grad_(True)
    single = [torch.autograd.grad(loss_of(net, row[None]), net.layer.base_layer.weight)[0].T for row in x]
    calibrate(model, [x], loss=loss_of, progress=False)
    fisher = torch.stack(single).square().sum(0).flatten()
    assert set(fisher.topk(14).indices.tolist()) == set(held_by(net.layer)["places"].tolist())


def test_eva_starts_at_the_principal_directions_of_the_activations():
    _, x, _, p = one_layer(LoRA(r=3, init="eva"))
    _, _, Vt = torch.linalg.svd(x, full_matrices=False)
    torch.testing.assert_close(p["A"] @ p["A"].T, Vt[:3].T @ Vt[:3])
    torch.testing.assert_close((x @ p["A"]).norm(dim=0).sort(descending=True).values, (x @ Vt[:3].T).norm(dim=0))
    assert not p["B"].any()
    assert "A0" not in p


def test_lora_ga_moves_first_along_the_gradient():
    """Whatever small step A and B take, W moves along the 2 r first singular directions of its gradient."""
    layer, x, _, p = one_layer(LoRA(r=2, init="lora_ga"))
    y = layer(x).detach().requires_grad_()
    (dy,) = torch.autograd.grad((y.view(20, 5, 10) - 1).square().flatten(1).sum(1).mean(), y)
    G = x.T @ dy
    U, S, Vt = torch.linalg.svd(G, full_matrices=False)
    c = 10**0.25 / 4
    A, B = p["A0"] + p["A"], p["B0"] + p["B"]
    torch.testing.assert_close(A @ A.T, c * c * U[:, :2] @ U[:, :2].T)
    torch.testing.assert_close(B.T @ B, c * c * Vt[2:4].T @ Vt[2:4])
    first = A @ (A.T @ G) + (G @ B.T) @ B  # the change of A B in one step of plain descent
    best = U[:, :4] @ torch.diag(S[:4]) @ Vt[:4]
    torch.testing.assert_close(first, c * c * best)


def test_lora_one_starts_a_step_down_the_gradient():
    """Along its r first singular directions, the first of them by s sqrt(m) / 128; without the adapter W is back."""
    layer, x, W, p = one_layer(LoRA(r=2, init="lora_one"))
    y = (x @ W + layer.base_layer.bias).detach().requires_grad_()
    (dy,) = torch.autograd.grad((y.view(20, 5, 10) - 1).square().flatten(1).sum(1).mean(), y)
    U, S, Vt = torch.linalg.svd(x.T @ dy, full_matrices=False)
    step = 8 * 10**0.5 / 128 * U[:, :2] @ torch.diag(S[:2] / S[0]) @ Vt[:2]
    torch.testing.assert_close(layer.tuned(["default"]).E.dense(), W - step)
    assert set(p) == {"A", "B"}
    torch.testing.assert_close(p["A"].norm(dim=0), p["B"].norm(dim=1))


def test_corda_starts_where_the_outputs_on_the_data_are_largest():
    layer, x, W, p = one_layer(LoRA(r=3, init="corda"))
    C = x.T @ x / len(x)
    C = C + 0.01 * C.diagonal().mean() * torch.eye(14, dtype=C.dtype)
    U, S, Vt = torch.linalg.svd(C @ W, full_matrices=False)
    want = torch.linalg.inv(C) @ U[:, :3] @ torch.diag(S[:3]) @ Vt[:3]
    torch.testing.assert_close(layer.methods["default"].s * p["A0"] @ p["B0"], want)
    assert not p["A"].any()
    assert not p["B"].any()


# --- forgetting it, doing it twice, storing it -----------------------------------------------------------------------


def test_training_without_calibration_is_an_error_that_says_what_to_do():
    model, data = get_peft_model(bert(), SubspaceConfig(method="fishmask")), batch()
    with pytest.raises(RuntimeError, match=r"fishmask\(share=0.005\) starts from data.*run subspace_tuning.calibrate"):
        model.train()(**data)
    model.eval()(**data)
    with model.disable_adapter():
        model.train()(**data)


def test_calibration_without_need_or_data_or_loss_says_so():
    with pytest.raises(ValueError, match="no active adapter asks for a calibration"):
        calibrate(get_peft_model(bert(), SubspaceConfig(method="ssb")), [batch()])
    model = get_peft_model(bert(), SubspaceConfig(method="fishmask"))
    with pytest.raises(ValueError, match="a batch or more"):
        calibrate(model, [])
    with pytest.raises(ValueError, match="with labels"):
        calibrate(model, [{"input_ids": batch()["input_ids"]}])
    activations = get_peft_model(bert(), SubspaceConfig(method="lora", r=2, init="eva"))
    calibrate(activations, [{"input_ids": batch()["input_ids"]}])


def test_lora_ga_wants_two_r_directions():
    with pytest.raises(ValueError, match="2 r directions"):
        get_peft_model(bert(), SubspaceConfig(method="lora", r=9, init="lora_ga"))


@each(method=[FishMask(share=0.1), LoRA(r=2, init="corda"), SSB() | LoRA(r=2, init="lora_ga")])
@each(low_cpu_mem_usage=[False, True])
def test_a_calibrated_adapter_is_stored_and_needs_no_calibration_again(method, low_cpu_mem_usage, tmp_path):
    base = bert()
    twin = bert()
    twin.load_state_dict(base.state_dict())
    model, data = get_peft_model(base, SubspaceConfig(method=method)), batch()
    calibrate(model, [data], progress=False)
    with torch.no_grad():
        for p in adapter_parameters(model).values():
            p.add_(torch.randn_like(p), alpha=0.1)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(twin, tmp_path, is_trainable=True, low_cpu_mem_usage=low_cpu_mem_usage)
    assert all(torch.equal(stored_numbers(again)[k], v) for k, v in stored_numbers(model).items())
    assert torch.equal(again.eval()(**data).logits, model.eval()(**data).logits)
    again.train()(**data).loss.backward()


@each(method=[FishMask(share=0.1), LoRA(r=2, init="corda")])
def test_adapters_of_transformers_own_calibrate_too(method, tmp_path):
    model, data = bert(), batch()
    model.add_adapter(SubspaceConfig(method=method))
    with pytest.raises(RuntimeError, match="starts from data"):
        model.train()(**data)
    calibrate(model, [data], progress=False)
    model.train()(**data).loss.backward()
    model.save_pretrained(tmp_path)
    again = bert()
    again.load_adapter(str(tmp_path), is_trainable=True)
    assert all(torch.equal(stored_numbers(again)[k], v) for k, v in stored_numbers(model).items())
    again.train()(**data).loss.backward()


def test_a_sparse_adapter_is_stored_sparse(tmp_path):
    model = get_peft_model(bert(hidden_size=64, intermediate_size=128), SubspaceConfig(method=FishMask(share=0.005)))
    calibrate(model, [batch()], progress=False)
    model.save_pretrained(tmp_path)
    k = sum(p.numel() for p in adapter_parameters(model).values())
    size = sum(m.weight.numel() for m in model.modules() if isinstance(m, SubspaceLayer))
    assert k == pytest.approx(0.005 * size, rel=0.02)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 12 * k + 8_000


# --- recipes ---------------------------------------------------------------------------------------------------------


@each(method=["fishmask", {"name": "lora", "r": 2, "init": "eva"}, {"name": "adalora", "r": 1, "init_r": 2}])
def test_a_recipe_with_such_a_method_just_works(method, tmp_path, recwarn):
    told = make(recipe(tmp_path, method=method, calibration_batches=2))
    result = run(told)
    assert result.steps == 12
    assert not any("between steps" in str(w.message) for w in recwarn)
