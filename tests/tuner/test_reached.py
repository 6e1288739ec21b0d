"""Layers that the model never calls are named, and `subspace train` stops at them."""

import warnings

import pytest
import torch
from peft import get_peft_model
from torch import nn

import tiny
from cases import each
from models import batch, bert, t5
from subspace_tuning import SSB, BitFit, LoRA, SubspaceConfig
from subspace_tuning.errors import BadInput
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from subspace_tuning.tuner.reached import Bypassed


def said(model, inputs, times=2):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(times):
            model.train()(**inputs)
    return [w for w in found if issubclass(w.category, Bypassed) or "took no part" in str(w.message)]


class Reader(nn.Module):
    """Reads the weight of one of its layers, and nothing says so."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        return self.first(x) @ self.second.weight


def test_weights_that_their_owner_reads_are_named_once():
    model = get_peft_model(Reader(), SubspaceConfig(method="lora", r=2, target_modules=["first", "second"]))
    (warning,) = said(model, {"x": torch.randn(2, 6)})
    assert warning.category is Bypassed
    assert "second are read" in str(warning.message)
    assert "first" not in str(warning.message)
    model.add_adapter("other", SubspaceConfig(method="ssb", target_modules=["second"]))
    model.set_adapter("other")
    (warning,) = said(model, {"x": torch.randn(2, 6)})
    assert "second are read" in str(warning.message)


def test_modules_that_take_no_part_are_named():
    model = get_peft_model(t5(), SubspaceConfig(method="lora", r=2, target_modules=["q", "shared"]))
    (warning,) = said(model, batch(t5))
    assert "shared took no part" in str(warning.message)


@each(method=[LoRA(r=2), SSB(), BitFit(), "houlsby", "mam"])
def test_models_that_call_their_layers_hear_nothing(method):
    model = get_peft_model(bert(), SubspaceConfig(method=method))
    assert said(model, batch()) == []
    model.add_adapter("other", SubspaceConfig(method="ssb"))
    model.set_adapter("other")
    assert said(model, batch()) == []


def test_a_run_stops_at_layers_that_are_never_called(tmp_path, monkeypatch):
    recipe = make(tiny.recipe(tmp_path, target_modules=["query", "value"], epochs=1))

    def read_only(self, x):
        return nn.functional.linear(x, self.weight, self.bias)

    from subspace_tuning.tuner.layer import SubspaceLayer

    monkeypatch.setattr(SubspaceLayer, "__call__", read_only)
    with pytest.raises(BadInput, match="never called: a method there has no effect"):
        run(recipe)
