"""Methods that act at steps of training, and a training in which everything is said by hand."""

import torch
from peft import get_peft_model

from models import batch, bert
from subspace_tuning import SSB, LoRA, TriLoRA, penalty
from subspace_tuning.methods import AdaLoRA, DiffPruning, FlexLoRA, LoRADash, StelLA
from subspace_tuning.testing.cases import Case, adapter_parameters, stored_numbers
from subspace_tuning.tuner.clock import LayerSeat
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.tuner.whole import Values

STEPS, LR = 6, 0.1
PHASES = {"tinit": 1, "tfinal": 2, "delta_t": 1}
ACTING = [  # every method that acts at steps, and penalties
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


def layers_of(model):
    return [m for m in model.modules() if isinstance(m, SubspaceLayer)]


def plain(model, data, path=None):
    optimizer = sgd(model)
    for _ in range(STEPS):
        model(**data).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
