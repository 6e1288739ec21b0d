"""The one reader: what was saved is read as it was, for every method; what is not whole is told."""

import copy
import json
import shutil
from dataclasses import replace

import pytest
import torch
from peft import get_peft_model

from models import batch, bert
from subspace_tuning import METHODS, SubspaceConfig, build, calibrate
from subspace_tuning.errors import BadInput
from subspace_tuning.tuner.adapter import read

SMALL = {"r": 2, "init_r": 3, "directions": 2, "b": 4, "tokens": 3}
ALL = sorted(METHODS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of an adapter with random parameters, the base model, inputs, and what the two compute.

    Saved once a method, read by many tests, changed by none; on one layer where layers share nothing.
    """
    made = {}

    def of(name, layers=None):
        method = build(name, {k: v for k, v in SMALL.items() if hasattr(METHODS[name], k)})
        layers = layers or (2 if method.shared else 1)
        if (name, layers) not in made:
            made[name, layers] = _save(method, bert(num_hidden_layers=layers), tmp_path_factory.mktemp("adapter"))
        folder, base, x, want = made[name, layers]
        return folder, copy.deepcopy(base), x, want

    return of


def _save(method, base, folder):
    x = {k: v for k, v in batch().items() if k != "labels"}
    config = SubspaceConfig(method=method, task_type="SEQ_CLS", modules_to_save=["pooler"])
    model = get_peft_model(copy.deepcopy(base), config.handed_over()).eval()
    if config.method.calibration:
        calibrate(model, [batch()])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        want = model(**x).logits
    model.save_pretrained(folder)
    return folder, base, x, want


@pytest.mark.parametrize("name", ALL)
def test_what_is_read_computes_what_was_saved(name, saved):
    folder, base, x, want = saved(name)
    with torch.no_grad():
        torch.testing.assert_close(read(folder).on(base).eval()(**x).logits, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in ALL if METHODS[name].sits_on != "tokens"])
def test_what_is_not_whole_is_told(name, saved):
    """Each tensor left out, turned, emptied or called otherwise; and a tensor too many."""
    folder, base, _, _ = saved(name)
    adapter = read(folder)
    adapter.check(base)
    damaged = [{**adapter.weights, "base_model.model.bert.none.subspace_params.A": torch.zeros(2)}]
    damaged += [{**adapter.weights, "base_model.model.bert.none.weight": torch.zeros(2)}]
    for key, value in list(adapter.weights.items())[:6]:
        others = {k: v for k, v in adapter.weights.items() if k != key}
        damaged += [others, {**others, key + "x": value}, {**others, key: value.unsqueeze(0)}]
        damaged += [{**others, key: torch.cat([value, value])}] if "classifier" not in key else []
    for weights in damaged:
        with pytest.raises(BadInput):
            replace(adapter, weights=weights).check(base)


def test_an_adapter_of_another_model_is_told(saved):
    folder, _, _, _ = saved("lora", layers=2)
    for other in (bert(hidden_size=32), bert(num_hidden_layers=1), bert(num_hidden_layers=3)):
        with pytest.raises(BadInput, match="does not fit this model"):
            read(folder).on(other)
    assert read(folder).on(bert(num_labels=2)) is not None


def test_a_soft_prompt_says_no_more_than_it_trains_by(saved, tmp_path):
    """PEFT would load a tokenizer, with keywords of the file, for a prompt that starts from a text."""
    folder = shutil.copytree(saved("prompt")[0], tmp_path / "adapter")
    path = folder / "adapter_config.json"
    data = json.loads(path.read_text())
    for key, value in {
        "tokenizer_kwargs": {"trust_remote_code": True},
        "prompt_tuning_init": "TEXT",
        "tokenizer_name_or_path": "somebody/model",
        "num_virtual_tokens": 10**9,
        "token_dim": -1,
    }.items():
        path.write_text(json.dumps({**data, key: value}))
        with pytest.raises(BadInput, match=key):
            read(folder)
