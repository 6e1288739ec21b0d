"""Adapters are written at a strength: phi_t in a LoRA, in a plain model, in several as one."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from typer.testing import CliRunner

from cases import each
from models import batch, bert
from subspace_tuning import SSB, SubspaceConfig, set_strength
from subspace_tuning.cli import app
from subspace_tuning.convert.combine import combine
from subspace_tuning.convert.export import export
from subspace_tuning.convert.lora import Wanted
from subspace_tuning.errors import BadInput
from subspace_tuning.methods import IA3, MAM, OFT, BitFit, DoRA, LoRA
from subspace_tuning.testing.law import relative

EXACT = Wanted(exact=True)


@pytest.fixture
def made(tmp_path):
    """Makes an adapter with random values on disk; returns its folder and the model with it."""

    def make(method, name="adapter"):
        base = tmp_path / "base"
        if not base.exists():
            bert().save_pretrained(base)
        torch.manual_seed(len(name))
        config = SubspaceConfig(method=method, init_weights=False, task_type="SEQ_CLS")
        model = get_peft_model(type(bert()).from_pretrained(base), config).eval()
        model.save_pretrained(tmp_path / name)
        return tmp_path / name, model

    return make


def logits(model):
    torch.manual_seed(0)  # of the inputs
    with torch.no_grad():
        return model.eval()(**batch(bert)).logits


def alike(a, b, within=1e-5):
    return relative(logits(a), logits(b)) < within


def read_lora(folder):
    return PeftModel.from_pretrained(type(bert()).from_pretrained(folder.parent / "base"), folder)


def read_merged(folder):
    return type(bert()).from_pretrained(folder)


@each(t=[0.5, 1.5], method=[LoRA(r=2), LoRA(r=2, init="pissa")])
def test_where_phi_has_factors_phi_t_has_them_too(t, method, made, tmp_path):
    folder, model = made(method)
    certificate = export(folder, tmp_path / "out", strength=t)
    assert certificate.exact
    assert {layer.rank for layer in certificate.layers.values()} <= {2, 4}
    assert certificate.methods == [f"{method.describe()} at strength {t:g}"]
    set_strength(model, t)
    assert alike(read_lora(tmp_path / "out"), model)


@each(t=[0.3, 1.5], method=[SSB(), OFT(b=4), DoRA(r=2), BitFit(), IA3() | LoRA(r=2)])
def test_a_merged_model_is_the_model_at_that_strength(t, method, made, tmp_path):
    folder, model = made(method)
    export(folder, tmp_path / "out", "merged", strength=t)
    set_strength(model, t)
    assert alike(read_merged(tmp_path / "out"), model)


def test_what_has_no_factors_is_the_nearest_lora_of_phi_t(made, tmp_path):
    folder, model = made(SSB())
    export(folder, tmp_path / "out", wanted=EXACT, strength=0.5)
    set_strength(model, 0.5)
    assert alike(read_lora(tmp_path / "out"), model)


def test_a_type_of_pefts_has_no_strength_but_a_lora_of_factors_does(made, tmp_path):
    folder, model = made(LoRA(r=2))
    assert export(folder, tmp_path / "out", "peft", strength=0.5).peft_type == "LORA"
    set_strength(model, 0.5)
    assert alike(read_lora(tmp_path / "out"), model)
    ia3, _ = made(IA3(), "ia3")
    with pytest.raises(BadInput, match=r"no type of PEFT's computes .* at strength 0.5 does"):
        export(ia3, tmp_path / "ia3-out", "peft", strength=0.5)


def test_no_strength_is_the_base(made, tmp_path):
    folder, model = made(SSB())
    export(folder, tmp_path / "out", "merged", strength=0)
    set_strength(model, 0)
    assert torch.equal(logits(read_merged(tmp_path / "out")), logits(model))
    with pytest.raises(BadInput, match="changes no weight matrix"):
        export(folder, tmp_path / "lora", strength=0)
    assert not (tmp_path / "lora").exists()


@each(how=["sum", "compose"])
def test_each_of_several_has_its_own(how, made, tmp_path):
    (a, first), (b, second) = made(SSB(), "a"), made(LoRA(r=2), "bb")
    combine([a, b], tmp_path / "out", "merged", how=how, strengths=[0.5, 0.0])
    set_strength(first, 0.5)
    assert alike(read_merged(tmp_path / "out"), first)
    combine([a, b], tmp_path / "other", "merged", how=how, strengths=[0.0, 1.0])
    assert alike(read_merged(tmp_path / "other"), second)
    with pytest.raises(BadInput, match="got 3 for 2 adapters"):
        combine([a, b], tmp_path / "third", strengths=[1, 1, 1])


@each(t=[float("nan"), float("inf")])
def test_what_is_no_strength_is_refused(t, made, tmp_path):
    folder, _ = made(SSB())
    with pytest.raises(BadInput, match="a strength is a number"):
        export(folder, tmp_path / "out", strength=t)
    assert not (tmp_path / "out").exists()


def test_what_has_no_strength_is_told(made, tmp_path):
    folder, _ = made(MAM(tokens=2, r=2))
    with pytest.raises(BadInput, match="mam sits on whole blocks"):
        export(folder, tmp_path / "out", strength=0.5)


def test_the_commands(made, tmp_path):
    (a, first), (b, _) = made(LoRA(r=2), "a"), made(SSB(), "bb")
    run = CliRunner().invoke
    done = run(app, ["export", str(a), str(tmp_path / "out"), "--strength", "0.5"])
    assert done.exit_code == 0, done.output
    set_strength(first, 0.5)
    assert alike(read_lora(tmp_path / "out"), first)
    args = ["combine", str(a), str(b), "--to", "merged", "--out", str(tmp_path / "both")]
    done = run(app, [*args, "--strength", "0.5,0"])
    assert done.exit_code == 0, done.output
    assert alike(read_merged(tmp_path / "both"), first)
    done = run(app, [*args, "--strength", "half"])
    assert done.exit_code != 0
