"""Methods and penalties act by themselves, exactly once a step of the optimiser, whatever loop makes it.

A loop decides when a step is, a method what happens at it, and neither knows the other. So all methods are in the plain
loop, and in the interrupted one, which carries what each remembers; every other loop has one of each kind: a penalty
alone, a method that acts before and after a step, and both in a composition.
"""

import copy
from itertools import product

import pytest
import torch
from accelerate import Accelerator

from acting import ACTING, LR, STEPS, by_hand, made, plain, rows, sgd, trained
from loops import trainer
from subspace_tuning import penalty
from subspace_tuning.methods import StelLA
from subspace_tuning.testing.law import label


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


WITH_ALL = [plain, interrupted]
WITH_KINDS = [
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
]
KINDS = [ACTING[0], *(case for case in ACTING if isinstance(case.method, StelLA)), ACTING[-1]]
PAIRS = [*product(ACTING, WITH_ALL), *product(KINDS, WITH_KINDS)]
_wanted = {}


@pytest.mark.parametrize(("case", "loop"), PAIRS, ids=label)
def test_every_loop_is_the_one_in_which_everything_is_said(case, loop, tmp_path):
    want = _wanted.setdefault(case, by_hand(case))
    model = made(case)
    start = trained(model)
    loop(model, rows(), tmp_path)
    for name, value in trained(model).items():
        torch.testing.assert_close(value, want[name], rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
    assert any(not torch.equal(value, start[name]) for name, value in want.items())
