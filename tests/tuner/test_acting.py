"""What acts at a step of an optimiser: which adapters, their penalties, under line searches, by how many steps."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from peft import get_peft_model

from acting import ACTING, LR, STEPS, base, by_hand, layers_of, made, plain, rows, sgd, steady, trained
from cases import each
from models import bert
from subspace_tuning import LoRA, SubspaceConfig, penalty, set_total_steps
from subspace_tuning.methods import DiffPruning
from subspace_tuning.testing.cases import Case, adapter_parameters
from subspace_tuning.tuner.layer import LAYERS, SubspaceLayer

# --- what a penalty is -----------------------------------------------------------------------------------------------


def test_clipping_is_before_the_penalty():
    model, data = made(ACTING[0]), rows()
    model(**data).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-9)
    optimizer = sgd(model)
    twin = copy.deepcopy(model)
    want = torch.autograd.grad(penalty(twin), list(adapter_parameters(twin).values()))
    optimizer.step()
    for p, g in zip(adapter_parameters(model).values(), want, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-4, atol=1e-7)


@each(case=[c for c in ACTING if c.resolved.penalises and not isinstance(c.method, DiffPruning)])
def test_a_weight_means_the_same_on_one_layer_and_on_many(case):
    config = {"target_modules": [f"layer.{i}.attention.self.query" for i in range(3)]}
    whole = get_peft_model(bert(num_hidden_layers=3), case.config(init_weights=False, **config))
    held = [m for m in whole.modules() if isinstance(m, SubspaceLayer)]
    for layer in held[1:]:
        layer.load_state_dict(held[0].state_dict(), strict=False)
    alone = get_peft_model(bert(num_hidden_layers=3), case.config(target_modules=config["target_modules"][:1]))
    (one,) = (m for m in alone.modules() if isinstance(m, SubspaceLayer))
    one.load_state_dict(held[0].state_dict(), strict=False)
    torch.testing.assert_close(penalty(whole), penalty(alone))


# --- which adapters act ----------------------------------------------------------------------------------------------


def test_an_adapter_without_a_gradient_stays_as_it_is():
    """Two models in one optimiser, of which one is trained; and an adapter that is not active."""
    one, other = made(ACTING[3]), made(ACTING[3])
    one.add_adapter("idle", Case(LoRA(r=2), "o").config(init_weights=False))
    idle = trained_of(one, "idle")
    optimizer = torch.optim.SGD([*one.parameters(), *other.parameters()], lr=LR)
    before = trained(other)
    for _ in range(3):
        one(**rows()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(v, before[k]) for k, v in trained(other).items())
    assert all(torch.equal(v, idle[k]) for k, v in trained_of(one, "idle").items())
    want = by_hand(ACTING[3], 3)
    for name, value in trained(one).items():
        torch.testing.assert_close(value, want[name], rtol=1e-3, atol=1e-4)


def trained_of(model, adapter):
    return {k: v.detach().clone() for k, v in adapter_parameters(model, adapter).items()}


def test_two_models_in_one_optimiser_count_for_themselves():
    one, other = made(ACTING[3]), made(ACTING[3])
    optimizer = torch.optim.SGD([p for m in (one, other) for p in m.parameters() if p.requires_grad], lr=LR)
    for _ in range(STEPS):
        for model in (one, other):
            model(**rows()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    want = by_hand(ACTING[3])
    for model in (one, other):
        for name, value in trained(model).items():
            torch.testing.assert_close(value, want[name], rtol=1e-3, atol=1e-4)


def test_a_deleted_adapter_acts_no_more():
    model = made(ACTING[0])
    model.add_adapter("other", SubspaceConfig(method="lora", r=2, init_weights=False))
    old = adapter_parameters(model)
    optimizer = sgd(model)
    model.set_adapter("other")
    model.delete_adapter("default")
    for p in old.values():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert not any(p.grad.any() for p in old.values())


def copied(config):
    return copy.deepcopy(get_peft_model(base(), config))


def added(config):
    model = base()
    model.add_adapter(config)
    return model


def second(config):
    model = get_peft_model(base(), SubspaceConfig(method="lora", r=2))
    torch.manual_seed(0)
    fresh = get_peft_model(base(), config)
    model.add_adapter("other", config)
    model.set_adapter("other")
    model.load_state_dict({k.replace(".default.", ".other."): v for k, v in fresh.state_dict().items()}, strict=False)
    return model


@each(how=[copied, added, second])
def test_copies_and_added_adapters_act_too(how):
    case = ACTING[3]
    want = by_hand(case)
    torch.manual_seed(0)
    model = steady(how(case.config(init_weights=False, total_steps=STEPS)).train())
    plain(model, rows())
    got = trained_of(model, "other") or trained(model)
    for (name, value), wanted in zip(got.items(), want.values(), strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-3, atol=1e-4, msg=name)


def test_hooks_keep_nothing_alive():
    model = made(ACTING[3])
    plain(model, rows())
    layer = next(m for m in model.modules() if isinstance(m, SubspaceLayer))
    seen = [weakref.ref(model), weakref.ref(layer), weakref.ref(next(iter(adapter_parameters(model).values())))]
    del model, layer
    gc.collect()
    assert [ref() for ref in seen] == [None] * 3
    assert all(isinstance(x, SubspaceLayer) for x in LAYERS.values())


def test_a_compiled_step_is_a_step():
    model, data = made(ACTING[3]), rows()
    optimizer = sgd(model)
    step = torch.compile(lambda: optimizer.step(), backend="eager")
    for _ in range(STEPS):
        model(**data).loss.backward()
        step()
        optimizer.zero_grad()
    want = by_hand(ACTING[3])
    for name, value in trained(model).items():
        torch.testing.assert_close(value, want[name], rtol=1e-3, atol=1e-4)


def test_a_model_sent_to_another_process_acts_there():
    encoder = pickle.loads(pickle.dumps(made(ACTING[3]).base_model.model.bert.encoder))
    params = {k: p for k, p in encoder.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(params.values(), lr=LR)
    for _ in range(STEPS):
        encoder(torch.ones(1, 3, 16)).last_hidden_state.square().mean().backward()
        optimizer.step()
    assert sum(int((p != 0).sum()) for k, p in params.items() if k.endswith(".d")) == len(layers_of(encoder))


# --- LBFGS -----------------------------------------------------------------------------------------------------------


@each(search=[None, "strong_wolfe"])
def test_a_line_search_sees_the_penalty_too(search):
    model, twin, data = made(ACTING[0]), made(ACTING[0]), rows()
    params = [p for p in twin.parameters() if p.requires_grad]
    optimizers = [
        torch.optim.LBFGS([p for p in m.parameters() if p.requires_grad], lr=0.1, max_iter=4, line_search_fn=search)
        for m in (model, twin)
    ]

    def by_itself():
        optimizers[0].zero_grad()
        loss = model(**data).loss
        loss.backward()
        return loss

    def said():
        optimizers[1].zero_grad()
        loss = twin(**data).loss + penalty(twin)
        loss.backward()
        return loss

    for _ in range(2):
        optimizers[0].step(by_itself)
        optimizers[1].step(said)
    for p, q in zip((p for p in model.parameters() if p.requires_grad), params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)


def test_lbfgs_is_one_step():
    model, data = made(ACTING[3]), rows()
    optimizer = torch.optim.LBFGS([p for p in model.parameters() if p.requires_grad], lr=0.01, max_iter=4)

    def closure():
        optimizer.zero_grad()
        loss = model(**data).loss
        loss.backward()
        return loss

    for _ in range(STEPS):
        optimizer.step(closure)
    assert sum(int((d != 0).sum()) for k, d in trained(model).items() if k.endswith(".d")) == len(layers_of(model))


# --- the number of all steps -----------------------------------------------------------------------------------------


def test_the_number_of_all_steps_is_asked_for_once():
    model = made(ACTING[3])
    for layer in layers_of(model):
        layer.clocks["default"].total = None
    with pytest.warns(UserWarning, match="total_steps=") as said:
        plain(model, rows())
    assert len([w for w in said if "total_steps" in str(w.message)]) == 1
    set_total_steps(model, STEPS)
    plain(model, rows())
    assert sum(int((d != 0).sum()) for k, d in trained(model).items() if k.endswith(".d")) == len(layers_of(model))


@each(total=[0, -1, 2.5, True])
def test_a_number_of_steps_is_a_whole_number(total):
    with pytest.raises(ValueError, match="total_steps is a whole number"):
        SubspaceConfig(method="lora", total_steps=total)
