"""The paper's parameter budgets hold exactly, on the three models it trains; nothing is loaded to count them.

Blocks of one model are alike, so numbers are counted with one block and with two, and are linear in how many there are.
The command counts each method on all blocks of each model, at one rank, and finds the same.
"""

import copy
import csv
import re
from functools import cache

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForSequenceClassification

from cases import each
from papers import FIXTURES, config_of
from subspace_tuning import METHODS, SSB, LoRA, SubspaceConfig
from subspace_tuning.testing.cases import adapter_parameters
from subspace_tuning.tuner.budget import budget

MODELS = ["roberta-base", "deberta-v3-base", "roberta-large"]
NOMINAL = {"roberta-base": 125e6, "deberta-v3-base": 184e6, "roberta-large": 355e6}
with (FIXTURES / "budgets.csv").open(encoding="utf-8") as file:
    ROWS = [row for row in csv.DictReader(file) if row["method"] in METHODS]


def skeleton(name, **changes):
    """The classifier with shapes and no numbers."""
    config = copy.deepcopy(config_of(name))
    config.update(changes)
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(config)


@cache
def with_blocks(name, blocks):
    return skeleton(name, num_hidden_layers=blocks)


@cache
def trained_with(name, blocks, method, **fields):
    """Trained numbers without the head, of a model with so many blocks."""
    config = SubspaceConfig(method=method, task_type="SEQ_CLS", **fields)
    model = get_peft_model(copy.deepcopy(with_blocks(name, blocks)), config)
    assert all(p.is_meta for p in model.parameters())
    return sum(p.numel() for p in adapter_parameters(model).values())


def trained(name, method, **fields):
    """Trained numbers of the whole model, without the head."""
    one, two = (trained_with(name, blocks, method, **fields) for blocks in (1, 2))
    return one + (config_of(name).num_hidden_layers - 1) * (two - one)


def fields_of(row):
    return {"r": int(row["rank"])} if row["rank"] else {}


def test_the_table_covers_this_packages_methods():
    assert {row["model"] for row in ROWS} == set(MODELS)
    assert {row["method"] for row in ROWS} >= {"sam_parser", "ia3", "ssl", "ssb", "lora", "trilora", "flora"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['model']}-{row['method']}-{row['rank']}")
def test_the_budget_is_the_papers(row):
    counted = trained(row["model"], row["method"], **fields_of(row))
    assert counted == int(row["trainable"])
    assert round(1000 * counted / NOMINAL[row["model"]], 3) == float(row["permille_nominal"])
    shape = config_of(row["model"])
    d, f, layers = shape.hidden_size, shape.intermediate_size, shape.num_hidden_layers
    formula = re.sub(r"(?<=[\w)])\s+(?=[\w(])", " * ", row["formula"])
    assert counted == eval(formula, {}, {"d": d, "f": f, "L": layers, "r": int(row["rank"] or 0)})


@each(name=MODELS)
def test_full_sizes_are_the_published_ones(name):
    total = sum(p.numel() for n, p in skeleton(name).named_parameters() if not n.startswith(("classifier", "pooler")))
    assert total == {"roberta-base": 124_055_040, "deberta-v3-base": 183_831_552, "roberta-large": 354_310_144}[name]


@each(name=MODELS)
def test_bitfit_counts_every_bias_of_the_encoder(name):
    shape = config_of(name)
    d, f, layers = shape.hidden_size, shape.intermediate_size, shape.num_hidden_layers
    norms = 2 if shape.model_type == "deberta-v2" else 1  # after the embeddings; of the relative ones
    assert trained(name, "bitfit") == layers * (7 * d + f) + norms * d
    assert name != "roberta-base" or trained(name, "bitfit") == 102_144
    assert name != "roberta-base" or round(1000 * 102_144 / 125e6, 2) == 0.82


@each(name=MODELS)
def test_compositions_add_up(name):
    layers, d, f = (getattr(config_of(name), k) for k in ("num_hidden_layers", "hidden_size", "intermediate_size"))
    on_all_six = layers * (8 * d + 2 * (d + f))
    assert trained(name, SSB() | LoRA(r=2)) == on_all_six + trained(name, LoRA(r=2))


@each(name=MODELS)
def test_the_budget_command_counts_the_same(name):
    path = str(FIXTURES / name / "config.json")
    for row in ROWS:
        if row["model"] == name and row["rank"] in ("", "4"):
            counts = budget(path, SubspaceConfig(method=row["method"], **fields_of(row)))
            assert counts.trainable == int(row["trainable"])


def test_counting_agrees_with_the_layers_formula():
    for name, cls in METHODS.items():
        method, d, f = cls(), 768, 3072
        if cls.places == "all" and cls.sits_on == "weight" and not method.shared:  # else counted once: see the laws
            per_block = 4 * method.count(d, d) + method.count(d, f) + method.count(f, d)
            assert trained_with("roberta-base", 1, name) == per_block
