"""Adapters leave as PEFT's own types where one computes the same: loaded by processes that know nothing of ours."""

import json
import subprocess
import sys

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file

import models
from subspace_tuning import METHODS, SubspaceConfig, build, calibrate
from subspace_tuning.convert.certificate import CERTIFICATE
from subspace_tuning.convert.export import export
from subspace_tuning.convert.from_peft import import_peft
from subspace_tuning.convert.lora import Wanted
from subspace_tuning.errors import BadInput
from subspace_tuning.testing.law import relative

NAMED = {  # ours -> the type of PEFT's that is written
    "lora": (models.bert, {"method": "lora", "r": 2, "alpha": 5.0, "rank_pattern": {"value": 3}}, "LORA"),
    "rslora": (models.bert, {"method": "lora", "r": 3, "rank_stabilized": True}, "LORA"),
    "lora_gpt2": (models.gpt2, {"method": "lora", "r": 2, "task_type": "CAUSAL_LM"}, "LORA"),
    "lora_mpc": (models.bert, {"method": "lora", "r": 2, "mpc": "o"}, "LORA"),
    "pissa": (models.bert, {"method": "pissa", "r": 2}, "LORA"),
    "lora_pissa": (models.bert, {"method": "lora", "r": 2, "init": "pissa"}, "LORA"),
    "trilora": (models.bert, {"method": "trilora", "r": 2}, "LORA"),
    "vera_of_each_shape": (models.bert, {"method": "vera", "r": 4}, "LORA"),  # with its exact factors
    "dora": (models.bert, {"method": "dora", "r": 2, "rank_pattern": {"value": 3}}, "LORA"),
    "kasa": (models.bert, {"method": "kasa", "r": 2, "rank_pattern": {"value": 3}}, "LORA"),
    "dora_vit": (models.vit, {"method": "dora", "r": 2, "target_modules": ["projection", "fc1"]}, "LORA"),
    "ia3_output": (models.bert, {"method": "ia3_output"}, "IA3"),
    "ia3_without_biases": (models.llama, {"method": "ia3"}, "IA3"),
    "ssl": (models.bert, {"method": "ssl"}, "IA3"),
    "adalora": (models.bert, {"method": "adalora", "r": 2, "init_r": 4}, "ADALORA"),
    "vera": (
        models.bert,
        {"method": "vera", "r": 4, "cut_n": 16, "cut_m": 16, "target_modules": ["query", "value"]},
        "VERA",
    ),
    "oft": (models.bert, {"method": "oft", "b": 8}, "OFT"),
    "loha": (models.bert, {"method": "loha", "r": 2, "rank_pattern": {"value": 3}}, "LOHA"),
    "lokr": (models.bert, {"method": "lokr", "r": 1}, "LOKR"),
    "hira": (models.bert, {"method": "hira", "r": 2}, "HIRA"),
    "c3a": (models.bert, {"method": "c3a", "b": 8}, "C3A"),
    "miss": (models.bert, {"method": "miss", "r": 4}, "MISS"),
    "gralora": (models.bert, {"method": "gralora", "r": 4}, "GRALORA"),
    "fourierft": (models.bert, {"method": "fourierft", "frequencies": 50}, "FOURIERFT"),
    "waveft": (models.bert, {"method": "waveft", "frequencies": 50}, "WAVEFT"),
    "oft_by_terms": (models.bert, {"method": "oft", "b": 8, "terms": 5}, "OFT"),
    "boft": (models.bert, {"method": "boft", "b": 8, "factors": 1}, "BOFT"),
    "hra": (models.bert, {"method": "hra", "r": 2}, "HRA"),
    "road": (models.bert, {"method": "road", "variant": 4, "group": 8}, "ROAD"),
    "delora": (models.bert, {"method": "delora", "r": 2, "rank_pattern": {"value": 3}}, "DELORA"),
}
LOADING = """
import json, sys
import torch, transformers
from peft import PeftModel
for name, cls, base, folder, batch, out in json.load(open(sys.argv[1])):
    model = getattr(transformers, cls).from_pretrained(base)
    with torch.no_grad():
        torch.save(PeftModel.from_pretrained(model, folder).eval()(**torch.load(batch)).logits, out)
assert not any(name.split(".")[0] == "subspace_tuning" for name in sys.modules)
"""


def inputs(make):
    return {key: value for key, value in models.batch(make).items() if key != "labels"}


