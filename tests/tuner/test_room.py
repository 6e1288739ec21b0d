"""Ranks larger than a weight: taken where the equation allows them, capped where it starts from W, told either way."""

import warnings

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from cases import ON_LAYERS, each
from subspace_tuning import METHODS, SSB, LoRA, SubspaceConfig
from subspace_tuning.algebra import Weight
from subspace_tuning.methods import PSOFT, PiSSA
from subspace_tuning.testing.cases import adapter_parameters
from subspace_tuning.testing.law import relative
from subspace_tuning.tuner.layer import SubspaceLayer

RANKED = [name for name in ON_LAYERS if hasattr(METHODS[name](), "r")]
LARGE = 14  # of weights 8 x 12, 12 x 1
CAPPED = {"hra": {8, 12}}  # whose reflections are of the inputs, however few outputs there are


class Gated(nn.Module):
    """A block with a gate of one output, as mixtures of experts have."""

    def __init__(self):
        super().__init__()
        self.up, self.gate = nn.Linear(8, 12), nn.Linear(12, 1)

    def forward(self, x):
        y = self.up(x).tanh()
        return y * self.gate(y)


def large(name):
    method = METHODS[name]().with_fields(r=LARGE, init_r=LARGE, max_r=LARGE)
    return method.with_fields(init="pissa") if name == "dora" else method


def put(method, **values):
    """The tuned net and what was said of ranks on the way."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = get_peft_model(Gated(), SubspaceConfig(method=method, init_weights=False, **values)).eval()
    return model, [str(w.message) for w in said if "rank" in str(w.message) or "left out" in str(w.message)]


def seats(model):
    return {k.rpartition(".")[2]: m for k, m in model.named_modules() if isinstance(m, SubspaceLayer)}


@each(name=RANKED)
def test_a_large_rank_is_taken_or_capped_and_told(name, tmp_path):
    method = large(name)
    if method.calibration or name in ("psoft", "spectral_rotation"):
        pytest.skip("has a test of its own, or starts from data")
    model, said = put(method, target_modules=["up", "gate"])
    x = torch.randn(5, 8)
    want = model(x)
    assert {seat.methods["default"].r for seat in seats(model).values()} == (
        {LARGE} if method.wide else CAPPED.get(name, {8, 1})
    )
    assert bool(said) == (not method.wide)
    for message in said:
        assert "up, gate" in message
    want.square().sum().backward()
    assert all(p.grad is not None for p in adapter_parameters(model).values())
    model.save_pretrained(tmp_path)
    fresh = Gated()
    fresh.load_state_dict(
        {
            k.replace(".base_layer", ""): v
            for k, v in model.base_model.model.state_dict().items()
            if "subspace_" not in k
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = PeftModel.from_pretrained(fresh, tmp_path)
    torch.testing.assert_close(again(x), want)
    if method.mergeable:
        assert relative(model.merge_and_unload()(x), want) < 1e-5


@each(name=[name for name in RANKED if METHODS[name]().wide])
def test_projections_take_a_large_rank_too(name):
    method = METHODS[name]().with_fields(r=LARGE, init_r=LARGE)
    W, W_star = Weight(torch.randn(8, 12)), Weight(torch.randn(8, 12))
    shapes = {k: start.shape for k, start in method.parameters(8, 12).items()}
    assert {k: tuple(v.shape) for k, v in method.project(W, W_star).items() if k in shapes}.items() <= shapes.items()


@each(where=["all-linear", ".*(up|gate)"])
def test_modules_that_were_not_named_are_left_out_where_there_is_no_room(where, tmp_path):
    model, (said,) = put(PSOFT(r=2), target_modules=where)
    assert set(seats(model)) == {"up"}
    assert "left out: gate, which the method finds no room on" in said
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(Gated(), tmp_path)
    assert set(seats(again)) == {"up"}


def test_a_named_module_without_room_is_an_error_and_so_are_all_of_them():
    with pytest.raises(ValueError, match=r"gate: psoft: a rotation needs a rank r of 2 or more, got r=1"):
        put(PSOFT(r=2), target_modules=["up", "gate"])
    with pytest.raises(ValueError, match=r"gate: psoft: a rotation needs a rank r of 2"):
        put(PSOFT(r=2), target_modules=".*gate")


def test_members_of_a_composition_are_capped_one_by_one():
    model, (said,) = put(SSB() | LoRA(r=20) | PiSSA(r=20), target_modules=["up"])
    assert seats(model)["up"].methods["default"] == SSB() | LoRA(r=20) | PiSSA(r=8)
    assert "pissa(r=8" in said
