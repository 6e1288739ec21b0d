"""Training works as people know it: Trainer, checkpointing, autocast, compilation; what penalties are."""

import sys

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import Trainer, TrainingArguments

from cases import CASES, each
from models import ALL, batch, bert, gpt2
from subspace_tuning import SSB, FLoRA, LoRA, SubspaceConfig, TriLoRA, penalty
from subspace_tuning.method.mpc import PENALTIES
from subspace_tuning.testing.cases import Case, adapter_parameters, sits
from subspace_tuning.testing.cases import tuned as on_layer
from subspace_tuning.testing.kinds import KINDS, inputs
from subspace_tuning.testing.law import relative
from subspace_tuning.tuner.model import layers

CALM = [c for c in CASES if "dropout=0.5" not in str(c) and not c.resolved.noisy]


def tuned(case, make=bert, **values):
    return get_peft_model(make(), case.config(init_weights=False, **values))


def gradients(model, data):
    model.zero_grad()
    loss = model(**data).loss
    loss.backward()
    return loss.detach(), {k: p.grad.clone() for k, p in adapter_parameters(model).items()}


def assert_close(got, want):
    assert set(got) == set(want)
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=2e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


# --- checkpointing, autocast, compilation ----------------------------------------------------------------------------


@each(case=CALM)
def test_gradient_checkpointing_changes_no_gradient(case):
    model, data = tuned(case).train(), batch()
    loss, want = gradients(model, data)
    for how in ({"use_reentrant": False}, {"use_reentrant": True}):
        model.base_model.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
        model.enable_input_require_grads()
        again, got = gradients(model, data)
        torch.testing.assert_close(again, loss)
        assert_close(got, want)


@each(case=CALM)
def test_autocast_to_bf16(case):
    model, data = tuned(case), batch()
    loss, want = gradients(model, data)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low, got = gradients(model, data)
    assert relative(low, loss) < 2e-2
    assert all(g.dtype == torch.float32 for g in got.values())
    stacked = [torch.cat([g[k].flatten() for k in sorted(g)]) for g in (got, want)]
    assert relative(*stacked) < 0.15


@each(case=[case for case in CALM if sits(case, KINDS[0])])
def test_the_backward_pass_may_be_outside_of_autocast(case):
    net = nn.Sequential(nn.Linear(14, 14), nn.LayerNorm(14), nn.Linear(14, 14))
    config = case.config(init_weights=False, target_modules=["0", "2"])
    model, x = get_peft_model(net, config), torch.randn(3, 5, 14)
    model(x).square().sum().backward()
    want = {k: p.grad.clone() for k, p in adapter_parameters(model).items()}
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(x).float().square().sum()
    loss.backward()
    got = {k: p.grad for k, p in adapter_parameters(model).items()}
    stacked = [torch.cat([g[k].flatten() for k in sorted(g)]) for g in (got, want)]
    assert relative(*stacked) < 0.15


@each(case=CALM)
def test_a_bf16_base_trains(case):
    model = get_peft_model(bert().to(torch.bfloat16), case.config(init_weights=False))
    assert all(p.dtype == torch.float32 for p in adapter_parameters(model).values())
    _, got = gradients(model, batch())
    assert all(torch.isfinite(g).all() for g in got.values())
    assert any(g.any() for g in got.values())


def compiled(model):
    torch.compiler.reset()
    return torch.compile(model, backend="aot_eager", fullgraph=True)


def calls(function):
    """What the package's code calls meanwhile: (from which code, in which line, what)."""
    found = set()

    def note(frame, event, arg):
        caller = frame if event == "c_call" else frame.f_back
        if event in ("call", "c_call") and caller and "subspace_tuning" in caller.f_code.co_filename:
            what = frame.f_code if event == "call" else getattr(arg, "__qualname__", repr(arg))
            found.add((caller.f_code, caller.f_lineno, what))

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return found


COMPILED = set()


@each(case=CALM)
def test_every_method_compiles_without_graph_breaks(case):
    """A compiler follows the calls of a layer: one that makes none but those of layers before it is not compiled."""
    layer, x = on_layer(case, KINDS[0]).base_model.model.layer.train(), inputs(KINDS[0])
    made = calls(lambda: layer(x).square().sum().backward())
    assert made
    if made <= COMPILED:
        return
    traced = compiled(layer)
    torch.testing.assert_close(traced(x), layer(x))
    mine = list(layer.trained("default").values())
    want = torch.autograd.grad(layer(x).square().sum(), mine)
    got = torch.autograd.grad(traced(x).square().sum(), mine)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)  # compilers add in another order
    COMPILED.update(made)


def test_a_compiled_model_sees_its_parameters_change():
    model, data = tuned(Case(SSB() | LoRA(r=2), "o"), lambda: bert(num_hidden_layers=1)).train(), batch()
    loss, want = gradients(model, data)
    traced = compiled(model)
    model.zero_grad()
    again = traced(**data).loss
    again.backward()
    torch.testing.assert_close(again.detach(), loss)
    assert_close({k: p.grad for k, p in adapter_parameters(model).items()}, want)
    with torch.no_grad():
        for p in adapter_parameters(model).values():
            p.add_(0.3)
        torch.testing.assert_close(traced(**data).logits, model(**data).logits)


