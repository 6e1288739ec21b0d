"""Every method on experts that are kept as one parameter: phi of each, as if it were a layer of its own."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from torch.func import functional_call
from transformers import GptOssConfig, MixtralConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from cases import CASES, each
from mixtures import MODELS, mixture
from subspace_tuning import SubspaceConfig
from subspace_tuning.algebra import Live
from subspace_tuning.method import Params, members
from subspace_tuning.tuner.at_once import filled
from subspace_tuning.tuner.penalty import penalty
from subspace_tuning.weights import Unsupported
from subspace_tuning.weights.experts import Unreadable

SIZES = {"hidden_size": 14, "intermediate_size": 10, "num_local_experts": 4, "num_hidden_layers": 1}
FUSED = ("gate_up_proj", "down_proj")
NAMES = [f"experts.{name}" for name in FUSED]


class Mixture(nn.Module):
    """A network of the experts of one block; what goes to whom is given. The last expert gets nothing."""

    def __init__(self, experts):
        super().__init__()
        self.experts = experts

    def forward(self, x):
        to = torch.tensor([[0, 1], [2, 1], [0, 2], [1, 2], [0, 1]])[: len(x)]
        return self.experts(x, to, torch.linspace(0.2, 0.9, to.numel(), dtype=x.dtype).view(to.shape))


def mixtral(how="eager"):
    """Stored (e, m, n), without biases."""
    return _filled(MixtralExperts(MixtralConfig(**SIZES)), how)


def gpt_oss(how="eager"):
    """Stored (e, n, m), with biases."""
    return _filled(GptOssExperts(GptOssConfig(**SIZES)), how)


def _filled(experts, how):
    experts.config._experts_implementation = how
    torch.manual_seed(0)
    for p in experts.parameters():
        nn.init.normal_(p, std=0.4)
    return Mixture(experts)


def sits(case, net):
    on = {f.sits_on for f in members(case.method)}
    biased = hasattr(net.experts, "down_proj_bias")
    asks = any(f.calibration for f in members(case.method))
    shared = case.resolved.shared  # refused
    return on <= {"weight", "bias"} and (biased or "bias" not in on) and not asks and not shared


def tuned(case, net, dtype=torch.float64, **values):
    config = case.config(target_modules=NAMES, init_weights=False, **values)
    return get_peft_model(net.to(dtype), config, autocast_adapter_dtype=False).eval()


def rows(dtype=torch.float64):
    return torch.randn(5, 14, dtype=dtype)


def pairs(nets=(mixtral, gpt_oss)):
    found = [(case, net) for case in CASES for net in nets if sits(case, net())]
    return pytest.mark.parametrize(("case", "net"), found, ids=lambda v: getattr(v, "__name__", None) or str(v))


def dense_truth(case, model, plain, values):
    """The experts' parameters, each matrix by the method's truth."""
    made = dict(plain.experts.named_parameters())
    for name in FUSED:
        held, turned = values[name], plain.experts.is_transposed
        bias = made.get(f"{name}_bias")
        each = []
        for i, own in enumerate(made[name]):
            p = {k: v[i] for k, v in held.items()}
            each.append(case.dense(own if turned else own.T, None if bias is None else bias[i], p))
        made[name] = torch.stack([W if turned else W.T for W, _ in each])
        if bias is not None:
            made[f"{name}_bias"] = torch.stack([b for _, b in each])
    return made


def held(model):
    layers = {name: getattr(model.base_model.model.experts, name) for name in FUSED}
    return {name: {k: t for group in layer.held("default") for k, t in group.items()} for name, layer in layers.items()}


@pairs()
def test_outputs_gradients_and_merged_weights_are_the_dense_truth(case, net):
    plain = net().to(torch.float64)
    model, x = tuned(case, copy.deepcopy(plain)), rows()
    if not case.resolved.mergeable:
        with pytest.raises(ValueError, match="not a map of the weight"):
            model.merge_adapter()
        return
    values = held(model)
    y = model(x)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in trained} == {id(p) for v in values.values() for p in v.values() if p.requires_grad}
    pull = torch.randn_like(y)
    got = torch.autograd.grad((y * pull).sum(), trained)
    truth = dense_truth(case, model, plain, values)
    want = functional_call(plain.experts, truth, _arguments(plain, x))
    torch.testing.assert_close(y, want, rtol=1e-9, atol=1e-9)
    wanted = torch.autograd.grad((want * pull).sum(), trained)
    for g, w in zip(got, wanted, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-8, atol=1e-8)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.merge_adapter()
    torch.testing.assert_close(model(x), y, rtol=1e-9, atol=1e-9)
    model.unmerge_adapter()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(model(x), y)
    merged = dict(model.merge_and_unload().experts.named_parameters())
    assert list(merged) == list(dict(plain.experts.named_parameters()))
    for name, value in truth.items():
        torch.testing.assert_close(merged[name], value, rtol=1e-9, atol=1e-9)


def _arguments(plain, x):
    seen = []
    handle = plain.experts.register_forward_pre_hook(lambda m, args: seen.append(args))
    plain(x)
    handle.remove()
    return seen[0]


@pairs()
def test_a_checkpoint_gives_the_same_output_and_a_start_changes_nothing_unless_told(case, net, tmp_path):
    plain = net()
    model, x = tuned(case, copy.deepcopy(plain), torch.float32), rows(torch.float32)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(copy.deepcopy(plain), tmp_path).eval()
    torch.testing.assert_close(again(x), model(x), rtol=1e-5, atol=1e-5)
    with again.disable_adapter():
        assert torch.equal(again(x), plain(x))
    fresh = get_peft_model(copy.deepcopy(plain), case.config(target_modules=NAMES)).eval()
    if case.resolved.starts_at == "W":
        torch.testing.assert_close(fresh(x), plain(x), rtol=1e-4, atol=1e-5)
    with fresh.disable_adapter():
        assert torch.equal(fresh(x), plain(x))


@each(case=[c for c in CASES if not {f.sits_on for f in members(c.method)} <= {"weight", "bias"}])
def test_what_is_no_map_of_the_weight_has_no_seat(case):
    with pytest.raises(Unsupported, match="experts are weights"):
        tuned(case, gpt_oss())


STEPPING = [c for c in CASES if sits(c, gpt_oss()) and c.resolved.on_step]


@each(case=STEPPING)
def test_a_step_of_training_is_that_of_each_expert_on_its_own(case):
    """What acts between steps sees each expert's weight, numbers and gradient."""
    model = tuned(case, gpt_oss(), total_steps=4).train()
    layer = model.base_model.model.experts.gate_up_proj
    (clock,) = layer.clocks.values()
    (model(rows()) ** 2).sum().backward()
    ((_, seats),) = clock._seats({})
    assert [s.name.rpartition("gate_up_proj")[2] for s in seats[: layer.base_layer.count]] == [
        f".{i}" for i in range(4)
    ]
    for i, seat in enumerate(seats[:4]):
        assert torch.equal(seat.W.dense(), layer.base_layer.weight[i])
        for name, value in seat.values.items():
            whole = layer.values("default")[name]
            assert value.data_ptr() == whole[i].data_ptr()
            assert whole.grad is None or torch.equal(value.grad, whole.grad[i])


