"""What a step costs wherever it runs, FLOPs and bytes kept, is what was committed."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import RobertaConfig, RobertaForSequenceClassification

from subspace_tuning import SubspaceConfig
from subspace_tuning.bench.contenders import FLOOR, make
from subspace_tuning.bench.floor import floor_ratio
from subspace_tuning.bench.reach import reach_of
from subspace_tuning.bench.saved import listing
from subspace_tuning.bench.step import Setting, base_model, bench, names

FIGURES = Path(__file__).parents[1] / "fixtures" / "floor" / "figures.json"
RENEW = (
    "subspace bench step tests/fixtures/floor/config.json --layers 2 --batch 2 --length 32 --rank 4 --no-peers "
    "--untimed --output tests/fixtures/floor/figures.json"
)


@pytest.fixture(scope="module")
def committed():
    return json.loads(FIGURES.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def setting(committed):
    return Setting(**{**committed["setting"], "modules": tuple(committed["setting"]["modules"]), "device": "cpu"})


def test_every_contender_costs_what_is_committed(committed, setting):
    """Less too is to be committed, else it may be lost again without a word."""
    lines = {line.name: line for line in bench(setting, peers=False, timed=False)}
    changed = [
        f"{c['name']}: {figure} {c[figure]:.4f} -> {now:.4f}"
        for c in committed["contenders"]
        for figure in ("flops_ratio", "saved_bytes_ratio", "adapter_bytes")
        if (now := getattr(lines[c["name"]], figure)) != pytest.approx(c[figure], rel=0.005)
    ]
    assert not changed, f"not as committed: {'; '.join(changed)}. If that is meant: {RENEW}"
    assert set(lines) == {"floor", "full", *names()} == {c["name"] for c in committed["contenders"]}


def test_the_floor_keeps_less_than_what_trains_every_block(committed):
    for c in committed["contenders"]:
        if c["name"] not in ("houlsby", "pfeiffer"):  # they start after the first block's attention
            assert c["saved_bytes_ratio"] >= 1.0, c["name"]


def test_a_listing_adds_up(setting):
    """What LoRA keeps beyond the floor are the rows whose maker keeps nothing, and thin ones."""
    small, large = Setting(setting.config, 2, 2, 32, 4), Setting(setting.config, 2, 4, 32, 4)
    rows = listing(small, "lora")
    assert all(row.in_floor for row in listing(small, "floor"))
    whole = 2 * 32 * 64 * 4 / 1e6  # of rows x in single precision
    beyond = [row for row in rows if not row.in_floor and row.mb >= whole]
    assert {row.modules[0].rpartition("layer.")[2] for row in beyond} == {
        "0.attention.self.query",
        "0.attention.output.dense",
        "1.attention.output.dense",
    }
    assert sum(r.mb for r in listing(large, "lora")) > 1.5 * sum(r.mb for r in rows)


def test_every_name_with_a_reach_is_a_contender():
    assert all(reach_of(name) for name in names())
    assert reach_of("loha") is None


def tuned(method: str):
    from peft import get_peft_model

    values = json.loads((FIGURES.parent / "config.json").read_text(encoding="utf-8"))
    values.pop("model_type")
    model = RobertaForSequenceClassification(RobertaConfig(**values, num_hidden_layers=1))
    return get_peft_model(model, SubspaceConfig(method=method, task_type="SEQ_CLS"))


@pytest.mark.parametrize("method", ["lora", "houlsby"])
def test_calibrating_against_the_floor_leaves_the_run_as_it_was(method):
    model = tuned(method).eval()
    batch = {"input_ids": torch.randint(5, 200, (2, 8)), "labels": torch.tensor([0, 1])}
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state, wanted = torch.get_rng_state(), {n for n, p in model.named_parameters() if p.requires_grad}
    assert 0 < floor_ratio(model, [batch], rounds=1) < float("inf")
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    assert {n for n, p in model.named_parameters() if p.requires_grad} == wanted
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_floor_trains_nothing_and_reaches_the_first_block(setting):
    contender = make(FLOOR, FLOOR, base_model(setting))
    reached = []
    first = next(m for n, m in contender.model.named_modules() if n.endswith("layer.0"))
    first.register_full_backward_hook(lambda *_: reached.append(True))
    contender.model(input_ids=torch.randint(5, 200, (1, 4)), labels=torch.tensor([0])).loss.backward()
    assert reached
    assert not contender.trained
    assert all(isinstance(p, nn.Parameter) and p.grad is None for p in contender.model.parameters())
