"""Adapters leave as plain LoRA or merged models, and a certificate says truly what was kept."""

import json
import subprocess
import sys

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import tiny
from cases import CASES, each
from models import ALL, SEQ2SEQ, batch, bert, gpt2, llama
from subspace_tuning import IA3, SSB, SSL, BitFit, FLoRA, LoRA, SubspaceConfig, TriLoRA
from subspace_tuning.cli import app
from subspace_tuning.convert.certificate import CERTIFICATE
from subspace_tuning.convert.change import Change, change
from subspace_tuning.convert.combine import combine
from subspace_tuning.convert.export import export
from subspace_tuning.convert.layers import seats
from subspace_tuning.convert.lora import Wanted, fit
from subspace_tuning.convert.probe import answers, differences, probe
from subspace_tuning.errors import BadInput
from subspace_tuning.testing.law import label, relative


@pytest.fixture
def made(tmp_path):
    """Makes a base model and an adapter with random values on it, on disk; returns the adapter's folder and model."""

    def make(config, model=bert, name="adapter"):
        base = tmp_path / "base"
        if not base.exists():
            model().save_pretrained(base)
        cls = type(model())
        torch.manual_seed(len(name))
        adapted = get_peft_model(cls.from_pretrained(base), config).eval()
        adapted.save_pretrained(tmp_path / name)
        return tmp_path / name, adapted

    return make


def config(method, **values):
    return SubspaceConfig(method=method, init_weights=False, **values)


LOW_RANK = [LoRA(r=2), LoRA(r=2, init="pissa"), LoRA(r=2, init="milora"), TriLoRA(r=3), FLoRA(r=3)]


@each(method=LOW_RANK)
def test_low_rank_methods_are_exported_exactly(method, made, tmp_path):
    folder, model = made(config(method, task_type="SEQ_CLS"))
    certificate = export(folder, tmp_path / "out")
    assert certificate.exact
    assert certificate.largest_error < 1e-6
    assert {layer.rank for layer in certificate.layers.values()} <= {2, 3, 4}
    again = PeftModel.from_pretrained(type(bert()).from_pretrained(tmp_path / "base"), tmp_path / "out").eval()
    inputs = batch()
    assert relative(again(**inputs).logits, model(**inputs).logits) < 1e-5
    assert certificate.logits.largest < 1e-4 * max(certificate.moved.largest, 1e-3)


@each(make=ALL)
def test_every_architecture(make, made, tmp_path):
    folder, model = made(config(LoRA(r=2), target_modules="all-linear"), make)
    export(folder, tmp_path / "out")
    again = PeftModel.from_pretrained(type(make()).from_pretrained(tmp_path / "base"), tmp_path / "out").eval()
    inputs = {k: v for k, v in batch(make).items() if k != "labels" or make in SEQ2SEQ}
    assert relative(again(**inputs).logits, model(**inputs).logits) < 1e-4


@pytest.mark.parametrize("case", [c for c in CASES if c.resolved.mergeable and c.method.sits_on == "weight"], ids=label)
def test_every_method_that_maps_the_weight(case, made, tmp_path):
    if case.resolved.calibration:
        pytest.skip("its parameters come from data; the others show the way out")
    folder, model = made(case.config(init_weights=False))
    certificate = export(folder, tmp_path / "out", wanted=Wanted(exact=True, max_error=1.0))
    lost = any(layer.bias == "lost" for layer in certificate.layers.values())
    assert certificate.exact != lost
    assert lost or certificate.largest_error < 1e-5
    again = PeftModel.from_pretrained(type(bert()).from_pretrained(tmp_path / "base"), tmp_path / "out").eval()
    inputs = batch()
    assert lost or relative(again(**inputs).logits, model(**inputs).logits) < 1e-3