@each(case=[c for c in CASES if sits(c, gpt_oss()) and c.resolved.penalises])
def test_a_penalty_is_the_mean_over_the_weights_of_all_experts(case):
    model = tuned(case, gpt_oss())
    each = [{k: Live(lambda v=v, i=i: v[i]) for k, v in own.items()} for own in held(model).values() for i in range(4)]
    terms = [case.resolved.penalty(Params(p), 8) for p in each]
    if terms[0] is None:
        assert penalty(model) is None
    else:
        torch.testing.assert_close(penalty(model), torch.stack(terms).sum())


@each(case=[c for c in CASES if sits(c, gpt_oss())])
def test_three_steps_move_what_is_trained_and_nothing_else(case):
    model = get_peft_model(gpt_oss(), case.config(target_modules=["experts.down_proj"], total_steps=4)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
    optimiser = torch.optim.Adam(trained.values(), lr=0.05)
    for _ in range(3):
        optimiser.zero_grad()
        (model(rows(torch.float32)) - 1).square().sum().backward()
        optimiser.step()
    for key, value in model.state_dict().items():
        if key in trained:
            assert case.resolved.on_step or not torch.equal(value, before[key]), key
            if not case.resolved.penalises:  # the last expert saw nothing
                torch.testing.assert_close(value[3], before[key][3], rtol=1e-5, atol=1e-6)
        elif "subspace_" not in key:
            assert torch.equal(value, before[key]), key


HOW = [(name, how) for name in MODELS for how in ("eager", "batched_mm", "grouped_mm")]
HOW.remove(("llama4_text", "grouped_mm"))  # has one way of its own
HOW.remove(("llama4_text", "batched_mm"))


@pytest.mark.parametrize(("name", "how"), HOW)
def test_real_mixtures_compute_merged_what_they_compute_unmerged(name, how):
    net = mixture(name, how)
    ids, before = torch.randint(4, 40, (2, 7)), {k: v.clone() for k, v in net.state_dict().items()}
    plain = net(input_ids=ids).logits
    config = SubspaceConfig(method="ssb|dora", r=2, target_parameters=NAMES)
    model = get_peft_model(net, config).eval()
    torch.testing.assert_close(model(input_ids=ids).logits, plain, rtol=1e-3, atol=1e-4)
    for p in model.parameters():
        if p.requires_grad:
            p.data.add_(torch.randn_like(p), alpha=0.1)
    y = model(input_ids=ids).logits
    assert (y - plain).abs().max() > 0.01
    y.square().sum().backward()
    trained = {k for k, p in model.named_parameters() if p.requires_grad}
    assert {k for k, p in model.named_parameters() if p.grad is not None} == trained
    model.merge_adapter()
    torch.testing.assert_close(model(input_ids=ids).logits, y, rtol=1e-3, atol=1e-4)
    model.unmerge_adapter()
    assert torch.equal(model(input_ids=ids).logits, y)
    net = model.unload()
    assert dict.fromkeys(before, True) == {k: torch.equal(v, before[k]) for k, v in net.state_dict().items()}


def test_a_refusal_leaves_the_parameters_where_they_were():
    net = mixtral()
    names = [k for k, _ in net.named_parameters()]
    with pytest.raises(Unsupported, match="sits on biases"):
        get_peft_model(net, SubspaceConfig(method="bitfit", target_modules=["experts.down_proj"]))
    assert [k for k, _ in net.named_parameters()] == names


def test_adapters_beside_each_other_do_not_mix():
    model, x = get_peft_model(gpt_oss(), SubspaceConfig(method="ssb", target_modules=["experts.down_proj"])), rows()
    model = model.to(torch.float64).eval()
    plain = model(x)
    other = SubspaceConfig(method="lora", r=2, target_modules=["experts.gate_up_proj"], init_weights=False)
    model.add_adapter("other", other)
    model.to(torch.float64)
    assert torch.equal(model(x), plain)
    model.set_adapter("other")
    changed = model(x)
    assert not torch.equal(changed, plain)
    model.delete_adapter("default")
    model.set_adapter("other")
    assert torch.equal(model(x), changed)
    with pytest.raises(ValueError, match="tokens of all samples together"):
        model(x, adapter_names=["other"] * 5)


@each(case=[c for c in CASES if sits(c, gpt_oss())])
def test_experts_at_once_are_experts_one_by_one(case, monkeypatch):
    """Outputs and gradients; above that share of W's numbers, an equation is computed expert by expert."""
    model, x, found = tuned(case, gpt_oss("batched_mm")), rows(), []
    trained = [p for p in model.parameters() if p.requires_grad]
    for share in (-1, 1e9):
        monkeypatch.setattr("subspace_tuning.tuner.at_once.SHARE", share)
        y = model(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), trained)])
    for one_by_one, at_once in zip(*found, strict=True):
        torch.testing.assert_close(at_once, one_by_one, rtol=1e-9, atol=1e-9)


