"""Loading tells where a base model is not the one of training, and says nothing where it is."""

import copy
import warnings

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from subspace_tuning import SubspaceConfig
from subspace_tuning.testing.cases import Net


def loaded(method, change, tmp_path, **fields):
    """What loading an adapter says on a base that was changed."""
    torch.manual_seed(0)
    base = Net(nn.Linear(120, 96))
    config = SubspaceConfig(method=method, target_modules=["layer"], **fields)
    get_peft_model(copy.deepcopy(base), config).save_pretrained(tmp_path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        PeftModel.from_pretrained(change(base), tmp_path)
    return [str(w.message) for w in said if "other numbers" in str(w.message)]


def nudged(base):
    with torch.no_grad():
        base.layer.weight += 0.01 * torch.randn_like(base.layer.weight)
    return base


@pytest.mark.parametrize("method", ["svft", "sam_parser", "svdiff"])
@pytest.mark.parametrize("change", [lambda base: base.bfloat16(), nudged])
def test_singular_vectors_of_another_weight_are_told(method, change, tmp_path):
    (told,) = loaded(method, change, tmp_path)
    assert "load the base model in the precision of training" in told


@pytest.mark.parametrize("method", ["svft", "pissa", "lora_xs", "dora", "lora"])
def test_the_same_base_is_not_spoken_of(method, tmp_path):
    assert not loaded(method, lambda base: base, tmp_path)


@pytest.mark.parametrize("method", ["dora", "vera", "ssb", "lora"])
def test_what_rounding_leaves_as_it_is_is_not_spoken_of(method, tmp_path):
    assert not loaded(method, lambda base: base.bfloat16(), tmp_path, **({"r": 8} if method == "vera" else {}))