def trained(make, home, **values):
    """An adapter of ours with random parameters on a model, both on disk; the model with it."""
    base = make()
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    base.save_pretrained(home / "base")
    model = type(make()).from_pretrained(home / "base").eval()
    adapted = get_peft_model(model, SubspaceConfig(init_weights=False, **values)).eval()
    adapted.save_pretrained(home / "ours")
    return adapted


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Each adapter, exported and loaded by one process that never imports us: (certificate, logits there, ours)."""
    torch.manual_seed(0)
    home, made, jobs = tmp_path_factory.mktemp("elsewhere"), {}, []
    for name, (make, values, _) in NAMED.items():
        place, batch = home / name, inputs(make)
        adapted = trained(make, place, **values)
        certificate = export(place / "ours", place / "theirs", "peft")
        torch.save(batch, place / "batch")
        cls = type(adapted.get_base_model()).__name__
        jobs.append([name, cls, *(str(place / part) for part in ("base", "theirs", "batch", "logits"))])
        with torch.no_grad():
            made[name] = certificate, place, adapted(**batch).logits
    (home / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run([sys.executable, "-c", LOADING, str(home / "jobs.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        name: (certificate, place, torch.load(place / "logits"), ours)
        for name, (certificate, place, ours) in made.items()
    }


@pytest.mark.parametrize("name", NAMED)
def test_what_is_written_computes_the_same_without_us(elsewhere, name):
    certificate, place, theirs, ours = elsewhere[name]
    assert relative(theirs, ours) < 1e-5
    assert certificate.peft_type == NAMED[name][2]
    assert certificate.exact
    assert certificate.moved.mean > 100 * certificate.logits.mean
    told = json.loads((place / "theirs" / CERTIFICATE).read_text())
    assert told["to"] == "peft"
    assert json.loads((place / "theirs" / "adapter_config.json").read_text())["peft_type"] == NAMED[name][2]


THERE_AND_BACK = ["lora", "dora", "kasa", "ia3_output", "adalora", "vera", "oft", "loha", "lokr", "hira"]
THERE_AND_BACK += ["oft_by_terms", "c3a", "miss", "gralora", "fourierft", "waveft"]
THERE_AND_BACK += ["boft", "road"]  # not HRA, whose start is taken off on loading, nor DeLoRA's 15 + delta, rounded


@pytest.mark.parametrize("name", THERE_AND_BACK)
def test_an_import_of_what_was_written_is_what_it_was(elsewhere, name, tmp_path):
    """The table leads both ways; DoRA's magnitudes come back as they are, and turn into ours where W is at hand."""
    _, place, _, _ = elsewhere[name]
    import_peft(place / "theirs", tmp_path / "back")
    first, again = (load_file(folder / "adapter_model.safetensors") for folder in (place / "ours", tmp_path / "back"))
    assert {key.replace(".delta", ".m") if name == "dora" else key for key in first} == set(again)
    for key, value in first.items():
        if key not in again:
            continue
        torch.testing.assert_close(again[key], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", sorted(k for k, cls in METHODS.items() if cls.sits_on in ("weight", "bias")))
def test_every_method_is_written_or_refused_in_a_sentence(method, tmp_path):
    values = {"r": 2} if hasattr(METHODS[method], "r") else {}
    values |= {"init_r": 3} if method == "adalora" else {}
    made = build(method, values)
    torch.manual_seed(0)
    adapted = trained(models.bert, tmp_path, method=made)
    if made.calibration:
        calibrate(adapted, [models.batch()])
        adapted.save_pretrained(tmp_path / "ours")
    said = ""
    try:
        certificate = export(tmp_path / "ours", tmp_path / "theirs", "peft")
    except BadInput as error:
        said = str(error)
    if said:
        assert not made.mergeable or ("--to merged" in said and "--to lora" in said)
        assert not (tmp_path / "theirs").exists()
        return
    assert certificate.exact
    assert certificate.logits.largest < 1e-4 * max(1.0, certificate.logits.size)


REFUSED = {
    "ia3": (models.bert, {"method": "ia3"}, "computes something else"),
    "ssb": (models.bert, {"method": "ssb"}, "no type of PEFT's"),
    "bitfit": (models.bert, {"method": "bitfit"}, "no type of PEFT's"),
    "composition": (models.bert, {"method": "ssb|lora", "r": 2}, "no type of PEFT's"),
    "two_methods": (models.bert, {"method": "oft", "b": 8, "method_pattern": {"value": "hira"}}, "no type of PEFT's"),
    "vera": (models.bert, {"method": "vera", "r": 20}, "cut_n and cut_m"),
    "oft": (models.bert, {"method": "oft", "b": 7}, "blocks of one size"),
    "dora": (models.bert, {"method": "dora", "r": 2, "init": "pissa"}, "takes its start off"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_type_equals_is_refused_by_its_name(name, tmp_path):
    make, values, said = REFUSED[name]
    trained(make, tmp_path, **values)
    with pytest.raises(BadInput, match=said) as caught:
        export(tmp_path / "ours", tmp_path / "theirs", "peft")
    assert "--to lora" in str(caught.value)
    assert "--to merged" in str(caught.value)
    assert not (tmp_path / "theirs").exists()


def test_ranks_are_not_chosen_where_nothing_is_lost(tmp_path):
    trained(models.bert, tmp_path, method="lora", r=2)
    with pytest.raises(BadInput, match="are for --to lora"):
        export(tmp_path / "ours", tmp_path / "theirs", "peft", Wanted(rank=1))


def test_a_head_goes_along(tmp_path):
    adapted = trained(models.bert, tmp_path, method="oft", b=8, task_type="SEQ_CLS")
    with torch.no_grad():
        for p in adapted.base_model.model.classifier.parameters():
            p.add_(1.0)
    adapted.save_pretrained(tmp_path / "ours")
    export(tmp_path / "ours", tmp_path / "theirs", "peft")
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "theirs"))
    key = "base_model.model.classifier.weight"
    assert torch.equal(ours[key], theirs[key])