def test_no_import_of_this_package_is_needed(made, tmp_path):
    folder, model = made(config(SSB() | LoRA(r=2), task_type="SEQ_CLS"))
    with torch.no_grad():
        model.base_model.model.classifier.modules_to_save["default"].weight.add_(1.0)
    model.save_pretrained(folder)
    export(folder, tmp_path / "out", wanted=Wanted(exact=True))
    script = """
import sys, torch
from peft import PeftModel
from transformers import BertForSequenceClassification
base = BertForSequenceClassification.from_pretrained(sys.argv[1])
model = PeftModel.from_pretrained(base, sys.argv[2]).eval()
torch.save(model(torch.arange(4, 12).reshape(2, 4)).logits.detach(), sys.argv[3])
assert not any(name.startswith("subspace_tuning") for name in sys.modules)
assert model.peft_config["default"].peft_type == "LORA"
"""
    logits = tmp_path / "logits.pt"
    command = [sys.executable, "-c", script, str(tmp_path / "base"), str(tmp_path / "out"), str(logits)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert relative(torch.load(logits), model(torch.arange(4, 12).reshape(2, 4)).logits) < 1e-5


def test_truncation_is_the_best_one_and_its_error_is_true(made, tmp_path):
    folder, model = made(config(SSB(), target_modules=["query", "dense"]))
    certificate = export(folder, tmp_path / "out", wanted=Wanted(rank=3, max_error=1.0))
    weights = load_file(tmp_path / "out" / "adapter_model.safetensors")
    for name, layer in seats(model).items():
        dW = layer.tuned(["default"]).E.dense().detach() - layer.frozen.dense()
        A, B = (weights[f"base_model.model.{name}.lora_{f}.weight"].T for f in "AB")
        S = torch.linalg.svdvals(dW.double())
        best = (S[3:].square().sum() / S.square().sum()).sqrt().item()
        assert certificate.layers[name].error == pytest.approx(relative(A @ B, dW), rel=1e-3)
        assert certificate.layers[name].error == pytest.approx(best, rel=1e-3)
        assert certificate.layers[name].rank == 3


@each(energy=[0.5, 0.9, 1.0])
def test_energy_gives_the_least_rank(energy, made, tmp_path):
    folder, model = made(config(SSB(), target_modules=["query"]))
    certificate = export(folder, tmp_path / "out", wanted=Wanted(energy=energy))
    for name, layer in certificate.layers.items():
        S = change(seats(model)[name], ["default"]).svd.S.square()
        share = S.cumsum(0) / S.sum()
        assert share[layer.rank - 1] >= energy - 1e-12
        assert layer.rank == 1 or energy == 1.0 or share[layer.rank - 2] < energy


def test_without_a_wish_the_error_stays_within_what_is_allowed(made, tmp_path):
    folder, _ = made(config(SSL()))
    certificate = export(folder, tmp_path / "out")
    assert 1e-4 < certificate.largest_error <= 0.01


def test_refuses_what_loses_too_much_and_writes_nothing(made, tmp_path):
    folder, _ = made(config(SSB()))
    with pytest.raises(BadInput, match=r"would lose more than 0.01 .* --max-error 0\.\d+"):
        export(folder, tmp_path / "out", wanted=Wanted(rank=1))
    assert not (tmp_path / "out").exists()
    assert export(folder, tmp_path / "out", wanted=Wanted(rank=1, max_error=1.0)).error > 0.1


def test_biases_cannot_be_expressed_in_lora(made, tmp_path):
    folder, model = made(config(LoRA(r=2) | BitFit(), target_modules=["query"]))
    with pytest.raises(BadInput, match="change a bias, which a LoRA cannot carry: use --to merged"):
        export(folder, tmp_path / "out")
    certificate = export(folder, tmp_path / "out", wanted=Wanted(max_error=1.0))
    assert {layer.bias for layer in certificate.layers.values()} == {"lost"}
    assert not certificate.exact
    layer = next(iter(seats(model).values()))
    db, whole = change(layer, ["default"]).db.norm(), change(layer, ["default"]).size()
    assert next(iter(certificate.layers.values())).error == pytest.approx((db / whole).item(), rel=1e-5)
    alone, _ = made(config(BitFit()), name="bitfit")
    with pytest.raises(BadInput, match="no weight matrix"):
        export(alone, tmp_path / "never", wanted=Wanted(max_error=1.0))


def test_what_is_no_map_of_the_weight_is_refused(made, tmp_path):
    folder, _ = made(config(LoRA(r=2), mpc="n"))
    for to in ("lora", "merged"):
        with pytest.raises(BadInput, match="not a map of the weight"):
            export(folder, tmp_path / "out", to)


@each(method=[LoRA(r=2), SSL(), IA3(), SSB(), BitFit(), SSB() | LoRA(r=2)])
def test_merged_models_are_plain(method, made, tmp_path):
    folder, model = made(config(method, task_type="SEQ_CLS"))
    certificate = export(folder, tmp_path / "out", "merged")
    again = type(bert()).from_pretrained(tmp_path / "out").eval()
    inputs = batch()
    assert relative(again(**inputs).logits, model(**inputs).logits) < 1e-5
    assert certificate.exact
    assert certificate.largest_error < 1e-5
    assert (tmp_path / "out" / "README.md").read_text().startswith("---\nlibrary_name: transformers")


def test_merging_keeps_the_precision_and_counts_its_rounding(made, tmp_path):
    folder, _ = made(config(LoRA(r=2)), lambda: bert().to(torch.bfloat16))
    certificate = export(folder, tmp_path / "out", "merged")
    assert all(t.dtype == torch.bfloat16 for t in load_file(tmp_path / "out" / "model.safetensors").values())
    assert certificate.largest_error > 1e-4
    with pytest.raises(BadInput, match="would lose more than 1e-05"):
        export(folder, tmp_path / "never", "merged", Wanted(max_error=1e-5))


def test_shards_stay_shards(made, tmp_path):
    bert().save_pretrained(tmp_path / "base", max_shard_size="8KB")
    folder, _ = made(config(LoRA(r=2)))
    export(folder, tmp_path / "out", "merged")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1


TIED = [(gpt2, ["wte", "c_attn"]), (gpt2, ["lm_head"]), (llama, ["embed_tokens"]), (llama, ["lm_head", "q_proj"])]


@each(to=["lora", "merged"])
@pytest.mark.parametrize(("make", "seats"), TIED)
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_an_embedding_that_shares_its_weight(to, make, seats, made, tmp_path):
    folder, _ = made(config(LoRA(r=2), target_modules=seats), make)
    certificate = export(folder, tmp_path / "out", to)
    assert certificate.logits.largest < 1e-4
    assert certificate.moved.mean > 1e-2


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_an_embedding_that_is_kept_along_is_the_bases_or_it_is_refused(made, tmp_path):
    folder, _ = made(config(LoRA(r=2), target_modules=["embed_tokens"]), llama)
    path = folder / "adapter_model.safetensors"
    held = load_file(path)
    (along,) = [key for key in held if "base_layer" in key]
    save_file(held | {along: held[along] + 1}, path)
    with pytest.raises(BadInput, match=r"trained beside another model\.embed_tokens\.weight"):
        export(folder, tmp_path / "out", "merged")
    assert not (tmp_path / "out").exists()


def test_the_certificate_is_written(made, tmp_path):
    folder, _ = made(config(LoRA(r=2)))
    certificate = export(folder, tmp_path / "out")
    data = json.loads((tmp_path / "out" / CERTIFICATE).read_text())
    assert data == json.loads(certificate.to_json())
    assert data["logits"]["largest"] <= 1e-6
    assert set(data["layers"]["bert.encoder.layer.0.attention.self.query"]) == {
        "shape",
        "rank",
        "exact",
        "error",
        "rounding",
        "bias",
        "norm",
        "codes",
    }


def test_a_change_in_thin_factors_and_as_numbers_is_the_same():
    L, R = torch.randn(9, 3).double(), torch.randn(3, 7).double()
    thin, full, db = Change((L, R)), Change(L @ R), torch.ones(7).double()
    A, B = torch.randn(9, 2), torch.randn(2, 7)
    assert thin.size() == pytest.approx(full.size())
    assert thin.missed_by(A, B) == pytest.approx(full.missed_by(A, B))
    assert len(thin.svd.S) == len(full.svd.S) == 3
    assert Change((L, R), db).size() == pytest.approx((full.size() ** 2 + 7) ** 0.5)
    assert torch.allclose((2.0 * thin + thin).dense(), 3 * full.dense())
    assert torch.allclose((2.0 * thin + full).dense(), 3 * full.dense())
    assert fit(thin, Wanted()).rank == 3
    assert fit(0.0 * thin, Wanted()).rank == 0


def test_rounding_is_no_loss(made, tmp_path):
    """A layer that training never reached: A B - A0 B0 is nothing but rounding."""
    tiny_change = Change(1e-9 * torch.randn(9, 7).double(), grain=1e-6)
    assert fit(tiny_change, Wanted(rank=1)).rounding
    assert not fit(1e6 * tiny_change, Wanted(rank=1)).rounding
    base = tmp_path / "base"
    bert().save_pretrained(base)
    model = get_peft_model(type(bert()).from_pretrained(base), SubspaceConfig(method=LoRA(r=2, init="pissa")))
    for parameter in model.parameters():
        parameter.data.mul_(1 + 1e-7)
    model.save_pretrained(tmp_path / "still")
    export(tmp_path / "still", tmp_path / "out")


def test_weighted_sums_of_families(made, tmp_path):
    a, first = made(config(LoRA(r=2), target_modules=["query"]), name="a")
    b, second = made(config(SSB(), target_modules=["query", "value"]), name="bb")
    certificate = combine([a, b], tmp_path / "out", weights=[0.5, -2.0], wanted=Wanted(exact=True))
    assert certificate.exact
    assert certificate.logits.largest < 1e-5
    weights = load_file(tmp_path / "out" / "adapter_model.safetensors")
    name = "bert.encoder.layer.0.attention.self.query"
    dWs = [
        model.base_model.model.get_submodule(name).tuned(["default"]).E.dense()
        - model.base_model.model.get_submodule(name).frozen.dense()
        for model in (first, second)
    ]
    A, B = (weights[f"base_model.model.{name}.lora_{f}.weight"].T for f in "AB")
    assert relative(A @ B, 0.5 * dWs[0] - 2.0 * dWs[1]) < 1e-5


@each(to=["lora", "merged"])
def test_compositions_apply_one_after_the_other(to, made, tmp_path):
    a, model = made(config(SSB()), name="a")
    b, _ = made(config(LoRA(r=2)), name="bb")
    certificate = combine([a, b], tmp_path / "out", to, how="compose", wanted=Wanted(exact=to == "lora"))
    model.load_adapter(str(b), adapter_name="b")
    model.base_model.set_adapter(["default", "b"])
    base = type(bert()).from_pretrained(tmp_path / ("base" if to == "lora" else "out"))
    again = PeftModel.from_pretrained(base, tmp_path / "out").eval() if to == "lora" else base.eval()
    inputs = probe(model)
    assert differences(answers(model, inputs), answers(again, inputs)).largest < 1e-4
    assert certificate.logits.largest < 1e-4
    assert len(certificate.methods) == 2


def test_combining_says_what_is_wrong(made, tmp_path):
    a, _ = made(config(SSB()))
    for arguments, told in [
        (([a], tmp_path / "out"), "two adapters or more"),
        (([a, a], tmp_path / "out", "lora", [1.0]), "got 1 for 2"),
        (([a, a], tmp_path / "out", "lora", None, "product"), "sum or compose"),
        (([a, a], tmp_path / "out", "gguf"), "lora or merged"),
        (([a, tmp_path / "none"], tmp_path / "out"), "there is no folder"),
        (([a, a], a), "exists already"),
    ]:
        with pytest.raises(BadInput, match=told):
            combine(*arguments)


@pytest.mark.parametrize(
    ("wish", "told"),
    [({"rank": 2, "energy": 0.5}, "exclude"), ({"energy": 2.0}, "share"), ({"max_error": -1.0}, ">= 0")],
)
def test_wishes_that_make_no_sense(wish, told):
    with pytest.raises(BadInput, match=told):
        Wanted(**wish)


def test_the_command_line(made, tmp_path):
    folder, _ = made(config(SSB()))
    run = CliRunner().invoke
    done = run(app, ["export", str(folder), str(tmp_path / "one"), "--energy", "0.9", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["asked"]["energy"] == 0.9
    done = run(app, ["export", str(folder), str(tmp_path / "two"), "--rank", "1"])
    assert done.exit_code == 2
    done = run(app, ["combine", str(folder), str(folder), "-o", str(tmp_path / "three"), "--weights", "1,2"])
    assert done.exit_code == 0, done.output
    assert "written to" in done.stdout
    done = run(app, ["combine", str(folder), str(folder), "-o", str(tmp_path / "four"), "--weights", "1,x"])
    assert done.exit_code == 2


def test_peft_adapters_and_texts_of_ones_own(tmp_path):
    """A LoRA that PEFT made, on a model with a tokenizer."""
    from peft import LoraConfig
    from transformers import AutoModel

    base = tiny.model(tmp_path / "base")
    peft = get_peft_model(
        AutoModel.from_pretrained(base), LoraConfig(r=3, target_modules=["query"], init_lora_weights=False)
    )
    peft.save_pretrained(tmp_path / "peft")
    certificate = export(tmp_path / "peft", tmp_path / "out", texts=["the film was good", "a dull story"])
    assert certificate.probe == "2 given texts"
    assert certificate.logits.largest < 1e-5
    assert {layer.rank for layer in certificate.layers.values()} == {3}
