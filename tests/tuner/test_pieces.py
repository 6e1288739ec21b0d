"""Weights that DeepSpeed's ZeRO-3 keeps in pieces, by a stand-in for its gather context; plans that split them."""

import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from peft import get_peft_model
from torch import nn

from cases import SINGLE
from models import llama
from subspace_tuning import SSB as Method
from subspace_tuning import LoRA, SubspaceConfig
from subspace_tuning.testing import Case
from subspace_tuning.weights import Unsupported

STARTS = [case for case in SINGLE if case.resolved.sits_on == "weight" and case.resolved.mergeable]

SSB = Case(Method())


class Zero:
    """As ZeRO-3 does with a layer: nothing is in a parameter, but within ``GatheredParameters``.

    What was written there is kept where a process is named whose it is.
    """

    def __init__(self, layer):
        self.whole = {}
        self.most = self.now = 0  # numbers that are gathered at a time
        for p in layer.parameters():
            p.ds_id = len(self.whole)
            self.whole[p.ds_id] = p.data.clone()
            p.data = torch.empty(0)

    @contextmanager
    def gathered(self, params, modifier_rank=None):
        for p in params:
            p.data = self.whole[p.ds_id].clone()
        self.now += sum(p.numel() for p in params)
        self.most = max(self.most, self.now)
        try:
            yield
        finally:
            self.now -= sum(p.numel() for p in params)
            for p in params:
                if modifier_rank is not None:
                    self.whole[p.ds_id] = p.data.clone()
                p.data = torch.empty(0)


def net():
    torch.manual_seed(0)
    return nn.ModuleDict({"first": nn.Linear(12, 12), "second": nn.Linear(12, 12)})


def tuned(case, model):
    torch.manual_seed(1)
    return get_peft_model(model, case.config(target_modules=["first", "second"])).base_model.model


def test_methods_start_from_partitioned_weights_as_from_whole_ones(monkeypatch):
    for case in STARTS:
        here, away = net(), net()
        zero = Zero(away)
        monkeypatch.setitem(sys.modules, "deepspeed.zero", SimpleNamespace(GatheredParameters=zero.gathered))
        here, away = tuned(case, here), tuned(case, away)
        for name in ("first", "second"):
            ours, theirs = away[name].values("default"), here[name].values("default")
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[k], theirs[k]) for k in theirs), str(case)
            assert away[name].get_base_layer().weight.numel() == 0
        assert zero.most == 12 * 12 + 12  # one layer at a time


def test_what_is_merged_into_partitioned_weights_is_kept(monkeypatch):
    here, away = net(), net()
    zero = Zero(away)
    monkeypatch.setitem(sys.modules, "deepspeed.zero", SimpleNamespace(GatheredParameters=zero.gathered))
    for model in (here := tuned(SSB, here), away := tuned(SSB, away)):
        for layer in (model["first"], model["second"]):
            torch.manual_seed(2)
            for p in layer.trained("default").values():
                p.data.normal_(std=0.1)
            layer.merge()
    assert torch.equal(zero.whole[0], here["first"].get_base_layer().weight)
    assert not torch.equal(zero.whole[0], net()["first"].weight)
    away["first"].unmerge()
    assert torch.equal(zero.whole[0], net()["first"].weight)


def test_a_model_that_a_plan_splits_is_refused():
    model = llama()
    model._tp_size = 2  # as transformers notes of a tp_plan
    with pytest.raises(Unsupported, match=r"tensor parallel plan .tp_plan, 2 processes.*share it out by FSDP2"):
        get_peft_model(model, SubspaceConfig(method=LoRA(r=2)))
