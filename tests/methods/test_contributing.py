"""The worked example of CONTRIBUTING.md, run as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from subspace_tuning import LoRA, SubspaceConfig
from subspace_tuning.method.registry import METHODS

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")


METHOD, CHECK, SUITE, _ = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)  # the last one: a kind of task
NAMES = {"__name__": "contributing_example"}


def run(code):
    exec(compile(code, "CONTRIBUTING.md", "exec"), NAMES)


run(METHOD)
METHODS.pop("column_space")  # for the tests of this file alone
run(CHECK.partition("check(")[0])
run(SUITE)


@pytest.fixture(autouse=True)
def example(monkeypatch):
    monkeypatch.setitem(METHODS, "column_space", NAMES["ColumnSpace"])
    return NAMES["ColumnSpace"]


class TestColumnSpace(NAMES["TestColumnSpace"]):
    """The suite that stands there."""


def test_the_one_line_check_passes():
    run(CHECK)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 10))


def test_the_example_is_the_identity_at_start_and_its_equation_after(example):
    x = torch.randn(5, 12)
    base = network()
    start = get_peft_model(network(), SubspaceConfig(method="column_space", r=3, target_modules=["0"]))
    assert torch.equal(start(x), base(x))
    config = SubspaceConfig(method="column_space", r=3, target_modules=["0"], init_weights=False)
    model = get_peft_model(network(), config)
    values = dict(model.named_parameters())
    A, B = (next(v for k, v in values.items() if k.endswith(f".{name}")) for name in "AB")
    W, b = base[0].weight.T, base[0].bias
    truth = x @ (W + W @ A @ B) + b
    torch.testing.assert_close(model(x), truth)
    model.merge_adapter()
    torch.testing.assert_close(model(x), truth)


def test_the_example_saves_loads_counts_and_composes(example, tmp_path):
    config = SubspaceConfig(method=example(r=3) | LoRA(r=2), target_modules=["0"], init_weights=False)
    model = get_peft_model(network(), config)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2 * 3 * 10 + 2 * (12 + 10)
    model.save_pretrained(tmp_path)
    x = torch.randn(5, 12)
    assert torch.equal(PeftModel.from_pretrained(network(), tmp_path)(x), model(x))


def test_the_laws_need_no_pytest():
    code = "import sys; sys.modules['pytest'] = None; from subspace_tuning.testing import Laws, check"
    subprocess.run([sys.executable, "-c", code], check=True)
