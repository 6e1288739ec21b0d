"""How far a run's own training step is from the floor: a short calibration before training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from subspace_tuning.bench import measure
from subspace_tuning.bench.contenders import FLOOR, Contender, force_gradient_to_first_block, frozen_twin


def floor_ratio(model: nn.Module, batches: Iterable[dict[str, Any]], bf16: bool = False, rounds: int = 5) -> float:
    """Median over rounds and batches of the time of the model's step over that of its frozen twin.

    Weights, gradients and the state of random numbers are left as they were.
    """
    device = next(model.parameters()).device
    trained = [p for p in model.parameters() if p.requires_grad]
    own = Contender("own", "ours", model, trained, 0.0)
    floor = Contender(FLOOR, FLOOR, _floor_of(model), [], 0.0)
    was_training, pairs = model.training, []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model.train()
        for batch in batches:
            held = {k: v.to(device) for k, v in batch.items()}
            beside, step = (measure.Step(c, held, torch.bfloat16 if bf16 else None) for c in (floor, own))
            pairs += measure.beside_floor(beside, [step], rounds, warm_up=1)[0]
    model.train(was_training)
    return measure.paired_ratio(pairs)[0]


def _floor_of(model: nn.Module) -> nn.Module:
    twin = frozen_twin(model)
    if isinstance(twin, PeftModel):
        tuner: Any = twin.base_model
        if hasattr(tuner, "disable_adapter_layers"):
            tuner.disable_adapter_layers()
        twin = twin.get_base_model()
    force_gradient_to_first_block(twin.requires_grad_(False))
    return twin.train()
