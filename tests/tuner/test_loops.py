"""Methods and penalties act by themselves, exactly once a step of the optimiser, whatever loop makes it."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from accelerate import Accelerator
from peft import get_peft_model

from cases import each
from loops import trainer
from models import batch, bert
from subspace_tuning import SSB, LoRA, SubspaceConfig, TriLoRA, penalty, set_total_steps
from subspace_tuning.methods import AdaLoRA, DiffPruning, FlexLoRA, LoRADash, StelLA
from subspace_tuning.testing.cases import Case, adapter_parameters, stored_numbers
from subspace_tuning.tuner.clock import LayerSeat
from subspace_tuning.tuner.layer import LAYERS, SubspaceLayer
from subspace_tuning.tuner.whole import Values

STEPS, LR = 6, 0.1
PHASES = {"tinit": 1, "tfinal": 2, "delta_t": 1}
ACTING = [
    Case(LoRA(r=2), "o"),
    Case(TriLoRA(r=2), "d"),
    Case(SSB() | LoRA(r=2), "o"),
    Case(AdaLoRA(r=1, init_r=3, **PHASES)),
    Case(FlexLoRA(r=2, **PHASES)),
    Case(LoRADash(r=2, alpha=2.0, directions=2, launch=3)),
    Case(StelLA(r=2)),
    Case(DiffPruning(share=0.1, fixed=0.5, l0=1e-3)),
    Case(SSB() | AdaLoRA(r=1, init_r=3, **PHASES), "o"),
]


def base():
    return bert(
        num_hidden_layers=1, initializer_range=0.5
    )  # where gradients are as large as what methods and penalties do


def made(case, **values):
    torch.manual_seed(0)
    config = case.config(init_weights=False, total_steps=STEPS, mpc_weight=0.5, **values)
    return steady(get_peft_model(base(), config).train())


def steady(model):
    """With the same noise in every forward pass."""
    model.register_forward_pre_hook(lambda *_: torch.manual_seed(0) and None)
    return model


def rows(size=4):
    torch.manual_seed(1)
    return batch(bert, size)


def sgd(model, **how):
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=LR, **how)


def by_hand(case, steps=STEPS):
    """What a training comes to in which everything is said."""
    model, data = made(case), rows()
    layers = [m for m in model.modules() if isinstance(m, SubspaceLayer)]
    seats = [LayerSeat(x.path, x.frozen, Values(x.values("default"))) for x in layers]
    for step in range(1, steps + 1):
        loss = model(**data).loss
        term = penalty(model)
        (loss if term is None else loss + term).backward()
        with torch.no_grad():
            case.resolved.before_step(seats, step, STEPS)
            for p in model.parameters():
                if p.grad is not None:
                    p -= LR * p.grad
            case.resolved.after_step(seats, step, STEPS)
        model.zero_grad()
    return trained(model)


def trained(model):
    return {k: v.detach().clone() for k, v in (adapter_parameters(model) | stored_numbers(model)).items()}


# --- loops -----------------------------------------------------------------------------------------------------------


def plain(model, data, path):
    optimizer = sgd(model)
    for _ in range(STEPS):
        model(**data).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def halves(data):
    return [{k: v[i : i + 2] for k, v in data.items()} for i in (0, 2)]


def accumulated(model, data, path):
    optimizer = sgd(model)
    for _ in range(STEPS):
        for half in halves(data):
            (model(**half).loss / 2).backward()
        optimizer.step()
        optimizer.zero_grad()


def checkpointed(model, data, path):
    model.base_model.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    plain(model, data, path)


def by_closure(model, data, path):
    optimizer = sgd(model)

    def closure():
        optimizer.zero_grad()
        loss = model(**data).loss
        loss.backward()
        return loss

    for _ in range(STEPS):
        optimizer.step(closure)


def scaled(model, data, path, **how):
    optimizer, scaler = sgd(model, **how), torch.amp.GradScaler("cpu", init_scale=8.0)
    for step in range(STEPS + 2):
        loss = scaler.scale(model(**data).loss)
        (loss * torch.inf if step in (0, 3) else loss).backward()  # two steps are skipped
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


def scaled_fused(model, data, path):
    scaled(model, data, path, fused=True)


def by_accelerate(model, data, path):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, optimizer = accelerator.prepare(model, sgd(model))
    for _ in range(STEPS):
        for half in halves(data):
            with accelerator.accumulate(model):
                accelerator.backward(model(**half).loss)
                optimizer.step()
                optimizer.zero_grad()


def several(model, data, path):
    """One optimiser for matrices, one for the rest."""
    params = [p for p in model.parameters() if p.requires_grad]
    parts = [[p for p in params if p.dim() == 2], [p for p in params if p.dim() != 2]]
    optimizers = [torch.optim.SGD(part, lr=LR) for part in parts if part]
    for _ in range(STEPS):
        model(**data).loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        for optimizer in optimizers:
            optimizer.zero_grad()


class Wrapper(torch.optim.Optimizer):
    """An optimiser around another, as ZeRO's, SAM's or Lookahead's."""

    def __init__(self, inner):
        self.inner = inner
        super().__init__([{"params": group["params"]} for group in inner.param_groups], {})

    def step(self, closure=None):
        return self.inner.step(closure)