def filled_calls(monkeypatch):
    seen = []
    monkeypatch.setattr("subspace_tuning.tuner.experts.filled", lambda *args: seen.append(1) or filled(*args))
    return seen


@pytest.mark.parametrize("method", ["lora", "ssb|lora"])
def test_grouped_products_take_experts_at_once(method, monkeypatch):
    """In training too; two adapters are as one."""
    net = mixture("mixtral", "grouped_mm", hidden_size=64, intermediate_size=64)
    model = get_peft_model(net, SubspaceConfig(method=method, init_weights=False, target_parameters=NAMES)).train()
    model.add_adapter("other", SubspaceConfig(method="ssb", init_weights=False, target_parameters=NAMES))
    model.base_model.set_adapter(["default", "other"])
    ids, seen = torch.randint(4, 40, (2, 7)), filled_calls(monkeypatch)
    y = model(input_ids=ids).logits
    assert len(seen) == 4
    monkeypatch.setattr("subspace_tuning.tuner.at_once.FEW", 0)
    torch.testing.assert_close(model(input_ids=ids).logits, y, rtol=1e-3, atol=1e-4)
    assert len(seen) == 4


def test_while_all_experts_are_at_work_there_is_no_W_to_read():
    layer = tuned(CASES[0], gpt_oss()).base_model.model.experts.gate_up_proj
    whole, reads_W = torch.ones(4, 1), Live(layer.frozen.dense)
    with pytest.raises(Unreadable):
        layer.lanes.all([whole], [whole], reads_W)
    assert torch.equal(layer.frozen.dense(), layer.base_layer.weight[0])


def test_nothing_of_the_size_of_a_weight_is_kept_where_experts_are_at_once():
    """No dense change of any expert, and no gradient of one."""
    net = mixture("mixtral", "grouped_mm", hidden_size=64, intermediate_size=64)
    model = get_peft_model(net, SubspaceConfig(method="lora", r=4, init_weights=False, target_parameters=NAMES)).train()
    fused, kept = model.base_model.model.model.layers[0].mlp.experts.gate_up_proj.base_layer, []
    size = fused.weight.numel()
    frozen = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        model(input_ids=torch.randint(4, 40, (1, 5))).logits.sum().backward()
    made = [t.numel() for t in kept if t.untyped_storage().data_ptr() not in frozen]
    assert max(made) < size / 2