def test_decoders_compile_too():
    model, ids = tuned(Case(SSB() | LoRA(r=2)), gpt2).eval(), batch(gpt2)["input_ids"]
    want = model(input_ids=ids).logits
    torch.testing.assert_close(compiled(model)(input_ids=ids).logits, want)


# --- matrix pattern constraints --------------------------------------------------------------------------------------


def by_hand(params, pattern):
    """The penalty's definition, summed over the pairs A and B, in plain torch."""
    total = 0.0
    for name, A in params.items():
        if name.endswith("A"):
            B = params[name[:-1] + "B"]
            eye = torch.eye(A.shape[1])
            gram = B @ B.mT
            target = eye if pattern == "o" else gram * eye
            total = total + torch.linalg.matrix_norm(A.mT @ A - eye) ** 2 + torch.linalg.matrix_norm(gram - target) ** 2
    return total


CONSTRAINED = [
    Case(LoRA(r=2), "o"),
    Case(LoRA(r=2), "d"),
    Case(TriLoRA(r=2), "o"),
    Case(FLoRA(r=2), "o"),
    Case(SSB() | LoRA(r=2), "o"),
]


@each(case=CONSTRAINED)
def test_a_penalty_is_the_mean_over_the_weights_and_no_part_of_the_loss(case):
    model, data = tuned(case, mpc_weight=0.25), batch()
    calm = model.eval()(**data).loss
    want = 0.25 * by_hand(adapter_parameters(model), case.mpc) / len(list(layers(model)))
    assert want > 0.01
    torch.testing.assert_close(penalty(model), want)
    torch.testing.assert_close(model.train()(**data).loss, calm)


def test_a_penalty_is_that_of_the_active_adapters():
    model = bert()
    for name in "ab":
        model.add_adapter(Case(LoRA(r=2), "o").config(init_weights=False, mpc_weight=0.1), adapter_name=name)
    model.add_adapter(Case(SSB()).config(init_weights=False), adapter_name="free")
    for name in "ba":
        model.set_adapter(name)
        torch.testing.assert_close(
            penalty(model), 0.1 * by_hand(adapter_parameters(model, name), "o") / len(list(layers(model)))
        )
    model.set_adapter("free")
    assert penalty(model) is None
    model.set_adapter("a")
    model.disable_adapters()
    assert penalty(model) is None


def test_penalties_are_zero_exactly_at_their_pattern():
    Q = torch.linalg.qr(torch.randn(12, 3, dtype=torch.float64))[0]
    scaled = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)) @ Q.T
    assert PENALTIES["o"](Q, Q.T) < 1e-20
    assert PENALTIES["d"](Q, scaled) < 1e-20
    assert PENALTIES["o"](Q, scaled) > 1
    assert PENALTIES["d"](Q + 1, scaled) > 1


# --- transformers' Trainer -------------------------------------------------------------------------------------------


def rows(make, count=8):
    """A data set of single rows."""
    whole = batch(make, count)
    return [{k: v[i] for k, v in whole.items()} for i in range(count)]


@each(make=ALL)
def test_trainer_runs_two_steps(make, tmp_path):
    model = get_peft_model(make(), SubspaceConfig(method=SSB() | LoRA(r=2), mpc="o"))
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    how = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=4,
        learning_rate=0.01,
        report_to="none",
        save_strategy="steps",
        save_steps=2,
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=1,
        lr_scheduler_type="constant",
    )
    trainer = Trainer(model=model, args=how, train_dataset=rows(make))
    result = trainer.train()
    assert result.global_step == 2
    mine = adapter_parameters(model)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) != (name in mine), name
    assert (tmp_path / "checkpoint-2" / "adapter_model.safetensors").exists()


@each(case=[Case(SSB()), Case(LoRA(r=2), "o")])
def test_trainer_takes_a_model_with_an_added_adapter(case, tmp_path):
    model = bert()
    model.add_adapter(case.config())
    how = TrainingArguments(output_dir=str(tmp_path), max_steps=2, report_to="none", use_cpu=True, disable_tqdm=True)
    trainer = Trainer(model=model, args=how, train_dataset=rows(bert))
    assert trainer.train().global_step == 2
    trainer.save_model(tmp_path / "end")
    assert (tmp_path / "end" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("reentrant", [False, True])
def test_trainer_with_checkpointing_bf16_and_accumulation(reentrant, tmp_path):
    model = get_peft_model(bert(), SubspaceConfig(method="flora", r=2))
    how = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        bf16=True,
        gradient_accumulation_steps=2,
        per_device_train_batch_size=2,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": reentrant},
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        learning_rate=0.1,
    )
    before = {k: p.detach().clone() for k, p in adapter_parameters(model).items()}
    assert Trainer(model=model, args=how, train_dataset=rows(bert)).train().global_step == 2
    assert all(not torch.equal(p, before[k]) for k, p in adapter_parameters(model).items() if k.endswith("B"))