def wrapped(model, data, path):
    optimizer = Wrapper(sgd(model))
    for _ in range(STEPS):
        model(**data).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def with_the_penalty_in_the_loss(model, data, path):
    optimizer = sgd(model)
    for _ in range(STEPS):
        loss = model(**data).loss
        term = penalty(model)
        (loss if term is None else loss + term).backward()
        optimizer.step()
        optimizer.zero_grad()


def by_trainer(model, data, path, **values):
    values = {"optim": "sgd", "learning_rate": LR, "weight_decay": 0.0, "max_grad_norm": 0.0, **values}
    made = trainer(model, path, STEPS, **values)
    made.model_accepts_loss_kwargs = False  # BERT takes num_items_in_batch and does not divide by it
    made.train_dataset = [{k: v[i] for k, v in data.items()} for i in range(4)]
    made.train()


def by_trainer_accumulating(model, data, path):
    by_trainer(model, data, path, per_device_train_batch_size=2, gradient_accumulation_steps=2)


def interrupted(model, data, path):
    """Half of it, everything saved, and the rest with another model and optimiser."""
    optimizer = sgd(model)
    for step in range(STEPS):
        if step == STEPS // 2:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path / "saved")
            saved = torch.load(path / "saved", weights_only=True)
            twin = copy.deepcopy(model)
            twin.load_state_dict(saved["model"])
            optimizer = sgd(twin)
            optimizer.load_state_dict(saved["optimizer"])
            was, model = model, twin
        model(**data).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    was.load_state_dict(model.state_dict())


LOOPS = [
    plain,
    accumulated,
    checkpointed,
    by_closure,
    scaled,
    scaled_fused,
    by_accelerate,
    several,
    wrapped,
    with_the_penalty_in_the_loss,
    by_trainer,
    by_trainer_accumulating,
    interrupted,
]
_wanted = {}


@each(case=ACTING, loop=LOOPS)
def test_every_loop_is_the_one_in_which_everything_is_said(case, loop, tmp_path):
    want = _wanted.setdefault(case, by_hand(case))
    model = made(case)
    start = trained(model)
    loop(model, rows(), tmp_path)
    for name, value in trained(model).items():
        torch.testing.assert_close(value, want[name], rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
    assert any(not torch.equal(value, start[name]) for name, value in want.items())


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
    plain(model, rows(), None)
    got = trained_of(model, "other") or trained(model)
    for (name, value), wanted in zip(got.items(), want.values(), strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-3, atol=1e-4, msg=name)


def test_hooks_keep_nothing_alive():
    model = made(ACTING[3])
    plain(model, rows(), None)
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


def layers_of(model):
    return [m for m in model.modules() if isinstance(m, SubspaceLayer)]


# --- the number of all steps -----------------------------------------------------------------------------------------


def test_the_number_of_all_steps_is_asked_for_once():
    model = made(ACTING[3])
    for layer in layers_of(model):
        layer.clocks["default"].total = None
    with pytest.warns(UserWarning, match="total_steps=") as said:
        plain(model, rows(), None)
    assert len([w for w in said if "total_steps" in str(w.message)]) == 1
    set_total_steps(model, STEPS)
    plain(model, rows(), None)
    assert sum(int((d != 0).sum()) for k, d in trained(model).items() if k.endswith(".d")) == len(layers_of(model))


@each(total=[0, -1, 2.5, True])
def test_a_number_of_steps_is_a_whole_number(total):
    with pytest.raises(ValueError, match="total_steps is a whole number"):
        SubspaceConfig(method="lora", total_steps=total)
